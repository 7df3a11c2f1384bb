"""Clients that write and read registers through the real members, and remember what they saw."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.consensus_calls.client import ConsensusClient
from shared.contracts.access import BY_SYSTEM
from shared.contracts.files import Durability, FileContent
from shared.contracts.metadata import FileAnswer, GetFile, PublishFile
from shared.contracts.time import ClockState, Stamp
from shared.errors import TrivetError
from tests.simulation.linearizability import NEVER, Operation, is_linearizable

CLIENTS = 8
OPERATIONS_PER_KEY = 120
"""Then a new key begins: the search for a linear order grows with the length of one history."""


class Registers:
    """Every written value is unique: the etag of a published version."""

    def __init__(self, client: ConsensusClient, *, seed: int, prefix: str = "register") -> None:
        self.requester = BY_SYSTEM
        """Whom the writes are made for; the value that is written becomes the id of the request."""
        self._client = client
        self._prefix = prefix
        self._draw = random.Random(seed)
        self.seed = seed
        self.history: dict[str, list[Operation]] = defaultdict(list)
        self.counts: Counter[str] = Counter()
        self._incarnation = 0
        self._epoch = 0

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Keep the clients busy while the body runs."""
        answer, context = await self._client.read(GetFile(bucket="default", key="none"), deadline_s=20)
        assert isinstance(answer, FileAnswer)
        self._incarnation, self._epoch = answer.incarnation, context.epoch
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client_loop(stopping))
            try:
                yield
            finally:
                stopping.set()

    async def check(self) -> None:
        """Read every key once more, then judge: nothing acknowledged is lost, nothing read was stale."""
        for key in list(self.history):
            await self._read(key, deadline_s=30)
        wrong = [key for key, operations in self.history.items() if not is_linearizable(operations)]
        assert not wrong, f"seed {self.seed}: {wrong} not linearizable: {_sorted_lines(self.history[wrong[0]])}"
        assert self.counts["writes"] > 0, "nothing was written, so nothing was tested"

    async def _client_loop(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            key = f"{self._prefix}-{sum(self.counts.values()) // OPERATIONS_PER_KEY // 3}-{self._draw.randrange(3)}"
            if self._draw.random() < 0.5:
                await self._write(key)
            else:
                await self._read(key)
            await asyncio.sleep(self._draw.uniform(0.01, 0.06))

    async def _write(self, key: str) -> None:
        value = secrets.token_hex(16)
        operation = Operation(time.monotonic(), NEVER, is_write=True, value=value)
        self.history[key].append(operation)
        digest = secrets.token_bytes(32)
        try:
            await self._client.propose(
                PublishFile(
                    bucket="default",
                    incarnation=self._incarnation,
                    key=key,
                    content=FileContent(size_bytes=1, chunk_size_bytes=1, chunk_digests=digest, digest=digest.hex()),
                    content_type="text/plain",
                    etag=value,
                    start_index=1,
                    epoch=self._epoch,
                    durability=Durability(target=3, acknowledged=2, nodes=["storage-1"]),
                    stamp=Stamp(hlc=time.monotonic_ns() >> 8, state=ClockState.LOGICAL),
                ),
                requester=self.requester.model_copy(update={"request": value}),
            )
        except TrivetError as error:
            self.counts["refused"] += 1
            if error.definite:
                self.history[key].remove(operation)
        else:
            operation.returned_at = time.monotonic()
            self.counts["writes"] += 1

    async def _read(self, key: str, *, deadline_s: float | None = None) -> None:
        called_at = time.monotonic()
        try:
            answer, _ = await self._client.read(GetFile(bucket="default", key=key), deadline_s=deadline_s)
        except TrivetError:
            self.counts["refused"] += 1
            if deadline_s is not None:
                raise
            return
        assert isinstance(answer, FileAnswer)
        value = None if answer.file is None else answer.file.etag
        self.history[key].append(Operation(called_at, time.monotonic(), is_write=False, value=value))
        self.counts["reads"] += 1


def _sorted_lines(operations: list[Operation]) -> str:
    return "\n".join(map(str, sorted(operations, key=lambda operation: operation.called_at)))
