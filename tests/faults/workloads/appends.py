"""Clients append items to one list by replacing the file that holds it, if it is still the one they read."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine, Sequence
from typing import Any

from tests.faults.checkers.appends import Reading, append_violations
from tests.faults.checkers.history import Act, Operation, Outcome
from tests.faults.harness.client import Client

ITEMS_PER_LIST = 150


class Appends:
    """Each append carries an Idempotency-Key and is sent again when its outcome is unknown: it must not happen twice."""

    name = "appends"

    def __init__(self, client: Client, seed: int, *, clients: int = 2, pause_s: float = 0.08) -> None:
        self._client = client
        self._seed = seed
        self._clients = clients
        self._pause_s = pause_s
        self._numbers = iter(range(1 << 62))
        self.appends: dict[str, list[Operation]] = defaultdict(list)
        self.readings: dict[str, list[Reading]] = defaultdict(list)
        self.counts: Counter[str] = Counter()

    def loops(self, stopping: asyncio.Event) -> Sequence[Coroutine[Any, Any, None]]:
        """One coroutine per client."""
        return [self._loop(number, stopping) for number in range(self._clients)]

    async def _loop(self, number: int, stopping: asyncio.Event) -> None:
        draw = random.Random(f"{self._seed} appends {number}")
        turn = number
        while not stopping.is_set():
            turn += 1
            gateway = self._client.gateways[turn % len(self._client.gateways)]
            key = f"list-{self.counts['appended'] // ITEMS_PER_LIST}"
            seen = await self._read(gateway, key)
            if seen is not None:
                await self._append(draw, key, *seen)
            await asyncio.sleep(draw.uniform(0, 2 * self._pause_s))

    async def _read(self, gateway: str, key: str) -> tuple[list[str], str | None] | None:
        reply = await self._client.call(gateway, "GET", key)
        if reply.status not in {200, 404} or reply.version is None:
            return None
        items = json.loads(reply.body) if reply.status == 200 else []
        self.readings[key].append(Reading(tuple(items), reply.called, reply.returned))
        self.counts["reads"] += 1
        return items, reply.etag

    async def _append(self, draw: random.Random, key: str, items: list[str], etag: str | None) -> None:
        item = f"{next(self._numbers)}"
        headers = {"if-none-match": "*"} if etag is None else {"if-match": f'"{etag}"'}
        headers["idempotency-key"] = f"append-{self._seed}-{item}"
        operation = Operation(Act.WRITE, key, item, float(time.monotonic_ns()))
        self.appends[key].append(operation)
        body = json.dumps([*items, item]).encode()
        may_have_happened = False
        for _ in range(3):
            gateway = draw.choice(self._client.gateways)
            reply = await self._client.call(gateway, "PUT", key, body=body, headers=headers)
            operation.where = str(reply)
            if reply.outcome == Outcome.OK:
                operation.outcome, operation.returned = Outcome.OK, reply.returned
                self.counts["appended"] += 1
                return
            if reply.outcome == Outcome.FAILED:
                break
            may_have_happened = True
        # A refusal in the log is the request's outcome under this key, whatever was tried before; others are not.
        if not may_have_happened:
            operation.outcome = Outcome.FAILED

    async def read_everything(self) -> None:
        """Every list at every gateway."""
        for key in sorted(self.appends):
            for gateway in self._client.gateways:
                await self._read(gateway, key)

    def violations(self) -> list[str]:
        """Of everything so far."""
        return [
            f"{key}: {wrong}"
            for key, appends in self.appends.items()
            for wrong in append_violations(appends, self.readings[key])
        ]
