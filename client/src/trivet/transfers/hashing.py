"""The digest of what is on the disk, with little memory."""

from __future__ import annotations

import os
from typing import Final

from blake3 import blake3

_READ_BYTES: Final = 1 << 18
"""So little stays in the cache of a processor between being read and being hashed."""


def hash_section(digest: blake3, descriptor: int, start: int, end: int) -> None:
    """Add the bytes of a file from `start` up to `end`; only those that there are, where the file ends before."""
    # The same memory each time: what is new costs a page fault for every page.
    room = memoryview(bytearray(min(_READ_BYTES, end - start)))
    while start < end and (read_bytes := os.preadv(descriptor, [room[: end - start]], start)):
        digest.update(room[:read_bytes])
        start += read_bytes
