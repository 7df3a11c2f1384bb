"""Bodies of files that share no chunk with any other: a store must not save work by deduplication.

Making a whole body at random costs more than sending it, so every piece of `PIECE_BYTES` begins with fresh random
bytes, and the rest is common. Chunks of that size or larger are all distinct.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.cluster.connection import BODY_START_BYTES
from shared.units import KIB

PIECE_BYTES: Final = 64 * KIB

Body = list[bytes | memoryview]


class BodyMaker:
    """Makes bodies of one size as lists of buffers, which are sent without being joined."""

    def __init__(self, size_bytes: int) -> None:
        self._common = memoryview(os.urandom(min(size_bytes, PIECE_BYTES)))
        self._size_bytes = size_bytes

    def make(self) -> Body:
        """One more; its first buffer is its first `BODY_START_BYTES`."""
        starts = piece_starts(self._size_bytes)
        stamps = os.urandom(BODY_START_BYTES * len(starts))
        body: Body = []
        for number, start in enumerate(starts):
            length = min(PIECE_BYTES, self._size_bytes - start)
            body.append(stamps[number * BODY_START_BYTES : (number + 1) * BODY_START_BYTES])
            body.append(self._common[BODY_START_BYTES:length])
        return body


def piece_starts(size_bytes: int) -> range:
    """Where the pieces of a body begin."""
    return range(0, size_bytes, PIECE_BYTES)


def write_body(path: Path, body: Body) -> None:
    """Write a body to a file."""
    with path.open("wb") as file:
        file.writelines(body)


def restamp(path: Path) -> None:
    """Make the content of a file new, in place."""
    with path.open("r+b", buffering=0) as file:
        for start in piece_starts(path.stat().st_size):
            os.pwrite(file.fileno(), os.urandom(BODY_START_BYTES), start)


def numbered(prefix: str) -> Iterator[str]:
    """Endless new keys below `prefix`."""
    number = 0
    while True:
        yield f"{prefix}/{number:06d}"
        number += 1
