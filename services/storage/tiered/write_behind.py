"""The write-behind buffer: chunks that Redis has acknowledged and the disk does not have yet, whole, in memory.

Pure. A Redis that dies, or is emptied, right after its acknowledgement loses nothing while this process lives: the flush
takes the bytes from here. After a crash of the process they are found in Redis instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_ENTRY_OVERHEAD_BYTES: Final = 512
"""Digest, objects and table slot, measured at 365-380 bytes: without it, 16 MiB of tiny chunks would take hundreds."""


@dataclass(slots=True)
class BufferedChunk:
    """One chunk on its way to disk. Until `is_acknowledged`, its own put still answers for it."""

    digest: str
    body: bytes
    start_index: int
    since_ns: int
    is_acknowledged: bool = False

    @property
    def cost_bytes(self) -> int:
        """What it takes of the memory of this process."""
        return len(self.body) + _ENTRY_OVERHEAD_BYTES


class WriteBehindBuffer:
    """In order of arrival. Invariant: bodies and overhead sum up to `size_bytes`, which is at most `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._chunks: dict[str, BufferedChunk] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._chunks)

    def __contains__(self, digest: str) -> bool:
        return digest in self._chunks

    def has_room(self, size_bytes: int) -> bool:
        """Whether a body of `size_bytes` may be added."""
        return self.size_bytes + size_bytes + _ENTRY_OVERHEAD_BYTES <= self._limit_bytes

    def is_half_full(self) -> bool:
        """Time to flush before the interval is over."""
        return self.size_bytes * 2 > self._limit_bytes

    def get(self, digest: str) -> BufferedChunk | None:
        """The chunk, acknowledged or not."""
        return self._chunks.get(digest)

    def add(self, chunk: BufferedChunk) -> None:
        """Keep `chunk`; there must be room, and none of its digest."""
        if chunk.digest in self._chunks or not self.has_room(len(chunk.body)):
            raise ValueError("the caller checks for room and for the digest first")
        self._chunks[chunk.digest] = chunk
        self.size_bytes += chunk.cost_bytes

    def remove(self, digest: str) -> bool:
        """Let go of a chunk; whether it was here."""
        chunk = self._chunks.pop(digest, None)
        if chunk is None:
            return False
        self.size_bytes -= chunk.cost_bytes
        return True

    def oldest(self, max_bytes: int) -> Sequence[BufferedChunk]:
        """Acknowledged chunks in order of arrival, up to about `max_bytes`, at least one if there is one."""
        batch: list[BufferedChunk] = []
        size_bytes = 0
        for chunk in self._chunks.values():
            if chunk.is_acknowledged:
                batch.append(chunk)
                size_bytes += chunk.cost_bytes
                if size_bytes >= max_bytes:
                    break
        return batch

    def has_acknowledged(self, prefix: str) -> bool:
        """Whether an acknowledged chunk is here whose digest begins with the hex digits `prefix`."""
        return any(chunk.is_acknowledged and chunk.digest.startswith(prefix) for chunk in self._chunks.values())

    def lag_ns(self, now_ns: int) -> int:
        """Age of the oldest chunk."""
        first = next(iter(self._chunks.values()), None)
        return 0 if first is None else now_ns - first.since_ns
