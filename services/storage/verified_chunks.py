"""When this process last wrote a chunk, or read it past the page cache (S-97).

A row of the catalog says that a chunk was acknowledged once, not that its bytes are still whole. A replica is verified while
it stands here: kept in memory, so that a restart forgets all of it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable


class VerifiedChunks:
    """Times by digest, the newest `max_chunks` of them; about 250 bytes each. May be used from any thread.

    Invariant: the order is that of the times, so that the oldest is the first.
    Invariant: what was forgotten is not in here before it is recorded as written again.
    """

    def __init__(
        self, max_age_s: float = 86_400.0, max_chunks: int = 100_000, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_age_s = max_age_s
        self._max_chunks = max_chunks
        self._now_s = now_s
        self._times_s: OrderedDict[bytes, float] = OrderedDict()
        self._forgets = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._times_s)

    def __contains__(self, digest: str) -> bool:
        """Whether the replica was written or read within `max_age_s`."""
        verified_at_s = self._times_s.get(bytes.fromhex(digest))
        return verified_at_s is not None and self._now_s() - verified_at_s <= self._max_age_s

    def record(self, digests: Iterable[str]) -> None:
        """The bytes of these were written, or read from the medium, and are whole."""
        with self._lock:
            self._record(digests)

    def forgets(self) -> int:
        """A number to read before a chunk is, for `record_read`."""
        return self._forgets

    def record_read(self, digest: str, forgets_before: int) -> None:
        """The chunk was read and is whole, unless anything was forgotten since `forgets_before`: it may have been this one."""
        with self._lock:
            if self._forgets == forgets_before:
                self._record([digest])

    def _record(self, digests: Iterable[str]) -> None:
        now_s = self._now_s()
        for digest in digests:
            key = bytes.fromhex(digest)
            self._times_s[key] = now_s
            self._times_s.move_to_end(key)
        while len(self._times_s) > self._max_chunks:
            self._times_s.popitem(last=False)

    def forget(self, digests: Iterable[str]) -> None:
        """These were removed, or found bad."""
        with self._lock:
            self._forgets += 1
            for digest in digests:
                self._times_s.pop(bytes.fromhex(digest), None)

    def clear(self) -> None:
        """Nothing is known of any."""
        with self._lock:
            self._forgets += 1
            self._times_s.clear()
