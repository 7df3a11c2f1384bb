"""Is the history of a bucket that keeps every version one that its clients can have made?

The log index orders all changes, so there is nothing to search for: each acknowledged change must stand in the final lists at its
index, with the bytes that it had by then, and nothing may stand there that nobody asked for. A copy at index v shows what was
current under its source right before v; a rename leaves a marker there at v itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.faults.checkers.history import NEVER, Outcome


class Kind(StrEnum):
    """What a client asked for."""

    PUT = "put"
    COPY = "copy"
    RENAME = "rename"
    RESTORE = "restore"
    DELETE = "delete"
    READ = "read"


@dataclass(slots=True)
class Step:
    """One request about one key.

    Attributes:
        value: what was written or read; None is absence, and of a copy what nobody has looked at.
        version: the index that the answer said.
        source, source_version: of a copy: the key that was copied, and which version of it by the answer.
        asked_version: which version was asked for; None for the current one.
    """

    kind: Kind
    key: str
    called: float
    value: str | None = None
    returned: float = NEVER
    outcome: Outcome = Outcome.UNKNOWN
    version: int = 0
    source: str = ""
    source_version: int = 0
    asked_version: int | None = None
    where: str = ""

    @property
    def effects(self) -> Iterator[tuple[str, bool]]:
        """The keys that get a version, and whether that is a marker."""
        if self.kind != Kind.READ:
            yield self.key, self.kind == Kind.DELETE
        if self.kind == Kind.RENAME:
            yield self.source, True


@dataclass(frozen=True, slots=True)
class Row:
    """One version in the final lists, with its bytes; None of a marker."""

    key: str
    version: int
    value: str | None

    @property
    def is_marker(self) -> bool:
        """It has no bytes."""
        return self.value is None


def version_violations(steps: Sequence[Step], rows: Iterable[Row]) -> list[str]:
    """What is wrong, in words; empty when nothing is."""
    kept = {(row.key, row.version): row for row in rows}
    histories: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(kept.values(), key=lambda one: one.version):
        histories[row.key].append(row)
    found: list[str] = []
    done = [step for step in steps if step.outcome == Outcome.OK]
    makers = {(key, step.version): step for step in done for key, _ in step.effects}
    for step in done:
        if step.kind == Kind.READ:
            found += _read_violations(step, kept, makers)
        else:
            found += _change_violations(step, kept, histories)
    found += _unexplained(steps, [row for place, row in kept.items() if place not in makers])
    return [*found, *_out_of_order(steps)]


def _change_violations(
    step: Step, kept: Mapping[tuple[str, int], Row], histories: Mapping[str, list[Row]]
) -> Iterator[str]:
    for key, is_marker in step.effects:
        row = kept.get((key, step.version))
        if row is None:
            yield f"version {step.version} of {key} was acknowledged and is gone: {step}"
        elif row.is_marker != is_marker:
            yield f"version {step.version} of {key} is {row}, and was acknowledged as another thing: {step}"
    row = kept.get((step.key, step.version))
    if row is None:
        return
    if step.kind == Kind.PUT and row.value != step.value:
        yield f"version {step.version} of {step.key} has other bytes, {row.value}: {step}"
    if step.source:
        original = kept.get((step.source, step.source_version))
        if original is None or original.value != row.value:
            yield f"the copy {row} is not of {original}: {step}"
        current = _current_before(histories.get(step.source, []), step.version)
        if step.asked_version is None and (current is None or current.version != step.source_version):
            yield f"{current} was current when {step.source} was copied: {step}"
        if step.asked_version not in {None, step.source_version}:
            yield f"another version was copied than was asked for: {step}"


def _current_before(history: list[Row], version: int) -> Row | None:
    return next((row for row in reversed(history) if row.version < version), None)


def _read_violations(
    step: Step, kept: Mapping[tuple[str, int], Row], makers: Mapping[tuple[str, int], Step]
) -> Iterator[str]:
    row = kept.get((step.key, step.version))
    if row is not None and row.value != step.value:
        yield f"{step.value} was read as version {step.version}, which is {row}: {step}"
    if row is None and (step.value is not None or step.version):
        yield f"version {step.version} was seen and is gone: {step}"
    maker = makers.get((step.key, step.version))
    if maker is not None and maker.called > step.returned:
        yield f"version {step.version} was seen before it was asked for: {step}"


def _unexplained(steps: Sequence[Step], rows: Sequence[Row]) -> Iterator[str]:
    """What stands in the lists and was not acknowledged must be the work of a change whose outcome nobody learnt."""
    unknown = [step for step in steps if step.outcome == Outcome.UNKNOWN and step.kind != Kind.READ]
    values = {step.value for step in unknown if step.kind == Kind.PUT}
    places = Counter(effect for step in unknown if step.kind != Kind.PUT for effect in step.effects)
    for row in sorted(rows, key=lambda one: one.version):
        if row.value in values:
            values.discard(row.value)  # the first row that has it; a copy of it comes later
        elif places[row.key, row.is_marker]:
            places[row.key, row.is_marker] -= 1
        else:
            yield f"nobody made {row}"


def _out_of_order(steps: Sequence[Step]) -> Iterator[str]:
    """Of one key: nobody sees, or makes, an older version than somebody has seen before. Changes of all keys have one order."""
    by_key: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        if step.outcome != Outcome.OK:
            continue
        for key, _ in step.effects:
            by_key[key].append(step)
        if step.kind == Kind.READ:
            by_key[step.key].append(step)
        else:
            by_key[""].append(step)
    for about in by_key.values():
        newest: Step | None = None
        returns = iter(sorted(about, key=lambda one: one.returned))
        next_return = next(returns, None)
        for step in sorted(about, key=lambda one: one.called):
            while next_return is not None and next_return.returned < step.called:
                if newest is None or next_return.version > newest.version:
                    newest = next_return
                next_return = next(returns, None)
            if newest is not None and step.version < newest.version:
                yield f"version {step.version} came after {newest.version}: {step} after {newest}"
