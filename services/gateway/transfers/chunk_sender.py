"""Sends the chunks of one attempt to have a list of chunks logged: of a whole file, or of a part of one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from services.gateway.ports import FileChunk, LeasedChunk
from services.gateway.replicas.quorum import Quorums, WriteTally
from services.gateway.replicas.writer import ChunkWrite, ReplicaWriter
from services.gateway.settings import FIRST_RESERVATION_BYTES
from shared.contracts.cluster import NodeMap
from shared.contracts.names import DIGEST_BYTES
from shared.placement import can_take_chunks, write_order


@dataclass(frozen=True, slots=True)
class Start:
    """Where in the log an attempt begins: the incarnation of its bucket, an index that was applied, the node map then.

    `is_remembered`: from a read before this attempt. Otherwise the attempt read it itself.
    """

    incarnation: int
    log_index: int
    node_map: NodeMap
    is_remembered: bool = False


def usable_nodes(node_map: NodeMap) -> int:
    """How many nodes take chunks."""
    return sum(can_take_chunks(node) for node in node_map.nodes)


class ChunkSender:
    """The chunks of one attempt. Equal chunks are sent once.

    Invariant: at most `window` chunks are being sent without having met their quorum.
    Invariant: `writes` are those of this attempt.
    """

    def __init__(self, writer: ReplicaWriter, start: Start, quorums: Quorums, window: int) -> None:
        self._writer = writer
        self._quorums = quorums
        self._window = window
        self._pending: deque[ChunkWrite] = deque()
        self.start = start
        self.began_s = time.monotonic()
        self.writes: dict[str, ChunkWrite] = {}
        self.chunk_digests = bytearray()
        self.size_bytes = 0
        self.kept: FileChunk | None = None
        """The whole file, if the attempt may be stale and it is so small that its request has room for it."""

    @property
    def chunk_count(self) -> int:
        """Chunks that were added, equal ones too."""
        return len(self.chunk_digests) // DIGEST_BYTES

    @property
    def tallies(self) -> list[WriteTally]:
        """Who acknowledged each chunk of this attempt."""
        return [write.tally for write in self.writes.values()]

    async def add(self, held: LeasedChunk, *, is_whole_file: bool = False) -> None:
        """Send it, after waiting for room in the window. Raises when an earlier chunk missed its quorum."""
        chunk = held.chunk
        self.chunk_digests += bytes.fromhex(chunk.digest)
        self.size_bytes += len(chunk.data)
        if is_whole_file and self.start.is_remembered and len(chunk.data) <= FIRST_RESERVATION_BYTES:
            self.kept = chunk
        if chunk.digest not in self.writes:
            await self.send(held)

    async def send(self, held: LeasedChunk) -> None:
        """Send a chunk that is in the list already. Raises as `add`."""
        while len(self._pending) >= self._window:
            await self._pending[0].wait_until_quorum()
            self._pending.popleft()
        digest = held.chunk.digest
        order = write_order(digest, self.start.node_map)
        write = await self._writer.start(held, order, self._quorums, self.start.log_index)
        self.writes[digest] = write
        self._pending.append(write)

    def begin_anew(self, start: Start) -> Self:
        """A sender of the same chunks that has sent nothing yet."""
        again = self.begin_next(start)
        again.chunk_digests, again.size_bytes = self.chunk_digests, self.size_bytes
        return again

    def begin_next(self, start: Start) -> Self:
        """A sender of other chunks."""
        return type(self)(self._writer, start, self._quorums, self._window)

    def distinct_chunks(self, chunk_size_bytes: int) -> Iterator[tuple[str, int]]:
        """Digest and size in bytes of every chunk of the list, each once."""
        seen: set[str] = set()
        for start in range(0, len(self.chunk_digests), DIGEST_BYTES):
            digest = self.chunk_digests[start : start + DIGEST_BYTES].hex()
            if digest not in seen:
                seen.add(digest)
                at_bytes = start // DIGEST_BYTES * chunk_size_bytes
                yield digest, min(chunk_size_bytes, self.size_bytes - at_bytes)

    async def finish(self) -> None:
        """Wait until every chunk has met its write quorum."""
        while self._pending:
            await self._pending[0].wait_until_quorum()
            self._pending.popleft()

    def abandon(self) -> None:
        """Stop sending the chunks that have not met their quorum."""
        for write in self._pending:
            write.abandon()
