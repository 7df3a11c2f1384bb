"""Is a list that grows by conditional writes one list? Every read is a prefix of the longest, in the order of real time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.faults.checkers.history import Operation, Outcome


@dataclass(frozen=True, slots=True)
class Reading:
    """The whole list as somebody read it."""

    items: tuple[str, ...]
    called: float
    returned: float


def append_violations(appends: Iterable[Operation], readings: Sequence[Reading]) -> list[str]:
    """`appends` carry the appended item as their value; each item is appended once."""
    appends = list(appends)
    longest = max((reading.items for reading in readings), key=len, default=())
    found: list[str] = []
    if len(set(longest)) < len(longest):
        found.append("an item stands in the list twice")
    position = {item: number for number, item in enumerate(longest)}
    found += [
        f"a read is not a beginning of the longest: it ends in {reading.items[-3:]} at {len(reading.items)}"
        for reading in readings
        if reading.items != longest[: len(reading.items)]
    ]
    for one in appends:
        if one.outcome == Outcome.OK and one.value not in position:
            found.append(f"an acknowledged item is lost: {one}")
        if one.outcome == Outcome.FAILED and one.value in position:
            found.append(f"an item that was certainly refused is there: {one}")
    asked = {one.value for one in appends}
    found += [f"{item} is there and nobody appended it" for item in longest if item not in asked]
    present = sorted((one for one in appends if one.value in position), key=lambda one: position[one.value or ""])
    # From the end: whoever stands later must not have returned before one that stands earlier was called.
    latest_call = 0.0
    for one in present:
        if one.outcome == Outcome.OK and one.returned < latest_call:
            found.append(f"an item stands behind one that was appended later: {one}")
        latest_call = max(latest_call, one.called)
    for reading in readings:
        length = len(reading.items)
        for one in present:
            place = position[one.value or ""]
            if one.outcome == Outcome.OK and one.returned < reading.called and place >= length:
                found.append(f"a read of {length} items does not see {one}")
            if place < length and one.called > reading.returned:
                found.append(f"a read of {length} items sees what was appended after it: {one}")
    return found
