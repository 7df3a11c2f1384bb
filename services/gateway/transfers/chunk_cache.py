"""Keeps small chunks that were read and verified, so that files read again and again need no storage node for their bytes.

A chunk cannot change: its digest is its name. So an entry is right for as long as anybody asks for that digest, which a
download does only after a linearizable read has named it. The cache is no replica: how many hold the chunk is confirmed as ever.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from services.gateway.ports import ChunkBytes
from shared.contracts.chunk_batches import MAX_BATCHED_CHUNK_BYTES
from shared.units import KIB

MAX_CHUNK_BYTES: Final = MAX_BATCHED_CHUNK_BYTES
"""A larger one would push out many small ones, and costs less to fetch per byte."""

_OVERHEAD_BYTES: Final = 320
"""Of an entry: its digest, its place, and what Python adds to the bytes."""

_EVICTED_BYTES: Final = 240
"""Of a digest that was evicted and is remembered: one for every `_BYTES_PER_EVICTED` of the cache."""
_BYTES_PER_EVICTED: Final = 8 * KIB

_PROTECTED_PART: Final = 0.8


class ChunkCache:
    """A segmented LRU: what is read once is on probation, what is read again is protected.

    So a scan, which reads every chunk once, pushes out other chunks on probation only. The digests that were evicted lately
    are remembered (as 2Q does), so that a set of chunks that is larger than the probation part is protected when it is read
    for the second time. What falls out of the protected part, because others were used later, is on probation again.

    Invariant: a digest is in at most one of `_probation`, `_protected` and `_evicted`. `_bytes` and `_protected_bytes` are the
    sums over the first two and over the second, overhead included, and never more than their limits between calls.
    """

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: of all entries with their overhead; 0 keeps nothing."""
        self._max_evicted = max_bytes // _BYTES_PER_EVICTED
        self._max_bytes = max_bytes - self._max_evicted * _EVICTED_BYTES
        self._max_protected_bytes = int(self._max_bytes * _PROTECTED_PART)
        self._probation: OrderedDict[str, ChunkBytes] = OrderedDict()
        self._protected: OrderedDict[str, ChunkBytes] = OrderedDict()
        self._evicted: OrderedDict[str, None] = OrderedDict()
        self._bytes = 0
        self._protected_bytes = 0
        self._counts = {"hits": 0, "misses": 0, "evictions": 0}

    def statistics(self) -> dict[str, int]:
        """`bytes` and `chunks` held now; `hits`, `misses` and `evictions` so far."""
        return {**self._counts, "bytes": self._bytes, "chunks": len(self._probation) + len(self._protected)}

    def __contains__(self, digest: str) -> bool:
        return digest in self._probation or digest in self._protected

    def get(self, digest: str) -> ChunkBytes | None:
        """The verified bytes of `digest`, if they are here."""
        data = self._protected.get(digest)
        if data is not None:
            self._protected.move_to_end(digest)
        elif (data := self._probation.pop(digest, None)) is not None:
            self._protect(digest, data)
        self._counts["misses" if data is None else "hits"] += 1
        return data

    def put(self, digest: str, data: ChunkBytes) -> None:
        """Keep `data`, which the caller has verified against `digest`."""
        size_bytes = len(data) + _OVERHEAD_BYTES
        if len(data) > MAX_CHUNK_BYTES or size_bytes > self._max_bytes or digest in self:
            return
        self._bytes += size_bytes
        if digest in self._evicted:
            del self._evicted[digest]
            self._protect(digest, data)
        else:
            self._probation[digest] = data
        while self._bytes > self._max_bytes:
            self._evict()

    def forget(self) -> None:
        """Begin anew: for another cluster."""
        self._probation.clear()
        self._protected.clear()
        self._evicted.clear()
        self._bytes = self._protected_bytes = 0

    def _protect(self, digest: str, data: ChunkBytes) -> None:
        self._protected[digest] = data
        self._protected_bytes += len(data) + _OVERHEAD_BYTES
        while self._protected_bytes > self._max_protected_bytes:
            digest, data = self._protected.popitem(last=False)
            self._protected_bytes -= len(data) + _OVERHEAD_BYTES
            self._probation[digest] = data

    def _evict(self) -> None:
        """The protected part alone is within its limit, so there is a chunk on probation."""
        digest, data = self._probation.popitem(last=False)
        self._bytes -= len(data) + _OVERHEAD_BYTES
        self._counts["evictions"] += 1
        self._evicted[digest] = None
        while len(self._evicted) > self._max_evicted:
            self._evicted.popitem(last=False)
