"""Clients of one storage node that put, read and delete chunks, and remember everything that they were promised."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import ChunkNotFoundError, TrivetError
from tests.integration.storage.support import ChunkClient, StorageProcess, digest_of

SIZES_BYTES = (20, 1000, 4096, 30_000, 100_000, 300_000)
"""Packed ones and ones with a file of their own; none so short that two bodies could be equal."""

_WORKERS = 6
_HAS_PAGE = 1000


class ChunkLoad:
    """What was acknowledged over all lives of the node.

    Attributes:
        held: digests whose put was acknowledged and whose delete was never asked for.
        deleted: digests whose delete was acknowledged.
        refusals: errors; a disk that answers EIO to reads may well call a chunk corrupt, which is no wrong byte.
        wrong: what must never be: reads that gave other bytes, or that found an acknowledged chunk gone.
    """

    def __init__(self, seed: int, *, deleted_share: float = 0.2) -> None:
        self._draw = random.Random(seed)
        self._deleted_share = deleted_share
        self.held: dict[str, int] = {}
        self.deleted: set[str] = set()
        self.refusals: list[TrivetError] = []
        self.wrong: list[str] = []
        self._fresh: set[str] = set()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def running(self, node: StorageProcess) -> AsyncIterator[None]:
        """Keep the clients busy while the body runs."""
        stopping = asyncio.Event()
        client = ChunkClient(node)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_WORKERS):
                    group.create_task(self._work(client, stopping))
                try:
                    yield
                finally:
                    stopping.set()
        finally:
            await client.peers.aclose()

    async def wait_for_more(self, count: int, timeout_s: float = 60) -> None:
        """Until `count` more puts were acknowledged."""
        goal = len(self.held) + len(self.deleted) + count
        async with asyncio.timeout(timeout_s):
            while len(self.held) + len(self.deleted) < goal:
                self._changed.clear()
                await self._changed.wait()

    async def check(self, node: StorageProcess, *, sample: int | None = None) -> None:
        """Every chunk that was ever acknowledged is claimed; what is new, and a sample of the rest, is read and right."""
        client = ChunkClient(node)
        try:
            digests = list(self.held)
            assert digests, "nothing was acknowledged, so nothing was tested"
            present = await self._present(client, digests)
            missing = [digest for digest in digests if digest not in present]
            facts = [(digest, self.held[digest], digest in self._fresh) for digest in missing]
            assert not missing, (
                f"{len(missing)} acknowledged chunks are gone (digest, size, new): {facts[:3]}, see {node.log}"
            )
            old = [digest for digest in digests if digest not in self._fresh]
            chosen = old if sample is None else self._draw.sample(old, min(sample, len(old)))
            for digest in [*self._fresh, *chosen]:
                assert digest_of(await client.get(digest)) == digest, f"wrong bytes for {digest}"
            self._fresh.clear()
            assert not self.wrong, self.wrong[:3]
        finally:
            await client.peers.aclose()

    async def check_deleted(self, node: StorageProcess) -> None:
        """What was acknowledged as deleted is not claimed."""
        client = ChunkClient(node)
        try:
            back = await self._present(client, list(self.deleted))
            assert not back, f"{len(back)} of {len(self.deleted)} deleted chunks are back"
        finally:
            await client.peers.aclose()

    async def _present(self, client: ChunkClient, digests: list[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(digests), _HAS_PAGE):
            found.update(await client.has(digests[start : start + _HAS_PAGE]))
        return found

    async def _work(self, client: ChunkClient, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                await self._step(client)
            except TrivetError as error:
                self.refusals.append(error)
                await asyncio.sleep(0.002)

    async def _step(self, client: ChunkClient) -> None:
        body = self._draw.randbytes(self._draw.choice(SIZES_BYTES))
        digest = digest_of(body)
        await client.put(body)
        self.held[digest] = len(body)
        self._fresh.add(digest)
        self._changed.set()
        chosen = self._draw.choice(list(self._fresh))
        if self._draw.random() < self._deleted_share:
            await self._delete(client, chosen)
        else:
            await self._read(client, chosen)

    async def _delete(self, client: ChunkClient, digest: str) -> None:
        # Forgotten before it is asked for: when the answer is lost, nothing is known.
        if self.held.pop(digest, None) is None:
            return
        self._fresh.discard(digest)
        await client.delete(digest)
        self.deleted.add(digest)

    async def _read(self, client: ChunkClient, digest: str) -> None:
        try:
            body = await client.get(digest)
        except ChunkNotFoundError:
            if digest in self.held:
                self.wrong.append(f"{digest} was acknowledged and is not found")
        else:
            if digest_of(body) != digest:
                self.wrong.append(f"{digest} has other bytes")
