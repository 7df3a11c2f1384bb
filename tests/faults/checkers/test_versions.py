"""The judge of versions is judged: it accepts a right history and finds what is wrong by one operation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.checkers.history import Outcome
from tests.faults.checkers.versions import Kind, Row, Step, version_violations


def step(kind: Kind, key: str, called: float, version: int, value: str | None = None, **facts) -> Step:
    outcome = facts.pop("outcome", Outcome.OK)
    returned = called + 1 if outcome == Outcome.OK else float("inf")
    return Step(kind, key, called, value, returned, outcome, version, **facts)


STEPS = [
    step(Kind.READ, "a", 0, 0),
    step(Kind.PUT, "a", 2, 10, "one"),
    step(Kind.COPY, "b", 4, 20, source="a", source_version=10),
    step(Kind.PUT, "a", 6, 30, "two"),
    step(Kind.RENAME, "c", 8, 40, source="a", source_version=30),
    step(Kind.READ, "a", 10, 40),
    step(Kind.RESTORE, "a", 12, 50, source="a", source_version=10, asked_version=10),
    step(Kind.READ, "a", 14, 50, "one"),
    step(Kind.DELETE, "b", 16, 60),
    step(Kind.PUT, "b", 18, 0, "three", outcome=Outcome.UNKNOWN),
    step(Kind.DELETE, "c", 20, 0, outcome=Outcome.UNKNOWN),
    step(Kind.COPY, "c", 22, 0, source="b", outcome=Outcome.UNKNOWN),
    step(Kind.PUT, "c", 24, 0, "never", outcome=Outcome.FAILED),
]
ROWS = [
    Row("a", 10, "one"),
    Row("a", 30, "two"),
    Row("a", 40, None),
    Row("a", 50, "one"),
    Row("b", 20, "one"),
    Row("b", 60, None),
    Row("b", 70, "three"),
    Row("c", 40, "two"),
    Row("c", 80, None),
    Row("c", 90, "three"),
]


def test_a_right_history_of_versions_is_accepted() -> None:
    """With copies, a rename, a restore, markers, and changes whose outcome nobody learnt, done or not."""
    assert version_violations(STEPS, ROWS) == []
    done = [row for row in ROWS if row.version < 70]
    assert version_violations(STEPS, done) == []


@pytest.mark.parametrize("place", range(7))
def test_a_version_that_was_acknowledged_and_is_gone_is_found(place) -> None:
    """Every one of them."""
    acknowledged = [row for row in ROWS if row.version <= 60]
    left = [row for row in ROWS if row != acknowledged[place]]
    assert version_violations(STEPS, left)


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        (0, {"version": 10, "value": "one"}),  # read before it was written
        (1, {"value": "two"}),  # other bytes than were written
        (2, {"source_version": 30}),  # a version from the future was copied
        (4, {"source_version": 10}),  # not what was current
        (4, {"source": "b"}),  # the other source was renamed
        (5, {"version": 30, "value": "two"}),  # stale
        (5, {"version": 40, "value": "two"}),  # a marker with bytes
        (6, {"asked_version": 30}),  # another version was restored
        (7, {"value": "two"}),  # one version, two contents
        (8, {"version": 5}),  # acknowledged below what it follows
        (9, {"outcome": Outcome.FAILED}),  # certainly not done, and there
        (10, {"outcome": Outcome.FAILED}),
        (11, {"outcome": Outcome.FAILED}),
    ],
)
def test_a_wrong_step_is_found(place, changes) -> None:
    """Each differs from the right history in one operation."""
    steps = [*STEPS]
    steps[place] = replace(steps[place], **changes)
    assert version_violations(steps, ROWS)


@pytest.mark.parametrize(
    "row", [Row("a", 55, "one"), Row("a", 55, None), Row("c", 95, "never"), Row("c", 95, "three"), Row("d", 95, "x")]
)
def test_a_version_that_nobody_made_is_found(row) -> None:
    """Be it a second one of a change that happened once."""
    assert version_violations(STEPS, [*ROWS, row])
