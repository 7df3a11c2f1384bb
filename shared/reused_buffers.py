"""Buffers of one size for bodies, used again once nobody refers to them (X-102).

A new buffer of 1 MiB costs 256 page faults and as many cleared pages, which is more than its digest costs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from shared.units import MIB

MAX_BUFFERS: Final = 12
"""They stay in memory beside what the byte budget counts."""

BufferT = TypeVar("BufferT")


def _unused_references() -> int:
    """What `take` counts of a buffer that nobody has: the list, the variable of the loop and maybe the argument.

    It depends on the interpreter: some lend the argument without counting it, and one too many would lend a buffer twice.
    """
    for buffer in [bytearray()]:
        count = sys.getrefcount(buffer)
    return count


_UNUSED_REFERENCES: Final = _unused_references()
"""A view holds a reference more, and so does a socket that has not sent one."""


class ReusedBuffers(Generic[BufferT]):
    """Lends buffers of `size_bytes` without being told when they are given back. May be used from any thread."""

    def __init__(
        self, make: Callable[[int], BufferT], size_bytes: int = MIB, *, max_buffers: int = MAX_BUFFERS
    ) -> None:
        """`make`: a new buffer of so many bytes."""
        self.size_bytes = size_bytes
        self._make = make
        self._max_buffers = max_buffers
        self._buffers: list[BufferT] = []
        self._taking = threading.Lock()

    def take(self) -> BufferT:
        """A buffer to which nothing else refers, with whatever was in it before. While all are used, a new one."""
        with self._taking:
            for buffer in self._buffers:
                if sys.getrefcount(buffer) == _UNUSED_REFERENCES:
                    return buffer
            made = self._make(self.size_bytes)
            if len(self._buffers) < self._max_buffers:
                self._buffers.append(made)
            return made
