"""Buffers of one size for bodies, used again once nobody refers to them.

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

_UNUSED_REFERENCES: Final = 3
"""The list, the variable of the loop and the argument of `getrefcount`. A view holds a reference, and so does a socket that has
not sent one."""

BufferT = TypeVar("BufferT")


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
