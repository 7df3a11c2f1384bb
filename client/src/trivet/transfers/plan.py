"""How a file is cut. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

MIB: Final = 1 << 20
PART_BYTES_MIN: Final = 5 * MIB
PART_BYTES_MAX: Final = 5 << 30
PARTS_MAX: Final = 10_000
"""What the store takes."""

PART_BYTES: Final = 16 * MIB
"""Of parts and ranges, where nobody chose. What an interruption costs is less than so much per part that was under way."""

SINGLE_BYTES_MAX: Final = 4 * PART_BYTES
"""A file that is no longer is sent in one request, and then has a digest."""


class Piece(msgspec.Struct, frozen=True):
    """Bytes from `start` up to `end`; `number` counts from 1."""

    number: int
    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """How many."""
        return self.end - self.start


def part_size(size_bytes: int, wanted_bytes: int | None) -> int:
    """The size of the parts of a file: as wanted, and in whole MiB so large that there are not too many.

    Raises:
        ValueError: parts of the wanted size are smaller or larger than a part may be, or too many.
    """
    if wanted_bytes is None:
        least = -(-size_bytes // PARTS_MAX)
        return max(PART_BYTES, -(-least // MIB) * MIB)
    if not PART_BYTES_MIN <= wanted_bytes <= PART_BYTES_MAX:
        raise ValueError(f"a part has {PART_BYTES_MIN} to {PART_BYTES_MAX} bytes, not {wanted_bytes}")
    if size_bytes > wanted_bytes * PARTS_MAX:
        raise ValueError(f"a file of {size_bytes} bytes has more than {PARTS_MAX} parts of {wanted_bytes}")
    return wanted_bytes


def is_single(size_bytes: int, wanted_bytes: int | None) -> bool:
    """Whether a file is stored in one request."""
    return size_bytes <= (SINGLE_BYTES_MAX if wanted_bytes is None else wanted_bytes)


def pieces(size_bytes: int, piece_bytes: int) -> list[Piece]:
    """The whole file; of an empty one nothing."""
    starts = range(0, size_bytes, piece_bytes)
    return [Piece(number, start, min(size_bytes, start + piece_bytes)) for number, start in enumerate(starts, start=1)]
