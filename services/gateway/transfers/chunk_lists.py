"""The chunks of a file that is being read, without ever writing them down as a list.

A file of 30 GB has 30,000 chunks: 1 MiB as digests, 20 MiB as objects. So a chunk is computed when it is wanted, and the
digests are held once per version, whatever the number of its readers, and in the byte budget where they are many.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from services.gateway.semantics.byte_ranges import ByteSpan
from services.gateway.transfers.admission import Transfer
from shared.byte_budget import ByteLease
from shared.contracts.files import FileContent, FileVersion
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


class FileSlices:
    """The chunks that each of `spans` touches, or all, each with the bytes of it that are wanted; none crosses a span."""

    def __init__(self, content: FileContent, spans: Sequence[ByteSpan] | None) -> None:
        self._content = content
        whole = [ByteSpan(0, content.size_bytes)] if content.size_bytes else []
        self._spans = whole if spans is None else list(spans)

    def __iter__(self) -> Iterator[ChunkSlice]:
        return self.after(0)

    def after(self, count: int) -> Iterator[ChunkSlice]:
        """All but the first `count`; takes time per span and not per chunk."""
        full = self._content.chunk_size_bytes
        for span in self._spans:
            first, last = span.start // full, (span.stop - 1) // full
            skipped = min(count, last + 1 - first)
            count -= skipped
            for index in range(first + skipped, last + 1):
                digest, size_bytes = self._content.chunk(index)
                offset = index * full
                yield ChunkSlice(digest, size_bytes, max(0, span.start - offset), min(size_bytes, span.stop - offset))


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
        self._held: dict[tuple[str, str, int, str], _Held] = {}

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
