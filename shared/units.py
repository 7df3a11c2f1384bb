"""Names for the sizes and durations that appear in defaults, so that no module spells out powers of two."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

NANOSECONDS_PER_SECOND: Final = 1_000_000_000
