"""Members of a set are files below one prefix; lists of it, page by page, are what is judged."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any

from tests.faults.checkers.history import Act, Operation, Outcome
from tests.faults.checkers.sets import Listing, set_violations
from tests.faults.harness.client import Client

PREFIX = "set/"
PAGE = 40
CHANGES_PER_SET = 300
"""Then a new set begins: its lists stay a few pages long."""


class Sets:
    """Adds, some removals, and lists in several pages."""

    name = "sets"

    def __init__(self, client: Client, seed: int, *, clients: int = 2, pause_s: float = 0.08) -> None:
        self._client = client
        self._seed = seed
        self._clients = clients
        self._pause_s = pause_s
        self._numbers = iter(range(1 << 62))
        self.changes: dict[str, list[Operation]] = {}
        self.listings: dict[str, list[Listing]] = {}
        self.counts: Counter[str] = Counter()

    def loops(self, stopping: asyncio.Event) -> Sequence[Coroutine[Any, Any, None]]:
        """One coroutine per client."""
        return [self._loop(number, stopping) for number in range(self._clients)]

    async def _loop(self, number: int, stopping: asyncio.Event) -> None:
        draw = random.Random(f"{self._seed} sets {number}")
        mine: list[str] = []
        turn = number
        while not stopping.is_set():
            turn += 1
            gateway = self._client.gateways[turn % len(self._client.gateways)]
            prefix = f"{PREFIX}{self.counts['changes'] // CHANGES_PER_SET}/"
            chance = draw.random()
            if chance < 0.2:
                await self._list(gateway, prefix)
            elif chance < 0.35 and mine:
                await self._change(gateway, Act.DELETE, mine.pop(draw.randrange(len(mine))))
            else:
                key = f"{prefix}{next(self._numbers):06d}"
                if await self._change(gateway, Act.WRITE, key):
                    mine.append(key)
            await asyncio.sleep(draw.uniform(0, 2 * self._pause_s))

    async def _change(self, gateway: str, act: Act, key: str) -> bool:
        operation = Operation(act, key, key, float(time.monotonic_ns()))
        self.changes.setdefault(key.rpartition("/")[0] + "/", []).append(operation)
        is_write = act == Act.WRITE
        reply = await self._client.call(
            gateway, "PUT" if is_write else "DELETE", key, body=key.encode() if is_write else None
        )
        self.counts["changes"] += 1
        operation.where = str(reply)
        operation.outcome = reply.outcome
        if reply.outcome == Outcome.OK:
            operation.returned = reply.returned
        return reply.outcome == Outcome.OK

    async def _list(self, gateway: str, prefix: str) -> bool:
        called, members, cursor = time.monotonic_ns(), set[str](), ""
        while True:
            query = f"?prefix={prefix}&limit={PAGE}" + (f"&cursor={cursor}" if cursor else "")
            reply = await self._client.call(gateway, "GET", query=query)
            if reply.status != 200:
                return False
            page = json.loads(reply.body)
            members |= {row["key"] for row in page["files"]}
            if not (cursor := page["cursor"] or ""):
                break
        # A cursor's pages are of one log index, so the instant lies before the first page's answer; the last is later.
        self.listings.setdefault(prefix, []).append(Listing(frozenset(members), called, reply.returned))
        self.counts["lists"] += 1
        return True

    async def read_everything(self) -> None:
        """Every set at every gateway."""
        for prefix in sorted(self.changes):
            for gateway in self._client.gateways:
                if not await self._list(gateway, prefix):
                    self.listings.setdefault(prefix, []).append(
                        Listing(frozenset(), time.monotonic_ns(), time.monotonic_ns())
                    )

    def violations(self) -> list[str]:
        """Of everything so far."""
        return [
            wrong
            for prefix, changes in self.changes.items()
            for wrong in set_violations(changes, self.listings.get(prefix, []))
        ]
