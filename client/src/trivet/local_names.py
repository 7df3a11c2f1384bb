"""Names beside a target, under which a download keeps what it has so far.

No key may become such a file: the next download of its neighbour would go on with bytes that somebody else chose.
"""

from __future__ import annotations

from typing import Final

_ENDINGS: Final = (".trivet-partial", ".trivet-journal")


def is_unfinished(name: str) -> bool:
    """Whether a download under way may have a file of that name; some systems do not tell `A` from `a`."""
    return name.startswith(".") and name.casefold().endswith(_ENDINGS)
