"""Is a register linearizable, when every written value is unique? In n log n, so that minutes of load can be judged.

Zones after Gibbons and Korach, "Testing shared memories" (1997): all operations on one value form a cluster, and its zone
lies between the first return and the last call in it. The history is linearizable exactly if no two forward zones overlap and no
backward zone lies inside a forward one.

Versions say more and are checked, too: one version is one value, and nobody sees an older version than somebody has seen before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from tests.faults.checkers.history import NEVER, Act, Operation, Outcome

_BEFORE_ALL = float("-inf")


@dataclass(frozen=True, slots=True)
class _Zone:
    value: str
    low: float
    high: float


def register_violations(operations: Iterable[Operation]) -> list[str]:
    """What is wrong with the history of one key, in words; empty when nothing is."""
    known = [operation for operation in operations if operation.outcome != Outcome.FAILED or operation.act != Act.READ]
    found: list[str] = []
    writes, reads = _clusters(known, found)
    for value, readers in reads.items():
        if value not in writes:
            found.append(f"{value} was read and nobody wrote it: {readers[0]}")
        elif (early := min(readers, key=lambda one: one.returned)).returned < writes[value].called:
            found.append(f"{value} was read before it was written: {early}")
    forward, backward = _zones(writes, reads)
    found += [
        f"{one.value} and {two.value} were both current: there is no order in which each is written once"
        for one, two in pairwise(forward)
        if two.low < one.high
    ]
    lows = [zone.low for zone in forward]
    for zone in backward:
        around = bisect_right(lows, zone.low) - 1
        if around >= 0 and forward[around].low < zone.low and zone.high < forward[around].high:
            found.append(f"{zone.value} was written and seen while {forward[around].value} was current all the time")
    return found + _version_violations(known)


def _clusters(operations: list[Operation], found: list[str]) -> tuple[dict[str, Operation], dict[str, list[Operation]]]:
    """The one write and all reads of every value. Absence is a value, too: one for each deletion."""
    nothing = Operation(Act.WRITE, "", _absent(0), _BEFORE_ALL, _BEFORE_ALL, Outcome.OK, 0)
    writes = {_absent(0): nothing}
    reads: dict[str, list[Operation]] = defaultdict(list)
    refused: set[str] = set()
    lost_deletions: list[Operation] = []
    for one in operations:
        if one.act == Act.WRITE and one.outcome == Outcome.FAILED:
            refused.add(str(one.value))
        elif one.act == Act.WRITE:
            writes[str(one.value)] = one
        elif one.act == Act.DELETE and one.outcome == Outcome.OK:
            writes[_absent(one.version)] = one
        elif one.act == Act.DELETE and one.outcome == Outcome.UNKNOWN:
            lost_deletions.append(one)
        elif one.act == Act.READ and one.outcome == Outcome.OK:
            reads[_absent(one.version) if one.value is None else one.value].append(one)
    lost_deletions.sort(key=lambda one: one.called)
    for value, readers in list(reads.items()):
        if value in refused:
            found.append(f"{value} was refused as certainly not done, and read: {readers[0]}")
            del reads[value]
        elif value.startswith("absent@") and value not in writes and lost_deletions:
            # Which of the deletions without an answer it was is not known; the earliest asks least of the others.
            writes[value] = lost_deletions.pop(0)
    return writes, reads


def _zones(writes: dict[str, Operation], reads: dict[str, list[Operation]]) -> tuple[list[_Zone], list[_Zone]]:
    forward, backward = [], []
    for value, write in writes.items():
        readers = reads.get(value, [])
        if write.returned == NEVER and not readers:
            continue  # It may never have happened.
        first_return = min(one.returned for one in (write, *readers))
        last_call = max(one.called for one in (write, *readers))
        if first_return < last_call:
            forward.append(_Zone(value, first_return, last_call))
        else:
            backward.append(_Zone(value, last_call, first_return))
    forward.sort(key=lambda zone: (zone.low, zone.high))
    return forward, backward


def _version_violations(operations: list[Operation]) -> list[str]:
    seen = [one for one in operations if one.outcome == Outcome.OK and one.version is not None]
    found: list[str] = []
    values: dict[int, str | None] = {}
    versions: dict[str, int] = {}
    for one in seen:
        value = None if one.act == Act.DELETE else one.value
        if values.setdefault(one.version or 0, value) != value:
            found.append(f"version {one.version} is {values[one.version or 0]} and {value}: {one}")
        if value is not None and versions.setdefault(value, one.version or 0) != one.version:
            found.append(f"{value} was written once and is version {versions[value]} and {one.version}: {one}")
    newest, newest_by = -1, None
    returns = sorted(seen, key=lambda one: one.returned)
    position = 0
    for one in sorted(seen, key=lambda one: one.called):
        while position < len(returns) and returns[position].returned < one.called:
            if (returns[position].version or 0) > newest:
                newest, newest_by = returns[position].version or 0, returns[position]
            position += 1
        if (one.version or 0) < newest:
            found.append(f"version {one.version} was seen after {newest}: {one} after {newest_by}")
    return found


def _absent(version: int | None) -> str:
    return f"absent@{version}"
