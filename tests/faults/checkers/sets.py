"""Does every list of a set contain what it must, and nothing that it must not?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.faults.checkers.history import Act, Operation, Outcome


@dataclass(frozen=True, slots=True)
class Listing:
    """All pages of one list, taken between two moments; every page is of one log index."""

    members: frozenset[str]
    called: float
    returned: float


def set_violations(changes: Iterable[Operation], listings: Iterable[Listing]) -> list[str]:
    """`changes` add (`write`) and remove (`delete`) keys; every key is added once and removed at most once."""
    added: dict[str, Operation] = {}
    removed: dict[str, Operation] = {}
    for change in changes:
        if change.outcome != Outcome.FAILED:
            (added if change.act == Act.WRITE else removed)[change.key] = change
    found: list[str] = []
    for listing in listings:
        for key in listing.members:
            if key not in added or added[key].called > listing.returned:
                found.append(f"{key} is listed and was not added before: {listing.called / 1e9:.4f}")
            elif (gone := removed.get(key)) and gone.outcome == Outcome.OK and gone.returned < listing.called:
                found.append(f"{key} is listed after it was removed ({gone}): {listing.called / 1e9:.4f}")
        for key, add in added.items():
            removal = removed.get(key)
            may_be_gone = removal is not None and removal.called <= listing.returned
            must_be_there = add.outcome == Outcome.OK and add.returned < listing.called and not may_be_gone
            if must_be_there and key not in listing.members:
                found.append(f"{key} is not listed although it was added ({add}): {listing.called / 1e9:.4f}")
    return found
