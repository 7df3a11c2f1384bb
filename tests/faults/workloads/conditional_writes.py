"""Several clients who each replace what they have read, only if it is still there: compare and set by ETag."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine, Sequence
from typing import Any

from tests.faults.checkers.conditional import is_conditional_history_linearizable
from tests.faults.checkers.history import Act, Operation, Outcome, explain
from tests.faults.harness.client import Client, Reply

KEYS = 3
OPERATIONS_PER_KEY = 80
"""Then a new key begins: the search for an order grows with the length of one history."""


class ConditionalWrites:
    """`If-None-Match: *` where nothing was read, `If-Match` otherwise."""

    name = "conditional writes"

    def __init__(self, client: Client, seed: int, *, clients: int = 3, pause_s: float = 0.08) -> None:
        self._client = client
        self._seed = seed
        self._clients = clients
        self._pause_s = pause_s
        self._numbers = iter(range(1 << 62))
        self.history: dict[str, list[Operation]] = defaultdict(list)
        self.counts: Counter[str] = Counter()

    def loops(self, stopping: asyncio.Event) -> Sequence[Coroutine[Any, Any, None]]:
        """One coroutine per client."""
        return [self._loop(number, stopping) for number in range(self._clients)]

    async def _loop(self, number: int, stopping: asyncio.Event) -> None:
        draw = random.Random(f"{self._seed} conditional {number}")
        known: dict[str, tuple[str | None, str | None]] = {}
        turn = number
        while not stopping.is_set():
            turn += 1
            gateway = self._client.gateways[turn % len(self._client.gateways)]
            key = f"conditional-{sum(self.counts.values()) // (OPERATIONS_PER_KEY * KEYS)}-{draw.randrange(KEYS)}"
            if key not in known or draw.random() < 0.3:
                seen = await self._read(gateway, key)
                if seen is not None:
                    known[key] = seen
            else:
                changed = await self._change(gateway, key, *known[key])
                if changed is None:
                    del known[key]
                else:
                    known[key] = changed
            await asyncio.sleep(draw.uniform(0, 2 * self._pause_s))

    async def _read(self, gateway: str, key: str) -> tuple[str | None, str | None] | None:
        reply = await self._client.call(gateway, "GET", key)
        self.counts["reads"] += 1
        if reply.status not in {200, 404} or reply.version is None:
            return None
        value = reply.body.decode() if reply.status == 200 else None
        self.history[key].append(
            Operation(Act.READ, key, value, reply.called, reply.returned, Outcome.OK, reply.version, where=str(reply))
        )
        return value, reply.etag

    async def _change(
        self, gateway: str, key: str, expected: str | None, etag: str | None
    ) -> tuple[str | None, str | None] | None:
        value = f"{self._seed % (1 << 24):06x}-{next(self._numbers):09d}"
        headers = {"if-none-match": "*"} if etag is None else {"if-match": f'"{etag}"'}
        operation = Operation(Act.WRITE, key, value, float(time.monotonic_ns()), expected=expected, is_conditional=True)
        self.history[key].append(operation)
        reply = await self._client.call(gateway, "PUT", key, body=value.encode(), headers=headers)
        self._settle(operation, reply)
        self.counts["writes"] += 1
        return (value, str(json.loads(reply.body)["etag"])) if reply.outcome == Outcome.OK else None

    def _settle(self, operation: Operation, reply: Reply) -> None:
        operation.where = str(reply)
        operation.outcome = reply.outcome
        if reply.outcome == Outcome.UNKNOWN:
            return
        operation.returned, operation.version = reply.returned, reply.version
        if reply.outcome == Outcome.FAILED and reply.status != 412:
            # It certainly did not happen, and says nothing about the condition.
            operation.is_conditional = False

    async def read_everything(self) -> None:
        """Every key at every gateway, into the history."""
        for key in sorted(self.history):
            for gateway in self._client.gateways:
                await self._read(gateway, key)

    def violations(self) -> list[str]:
        """Of everything so far."""
        return [
            f"{key}: no order explains the answers\n{explain(operations)}"
            for key, operations in self.history.items()
            if not is_conditional_history_linearizable(operations)
        ]
