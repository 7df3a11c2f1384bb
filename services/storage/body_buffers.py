"""Buffers into which the bodies of large chunks are received and read, and from which they are written past the page cache."""

from __future__ import annotations

import mmap
from typing import Final

from shared.reused_buffers import ReusedBuffers
from shared.units import MIB

BUFFER_BYTES: Final = MIB

BodyBuffers = ReusedBuffers[mmap.mmap]
"""Each begins at a page, as the kernel demands of such reads and writes."""


def make_body_buffers() -> BodyBuffers:
    """Buffers of `BUFFER_BYTES`."""
    return ReusedBuffers(lambda size_bytes: mmap.mmap(-1, size_bytes), BUFFER_BYTES)
