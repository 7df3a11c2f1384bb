"""Buffers into which the bodies of large chunks are received, and from which they are written past the page cache.

A new buffer of 1 MiB costs 256 page faults, as much as its digest does.
"""

from __future__ import annotations

import mmap
import weakref
from typing import Final

from shared.units import MIB

BUFFER_BYTES: Final = MIB
MAX_BUFFERS: Final = 12
"""They lie beside the heap, which keeps the room of all bodies that it ever held at once; 32 took the process past 200 MiB."""


class BodyBuffers:
    """At most `max_buffers` at a time: lent, waiting to be lent again, or dropped and not collected yet."""

    def __init__(self, max_buffers: int = MAX_BUFFERS) -> None:
        self._max_buffers = max_buffers
        self._free: list[memoryview] = []
        self._count = 0

    def lend(self) -> memoryview | None:
        """`BUFFER_BYTES` that begin at a page, with whatever was in them before; None while there are `max_buffers`."""
        if self._free:
            return self._free.pop()
        if self._count >= self._max_buffers:
            return None
        made = mmap.mmap(-1, BUFFER_BYTES)
        self._count += 1
        weakref.finalize(made, self._on_collected)
        return memoryview(made)

    def give_back(self, buffer: memoryview) -> None:
        """Nobody reads or writes `buffer` any more. Where that is not certain, it is not given back but dropped."""
        self._free.append(buffer)

    def _on_collected(self) -> None:
        self._count -= 1
