"""Which large chunks were read lately: those are worth their pages in the page cache (S-64).

A chunk that is read once, as all of a large file are, costs less past the cache: there is nothing to find, fill and drop.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

MAX_CHUNKS: Final = 1024


class RecentReads:
    """The last `max_chunks` digests. May be used from any thread."""

    def __init__(self, max_chunks: int = MAX_CHUNKS) -> None:
        self._max_chunks = max_chunks
        self._digests: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def record(self, digest: str) -> bool:
        """The chunk is being read; whether it was before."""
        with self._lock:
            was_read = digest in self._digests
            self._digests[digest] = None
            self._digests.move_to_end(digest)
            if len(self._digests) > self._max_chunks:
                self._digests.popitem(last=False)
            return was_read
