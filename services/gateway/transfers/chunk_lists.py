"""The chunks of a file that is being read, without ever writing them down as a list.

A file of 30 GB has 30,000 chunks: 1 MiB as digests, 20 MiB as objects. So a chunk is computed when it is wanted, and the
digests are held once per version, whatever the number of its readers, and in the byte budget where they are many. The list of
a file of terabytes is never held as a whole: a `ChunkMap` has the part of it at hand where its reader is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, Self

from services.gateway.semantics.byte_ranges import ByteSpan
from services.gateway.transfers.admission import Transfer
from shared.byte_budget import ByteLease
from shared.contracts.files import FileContent, FileVersion
from shared.contracts.names import DIGEST_BYTES
from shared.errors import InternalError
from shared.units import KIB

UNCOUNTED_BYTES: Final = 16 * KIB
"""Digests of 512 chunks: what a request costs anyway."""


@dataclass(frozen=True, slots=True)
class ChunkSlice:
    """Bytes `start` to `stop` of one chunk."""

    digest: str
    size_bytes: int
    start: int
    stop: int


class Extent(NamedTuple):
    """Bytes `start` to `stop` of a file, and the chunks that have them: the first byte is `skip_bytes` into the first one.

    Every chunk has `chunk_size_bytes` but the last, which has `last_chunk_bytes`.
    """

    start: int
    stop: int
    skip_bytes: int
    chunk_size_bytes: int
    chunk_digests: bytes
    last_chunk_bytes: int

    def slice_at(self, offset: int, stop: int) -> ChunkSlice:
        """The chunk with byte `offset` of the file, and its bytes from there, up to byte `stop` of the file at most."""
        within = offset - self.start + self.skip_bytes
        first = within // self.chunk_size_bytes * DIGEST_BYTES
        digest = self.chunk_digests[first : first + DIGEST_BYTES]
        is_last = first + DIGEST_BYTES >= len(self.chunk_digests)
        size_bytes = self.last_chunk_bytes if is_last else self.chunk_size_bytes
        begin = within % self.chunk_size_bytes
        end = min(size_bytes, begin + min(self.stop, stop) - offset)
        if begin >= end or not digest:
            raise InternalError("The chunks of a file are not as long as the file.")
        return ChunkSlice(digest.hex(), size_bytes, begin, end)


class ChunkMap(Protocol):
    """Which chunks have the bytes of one version."""

    def at_hand(self, offset: int, stop: int) -> Extent | None:
        """The extent with byte `offset`, unless it has to be loaded first. The reader goes on up to `stop`."""

    async def load(self, offset: int, stop: int) -> None:
        """Have the extent with byte `offset` at hand.

        Raises:
            VersionGoneError: the version and its chunks are no longer kept.
            TrivetError: as a metadata read.
        """


class InlineChunks(ChunkMap):
    """Of a version whose record has all of its digests."""

    __slots__ = ("_extent",)

    def __init__(self, content: FileContent) -> None:
        size_bytes, full = content.size_bytes, content.chunk_size_bytes
        last_chunk_bytes = (size_bytes - 1) % full + 1
        self._extent = Extent(0, size_bytes, 0, full, content.chunk_digests, last_chunk_bytes)

    def at_hand(self, offset: int, stop: int) -> Extent:  # noqa: ARG002 there is one
        """See `ChunkMap`."""
        return self._extent

    async def load(self, offset: int, stop: int) -> None:
        """See `ChunkMap`."""


class SliceCursor:
    """A place in the chunks that each of `spans` touches, in order; no slice crosses a span.

    Invariant: `_next`, if it is known, is the slice at byte `_offset`, which lies in span `_number`.
    """

    __slots__ = ("_chunks", "_next", "_number", "_offset", "_spans")

    def __init__(self, chunks: ChunkMap, spans: Sequence[ByteSpan]) -> None:
        self._chunks = chunks
        self._spans = spans
        self._number = 0
        self._offset = spans[0].start if spans else 0
        self._next: ChunkSlice | None = None

    @property
    def is_at_end(self) -> bool:
        """There is no further slice."""
        return self._number == len(self._spans)

    def fork(self) -> Self:
        """Another cursor, at the same place."""
        return copy(self)

    def peek(self) -> ChunkSlice | None:
        """The next slice; None at the end, and where `load` has to be called first."""
        if self._next is None and not self.is_at_end:
            stop = self._spans[self._number].stop
            if (extent := self._chunks.at_hand(self._offset, stop)) is not None:
                self._next = extent.slice_at(self._offset, stop)
        return self._next

    async def load(self) -> ChunkSlice | None:
        """The next slice, or None at the end. Raises as `ChunkMap.load`."""
        if (found := self.peek()) is None and not self.is_at_end:
            await self._chunks.load(self._offset, self._spans[self._number].stop)
            found = self.peek()
            assert found is not None, "what was loaded is at hand"
        return found

    def advance(self) -> None:
        """Go on behind the slice that `peek` gave."""
        assert self._next is not None
        self._offset += self._next.stop - self._next.start
        self._next = None
        if self._offset >= self._spans[self._number].stop:
            self._number += 1
            self._offset = 0 if self.is_at_end else self._spans[self._number].start

    async def take(self, count: int) -> list[ChunkSlice]:
        """The next `count` slices, or as many as there are. Raises as `ChunkMap.load`."""
        taken: list[ChunkSlice] = []
        while len(taken) < count and (found := await self.load()) is not None:
            taken.append(found)
            self.advance()
        return taken


def whole(content: FileContent) -> list[ByteSpan]:
    """The span of all bytes; an empty file has none."""
    return [ByteSpan(0, content.size_bytes)] if content.size_bytes else []


def is_counted(version: FileVersion) -> bool:
    """Whether its chunk list is long enough to be held in the byte budget."""
    return len(version.content.chunk_digests) > UNCOUNTED_BYTES


@dataclass(slots=True)
class _Held:
    content: FileContent
    lease: ByteLease
    readers: int = 0


class SharedChunkLists:
    """Chunk lists that are held now, one per version."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str, int, str | None], _Held] = {}

    @asynccontextmanager
    async def hold(self, version: FileVersion, transfer: Transfer, *, wait_s: float) -> AsyncIterator[FileVersion]:
        """`version` with a chunk list that all its readers share.

        Raises:
            OverloadedError: there was no room for it in the byte budget.
        """
        if not is_counted(version):
            yield version
            return
        size_bytes = len(version.content.chunk_digests)
        # With the digest: a restored cluster may have another version of that number.
        key = (version.bucket, version.key, version.version, version.content.digest)
        if (held := self._held.get(key)) is None:
            held = self._held[key] = _Held(version.content, transfer.budget.lease())
        held.readers += 1
        try:
            if held.lease.size_bytes == 0:
                await transfer.grow(held.lease, size_bytes, wait_s=wait_s)
                held.lease.shrink_to(size_bytes)
            # Under the old name: otherwise this frame would hold the caller's own list for as long as it reads.
            version = version.model_copy(update={"content": held.content})
            yield version
        finally:
            held.readers -= 1
            if held.readers == 0:
                held.lease.release()
                del self._held[key]
