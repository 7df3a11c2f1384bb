"""The index of the read cache (LRU): which flushed chunks have a copy in Redis, which to evict, which to promote (S-82).

Pure. Redis runs with `noeviction`, because it may not evict what only it has acknowledged; so the node itself keeps the
least-recently-used order and both bounds: bytes, in Redis, and entries, in this process. An entry takes 240 bytes of RSS at
worst (right after the table grew), however small its chunk is.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

_ENTRY_OVERHEAD_BYTES: Final = 256
"""Key, object headers and allocator slack in Redis, measured at 150-250 bytes."""
_MAX_ENTRIES: Final = 100_000
"""23 MiB here. Chunks of 3.5 KiB and more fill the default limit of Redis with fewer entries."""
_MAX_ONCE_READ: Final = 4096


class ReadCache:
    """Digests of the copies in Redis.

    Invariant, after `evict`: at most `max_entries`, whose sizes with overhead sum up to at most `limit_bytes`.
    """

    def __init__(self, limit_bytes: int, max_entries: int = _MAX_ENTRIES) -> None:
        self._limit_bytes = limit_bytes
        self._max_entries = max_entries
        self._sizes: OrderedDict[bytes, int] = OrderedDict()
        self._once_read: OrderedDict[bytes, None] = OrderedDict()
        self.used_bytes = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, digest: str) -> bool:
        return bytes.fromhex(digest) in self._sizes

    def size_bytes(self, digest: str) -> int | None:
        """How long a copy is; None when there is none."""
        found = self._sizes.get(bytes.fromhex(digest))
        return None if found is None else found - _ENTRY_OVERHEAD_BYTES

    def add(self, digest: str, size_bytes: int) -> None:
        """Record that Redis holds a copy, as the most recently used."""
        self.remove(digest)
        self._sizes[bytes.fromhex(digest)] = size_bytes + _ENTRY_OVERHEAD_BYTES
        self.used_bytes += size_bytes + _ENTRY_OVERHEAD_BYTES

    def touch(self, digest: str) -> None:
        """Record a hit."""
        key = bytes.fromhex(digest)
        if key in self._sizes:
            self._sizes.move_to_end(key)

    def remove(self, digest: str) -> None:
        """Forget a copy."""
        self.used_bytes -= self._sizes.pop(bytes.fromhex(digest), 0)

    def evict(self, reserved_bytes: int = 0) -> list[str]:
        """Remove, least recently used first, until both bounds hold with `reserved_bytes` more; the removed digests."""
        evicted: list[str] = []
        while self._sizes and (
            len(self._sizes) > self._max_entries or self.used_bytes + reserved_bytes > self._limit_bytes
        ):
            key, size_bytes = self._sizes.popitem(last=False)
            self.used_bytes -= size_bytes
            evicted.append(key.hex())
        return evicted

    def should_promote(self, digest: str) -> bool:
        """Record a miss; True when it is the second within the last few thousand misses."""
        key = bytes.fromhex(digest)
        if key in self._once_read:
            del self._once_read[key]
            return True
        self._once_read[key] = None
        if len(self._once_read) > _MAX_ONCE_READ:
            self._once_read.popitem(last=False)
        return False
