"""The digest of a whole file: of a snapshot, a copy for a backup, and the files of a backup."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from blake3 import blake3

from shared.units import MIB

_READ_BYTES: Final = 4 * MIB


def hash_file(path: Path) -> tuple[bytes, int]:
    """BLAKE3-256 of the file and its size in bytes. Blocks. Raises OSError."""
    digest, size_bytes = blake3(), 0
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
    return digest.digest(), size_bytes
