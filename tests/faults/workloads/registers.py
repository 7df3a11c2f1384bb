"""Whole files written, read and deleted by several clients at two gateways in turn; each value is unique and fills its body.

Some writes carry an Idempotency-Key and are sent again, at the other gateway too, whatever became of them the first time: they
must have happened once.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine, Sequence
from typing import Any

from tests.faults.checkers.durability import FinalRead, durability_violations, torn_body
from tests.faults.checkers.history import NEVER, Act, Operation, Outcome, explain
from tests.faults.checkers.registers import register_violations
from tests.faults.harness.client import Client, Reply

KEYS = 6
OPERATIONS_PER_KEY = 400
SIZES_BYTES = (1024,) * 30 + (100 * 1024,) * 6 + (1024 * 1024 - 1,) * 3 + (5 * 1024 * 1024,)
UNIT_BYTES = 16
TRIES_UNDER_ONE_KEY = 3


class Registers:
    """`pause_s` is how long each of the clients rests between two operations."""

    name = "registers"

    def __init__(
        self,
        client: Client,
        seed: int,
        *,
        clients: int = 4,
        pause_s: float = 0.05,
        sizes_bytes: tuple[int, ...] = SIZES_BYTES,
    ) -> None:
        self._client = client
        self._seed = seed
        self._clients = clients
        self._pause_s = pause_s
        self._sizes_bytes = sizes_bytes
        self._numbers = iter(range(1 << 62))
        self.history: dict[str, list[Operation]] = defaultdict(list)
        self.sizes: dict[str, int] = {}
        self.etags: dict[str, str] = {}
        self.wrong: list[str] = []
        self.final_reads: list[FinalRead] = []
        self.counts: Counter[str] = Counter()
        self.acknowledged: list[int] = []
        """On how many replicas each acknowledged write was, as its receipt says."""

    def loops(self, stopping: asyncio.Event) -> Sequence[Coroutine[Any, Any, None]]:
        """One coroutine per client."""
        return [self._loop(number, stopping) for number in range(self._clients)]

    async def _loop(self, number: int, stopping: asyncio.Event) -> None:
        draw = random.Random(f"{self._seed} registers {number}")
        turn = number
        while not stopping.is_set():
            turn += 1
            gateway = self._client.gateways[turn % len(self._client.gateways)]
            key = self._key(draw)
            chance = draw.random()
            if chance < 0.45:
                await self.read(gateway, key)
            elif chance < 0.80:
                await self.write(gateway, key, draw.choice(self._sizes_bytes))
            elif chance < 0.90:
                await self.write_once(draw, key, draw.choice(self._sizes_bytes))
            else:
                await self.delete(gateway, key)
            await asyncio.sleep(draw.uniform(0, 2 * self._pause_s))

    def _key(self, draw: random.Random) -> str:
        epoch = sum(self.counts.values()) // (OPERATIONS_PER_KEY * KEYS)
        return f"register-{epoch}-{draw.randrange(KEYS)}"

    async def write(self, gateway: str, key: str, size_bytes: int) -> Reply:
        """A new value."""
        operation, body = self._begin_write(key, size_bytes)
        reply = await self._client.call(gateway, "PUT", key, body=body)
        self._settle_write(operation, reply)
        return reply

    async def write_once(self, draw: random.Random, key: str, size_bytes: int) -> None:
        """A new value under an Idempotency-Key, sent until it is done and then once more."""
        operation, body = self._begin_write(key, size_bytes)
        headers = {"idempotency-key": f"once-{operation.value}"}
        first: Reply | None = None
        may_have_happened = False
        for _ in range(TRIES_UNDER_ONE_KEY):
            gateway = draw.choice(self._client.gateways)
            reply = await self._client.call(gateway, "PUT", key, body=body, headers=headers)
            may_have_happened |= reply.outcome == Outcome.UNKNOWN
            if reply.outcome == Outcome.OK:
                if first is not None and (reply.version, reply.body) != (first.version, first.body):
                    self.wrong.append(f"one Idempotency-Key, two receipts: {first.body!r} and {reply.body!r}")
                    break
                if first is not None:
                    self.counts["repeated under one key"] += 1
                    break
                first = reply
                self._settle_write(operation, reply)
            elif reply.status == 422:
                self.wrong.append(f"the same request under one Idempotency-Key was refused: {reply.problem}")
                break
        if first is None and not may_have_happened:
            operation.outcome = Outcome.FAILED

    async def read(self, gateway: str, key: str) -> Reply:
        """Read the file; its bytes say which value it is."""
        reply = await self._client.call(gateway, "GET", key)
        self.counts["reads"] += 1
        if reply.status == 404 and reply.problem.get("code") == "file_not_found":
            self._seen(key, None, reply)
        elif reply.status == 200:
            value = reply.body[:UNIT_BYTES].decode(errors="replace")
            torn = torn_body(reply.body, self.sizes.get(value, -1), UNIT_BYTES)
            if torn is not None:
                self.wrong.append(f"{key} at {reply.gateway}, version {reply.version}: {torn}")
            self._seen(key, value, reply)
        return reply

    async def delete(self, gateway: str, key: str) -> Reply:
        """Delete the file. A 404 is a read of nothing."""
        operation = Operation(Act.DELETE, key, None, 0)
        self.history[key].append(operation)
        reply = await self._client.call(gateway, "DELETE", key)
        operation.called = reply.called
        operation.where = str(reply)
        self.counts["deletes"] += 1
        operation.outcome = reply.outcome
        if reply.status == 404 and reply.problem.get("code") == "file_not_found":
            operation.act, operation.outcome = Act.READ, Outcome.OK
        if operation.outcome == Outcome.OK:
            operation.returned, operation.version = reply.returned, reply.version
        return reply

    async def read_everything(self) -> None:
        """Every key at every gateway, into the history too; nobody writes any more."""
        for key in sorted(self.history):
            for gateway in self._client.gateways:
                reply = await self.read(gateway, key)
                is_read = reply.status == 200 or (reply.status == 404 and reply.version is not None)
                value = reply.body[:UNIT_BYTES].decode(errors="replace") if reply.status == 200 else None
                problem = None if is_read else f"{reply} {reply.problem}"
                self.final_reads.append(FinalRead(gateway, key, value, reply.etag, problem))

    def violations(self) -> list[str]:
        """Of everything so far; durability only after `read_everything`."""
        found = list(self.wrong)
        for key, operations in self.history.items():
            if wrong := register_violations(operations):
                found.append(f"{key}:\n" + "\n".join(wrong[:5]) + "\n" + explain(operations))
        if self.final_reads:
            found += durability_violations(self.history, self._client.gateways, self.final_reads, self.etags)
        return found

    def _begin_write(self, key: str, size_bytes: int) -> tuple[Operation, bytes]:
        value = f"{self._seed % (1 << 24):06x}-{next(self._numbers):09d}"
        assert len(value) == UNIT_BYTES
        self.sizes[value] = size_bytes
        body = (value.encode() * (size_bytes // UNIT_BYTES + 1))[:size_bytes]
        operation = Operation(Act.WRITE, key, value, 0, NEVER)
        operation.called = float(time.monotonic_ns())
        self.history[key].append(operation)
        return operation, body

    def _settle_write(self, operation: Operation, reply: Reply) -> None:
        operation.where = str(reply)
        operation.outcome = reply.outcome
        self.counts["writes"] += 1
        if reply.outcome == Outcome.OK:
            receipt = _receipt(reply)
            operation.returned, operation.version = reply.returned, reply.version
            self.etags[str(operation.value)] = receipt["etag"]
            self.acknowledged.append(receipt["durability"]["acknowledged"])

    def _seen(self, key: str, value: str | None, reply: Reply) -> None:
        self.history[key].append(
            Operation(Act.READ, key, value, reply.called, reply.returned, Outcome.OK, reply.version, where=str(reply))
        )


def _receipt(reply: Reply) -> dict[str, Any]:
    receipt: dict[str, Any] = json.loads(reply.body)
    return receipt
