"""Where a download's chunks come from: the cache, else the storage nodes, or a fetch that began before the version was known."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from services.gateway.replicas.attempts import abandon
from services.gateway.replicas.reader import FetchedChunk, ReplicaReader
from services.gateway.transfers.chunk_cache import MAX_CHUNK_BYTES, ChunkCache
from services.gateway.transfers.chunk_lists import ChunkSlice
from shared.byte_budget import ByteLease
from shared.contracts.cluster import NodeMap
from shared.errors import TrivetError
from shared.placement import read_order


class DownloadSource:
    """The cache, else the storage nodes; what these send goes into the cache once it is verified."""

    def __init__(self, reader: ReplicaReader, cache: ChunkCache) -> None:
        self._reader = reader
        self._cache = cache

    def has(self, chunk: ChunkSlice) -> bool:
        """Whether the chunk is here."""
        return chunk.digest in self._cache

    def find(self, chunk: ChunkSlice) -> FetchedChunk | None:
        """The chunk, if it is here."""
        data = self._cache.get(chunk.digest) if chunk.size_bytes <= MAX_CHUNK_BYTES else None
        return None if data is None else FetchedChunk(data, None, ())

    async def fetch(self, chunk: ChunkSlice, node_map: NodeMap) -> FetchedChunk | TrivetError:
        """The chunk from a storage node. An error is a value: it belongs to its place in the file, not to a group of tasks."""
        try:
            fetched = await self._reader.fetch(chunk.digest, chunk.size_bytes, read_order(chunk.digest, node_map))
        except TrivetError as error:
            return error
        self._cache.put(chunk.digest, fetched.data)
        return fetched


@dataclass(slots=True)
class EarlyFetch:
    """A chunk being fetched on the word of a record that is not known to be current. `lease` covers it until it is taken."""

    digest: str
    node_map: NodeMap
    lease: ByteLease
    task: asyncio.Future[FetchedChunk | TrivetError]
    is_taken: bool = False

    def take(self, chunk: ChunkSlice, node_map: NodeMap) -> asyncio.Future[FetchedChunk | TrivetError] | None:
        """The fetch, once, if it is of `chunk`, in the order of the node map in force; another lease covers it from here on."""
        if self.is_taken or chunk.digest != self.digest or node_map is not self.node_map:
            return None
        self.is_taken = True
        self.lease.release()
        return self.task

    async def end(self) -> None:
        """Stop fetching; give the budget back."""
        if not self.task.done():
            await abandon([self.task])
        self.lease.release()
