"""Buffers into which the bodies of large chunks are received, and from which they are written past the page cache.

A new buffer of 1 MiB costs 256 page faults, as much as its digest does.
"""

from __future__ import annotations

import mmap
from typing import Final

from shared.units import MIB

BUFFER_BYTES: Final = MIB


class BodyBuffers:
    """At most `max_free` buffers that wait to be lent again; those that are lent are the borrower's to account for."""

    def __init__(self, max_free: int = 8) -> None:
        self._max_free = max_free
        self._free: list[memoryview] = []

    def lend(self) -> memoryview:
        """`BUFFER_BYTES` that begin at a page, with whatever was in them before."""
        return self._free.pop() if self._free else memoryview(mmap.mmap(-1, BUFFER_BYTES))

    def give_back(self, buffer: memoryview) -> None:
        """Nobody reads or writes `buffer` any more. Where that is not certain, it is not given back but dropped."""
        if len(self._free) < self._max_free:
            self._free.append(buffer)
