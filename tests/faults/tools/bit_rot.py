"""Bits that change by themselves, as media do it: seeded, in a file or in a part of one, without touching its times."""

from __future__ import annotations

import os
import random
from pathlib import Path


def flip_bits(path: Path, probability: float, draw: random.Random, first: int = 0, last: int | None = None) -> int:
    """Flip one bit in each byte of `path[first:last]` with `probability`; how many were flipped."""
    size_bytes = path.stat().st_size if last is None else last
    offsets = []
    at = first
    # The gaps between rare flips, drawn directly: a draw per byte would take a second per megabyte.
    while (at := at + _gap(probability, draw)) < size_bytes:
        offsets.append(at)
        at += 1
    for offset in offsets:
        flip_bit(path, offset, draw.randrange(8))
    return len(offsets)


def flip_bit(path: Path, offset: int, bit: int) -> None:
    """Change one bit, whatever is mounted or open."""
    found = path.stat()
    descriptor = os.open(path, os.O_RDWR)
    try:
        (byte,) = os.pread(descriptor, 1, offset)
        os.pwrite(descriptor, bytes([byte ^ (1 << bit)]), offset)
    finally:
        os.close(descriptor)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _gap(probability: float, draw: random.Random) -> int:
    """Bytes until the next flip: geometric."""
    return int(draw.expovariate(1.0) / probability) if probability < 1 else 0
