"""The judges are judged: each accepts what is right and finds what is wrong by one operation. Fast; part of `make test`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.checkers.appends import Reading, append_violations
from tests.faults.checkers.conditional import is_conditional_history_linearizable
from tests.faults.checkers.durability import FinalRead, durability_violations, torn_body
from tests.faults.checkers.history import NEVER, Act, Operation, Outcome
from tests.faults.checkers.honesty import Answer, honesty_violations
from tests.faults.checkers.registers import register_violations
from tests.faults.checkers.sets import Listing, set_violations
from tests.simulation.linearizability import Operation as PlainOperation
from tests.simulation.linearizability import is_linearizable

S = 1e9


def write(value: str, called: float, returned: float = NEVER, version: int | None = None, **facts) -> Operation:
    outcome = facts.pop("outcome", Outcome.UNKNOWN if returned == NEVER else Outcome.OK)
    return Operation(Act.WRITE, "k", value, called, returned, outcome, version, **facts)


def read(value: str | None, called: float, returned: float, version: int | None = None) -> Operation:
    return Operation(Act.READ, "k", value, called, returned, Outcome.OK, version)


def delete(called: float, returned: float = NEVER, version: int | None = None) -> Operation:
    outcome = Outcome.UNKNOWN if returned == NEVER else Outcome.OK
    return Operation(Act.DELETE, "k", None, called, returned, outcome, version)


RIGHT = [
    read(None, 0, 1, 0),
    write("a", 2, 5, 10),
    read("a", 3, 4, 10),
    write("b", 6, 9, 20),
    read("a", 6, 7, 10),
    read("b", 8, 12, 20),
    delete(13, 14, 30),
    read(None, 15, 16, 30),
    write("c", 17),
    read("c", 20, 21, 40),
    write("d", 18),
    delete(22),
    read(None, 23, 24, 50),
]


def test_a_right_history_of_a_register_is_accepted() -> None:
    """With absence, a deletion, and writes and deletions whose outcome nobody learnt."""
    assert register_violations(RIGHT) == []


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (5, read("a", 10, 12, 10)),  # stale: b was acknowledged before
        (7, read("b", 15, 16, 20)),  # deleted, and back
        (2, read("z", 3, 4, 11)),  # nobody wrote it
        (2, read("a", 3, 4, 11)),  # one write, two versions
        (0, read("a", 0, 1, 10)),  # before it was written
        (5, read("b", 8, 12, 10)),  # one version, two values
        (12, read(None, 23, 24, 45)),  # overtaken below
        (9, read(None, 20, 21, 30)),  # the deletion seen again after c: see the next line
        (3, write("b", 6, 9, 20, outcome=Outcome.FAILED)),  # certainly not done, and read
    ],
)
def test_one_wrong_operation_is_found(place: int, wrong: Operation) -> None:
    """Each changes one operation of the right history."""
    changed = [replace(one) for one in RIGHT]
    changed[place] = wrong
    if wrong.version == 45:
        changed.append(read("c", 26, 27, 40))
    if wrong.version == 30 and place == 9:
        changed.insert(9, read("c", 18.5, 19, 40))
    assert register_violations(changed)


def test_a_lost_write_is_found_without_any_version() -> None:
    """The zones alone: an acknowledged write, and later what was there before it."""
    assert register_violations([write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)])
    assert not register_violations([write("a", 0, 1), write("b", 2, 6), read("a", 4, 5)])


@st.composite
def histories(draw) -> list[Operation]:
    """Up to eight operations with any overlaps; reads of any written value."""
    count = draw(st.integers(1, 8))
    moments = draw(st.permutations(range(2 * count)))
    operations: list[Operation] = []
    for number in range(count):
        called, returned = sorted(moments[2 * number : 2 * number + 2])
        if draw(st.booleans()):
            operations.append(write(f"w{number}", called, draw(st.sampled_from([returned, NEVER]))))
        else:
            operations.append(read(None, called, returned))
    written = [one.value for one in operations if one.act == Act.WRITE]
    for one in operations:
        if one.act == Act.READ:
            one.value = draw(st.sampled_from([None, *written]))
    return operations


@given(histories())
def test_zones_agree_with_the_search_through_all_orders(operations: list[Operation]) -> None:
    """Two algorithms that share no idea judge every history alike."""
    plain = [PlainOperation(one.called, one.returned, one.act == Act.WRITE, one.value) for one in operations]
    for one in operations:
        if one.act == Act.READ and one.value is None:
            one.version = 0
    assert (not register_violations(operations)) == is_linearizable(plain)


@given(histories())
def test_the_search_for_conditional_writes_agrees_with_the_plain_one(operations: list[Operation]) -> None:
    """Without conditions it judges plain registers."""
    plain = [PlainOperation(one.called, one.returned, one.act == Act.WRITE, one.value) for one in operations]
    assert is_conditional_history_linearizable(operations) == is_linearizable(plain)


CONDITIONAL = [
    write("a", 0, 1, is_conditional=True, expected=None),
    write("b", 2, 5, is_conditional=True, expected="a"),
    write("c", 3, 6, is_conditional=True, expected="a", outcome=Outcome.FAILED),
    read("b", 7, 8),
    write("d", 9, is_conditional=True, expected="b"),
    write("e", 10, is_conditional=True, expected="a"),
    read("d", 11, 12),
]


def test_a_right_history_of_conditional_writes_is_accepted() -> None:
    """One wins, one is refused, one has no outcome and happened, one cannot have."""
    assert is_conditional_history_linearizable(CONDITIONAL)


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (2, write("c", 3, 6, is_conditional=True, expected="a")),  # both win
        (1, write("b", 2, 5, is_conditional=True, expected="a", outcome=Outcome.FAILED)),  # refused, and there
        (3, read("a", 7, 8)),  # the winner is lost
        (6, read("e", 11, 12)),  # its condition never held again
        (2, write("c", 1.2, 1.5, is_conditional=True, expected="a", outcome=Outcome.FAILED)),  # it held all the time
    ],
)
def test_one_wrong_conditional_write_is_found(place: int, wrong: Operation) -> None:
    """Each changes one operation of the right history."""
    changed = list(CONDITIONAL)
    changed[place] = wrong
    assert not is_conditional_history_linearizable(changed)


def member(key: str, act: Act, called: float, returned: float = NEVER, outcome: Outcome = Outcome.OK) -> Operation:
    outcome = Outcome.UNKNOWN if returned == NEVER else outcome
    return Operation(act, key, key, called, returned, outcome)


CHANGES = [
    member("1", Act.WRITE, 0, 1),
    member("2", Act.WRITE, 2, 3),
    member("3", Act.WRITE, 4),
    member("1", Act.DELETE, 6, 7),
    member("4", Act.WRITE, 8, 9, Outcome.FAILED),
]


@pytest.mark.parametrize(
    ("members", "called", "returned", "is_right"),
    [
        ({"1", "2"}, 4, 5, True),
        ({"1", "2", "3"}, 4, 5, True),
        ({"2"}, 6.2, 6.5, True),
        ({"1", "2"}, 6.2, 6.5, True),
        ({"1"}, 4, 5, False),  # an acknowledged member is missing
        ({"1", "2", "3"}, 8, 9, False),  # a removed one is there
        ({"2", "4"}, 10, 11, False),  # a refused one is there
        ({"1", "2"}, 1.2, 1.5, False),  # one before it was added
        ({"1", "2", "9"}, 4, 5, False),  # one that nobody added
    ],
)
def test_a_list_contains_what_it_must_and_nothing_else(members, called, returned, is_right) -> None:
    """Both sides of every edge."""
    assert (set_violations(CHANGES, [Listing(frozenset(members), called, returned)]) == []) is is_right


APPENDS = [write("a", 0, 1), write("b", 2, 3), write("c", 2.5), write("d", 8, 9, outcome=Outcome.FAILED)]


@pytest.mark.parametrize(
    ("readings", "is_right"),
    [
        ([Reading(("a",), 1.5, 1.8), Reading(("a", "b", "c"), 4, 5)], True),
        ([Reading((), 0.2, 0.5), Reading(("a", "b"), 4, 5)], True),
        ([Reading(("a", "b", "b"), 4, 5)], False),  # twice
        ([Reading(("a",), 1.5, 1.8), Reading(("b", "a"), 4, 5)], False),  # no prefix
        ([Reading(("b", "a"), 4, 5)], False),  # against real time
        ([Reading(("a",), 4, 5)], False),  # b is lost
        ([Reading(("a", "b", "d"), 10, 11)], False),  # d was refused
        ([Reading(("a", "b", "x"), 10, 11)], False),  # nobody's
        ([Reading(("a",), 4, 5), Reading(("a", "b"), 6, 7)], False),  # stale: b was acknowledged before
        ([Reading(("a", "b"), 1.2, 1.5), Reading(("a", "b"), 6, 7)], False),  # from the future
    ],
)
def test_a_list_that_grows_is_one_list(readings, is_right) -> None:
    """Duplicates, losses, forks, stale reads."""
    assert (append_violations(APPENDS, readings) == []) is is_right


def test_what_was_acknowledged_is_read_whole_at_every_gateway() -> None:
    """Missing, unreadable, different, or under another ETag: each is found."""
    right = [FinalRead("g1", "k", "a", "E"), FinalRead("g2", "k", "a", "E")]
    assert durability_violations(["k"], ["g1", "g2"], right, {"a": "E"}) == []
    for wrong in (
        FinalRead("g2", "k", None, None, "503 data_unavailable"),
        FinalRead("g2", "k", None, None),
        FinalRead("g2", "k", "b", "F"),
        FinalRead("g2", "k", "a", "F"),
    ):
        assert durability_violations(["k"], ["g1", "g2"], [right[0], wrong], {"a": "E"})
    assert durability_violations(["k"], ["g1", "g2"], right[:1], {"a": "E"})


def test_bytes_of_two_versions_are_found_wherever_they_meet() -> None:
    """A body is one unit repeated; a wrong length, a wrong byte and a seam are not."""
    unit, other = b"0123456789abcdef", b"fedcba9876543210"
    body = (unit * 7)[:100]
    assert torn_body(body, 100, 16) is None
    assert torn_body(body[:-1], 100, 16)
    for seam in range(16, 100, 16):
        assert torn_body((unit * 7)[:seam] + (other * 7)[seam:100], 100, 16)


RIGHT_ANSWER = Answer(
    "gateway-1", "PUT k", 503, 0, 2 * S, retry_after="1", problem={"code": "quorum_not_reached", "definite": True}
)


@pytest.mark.parametrize(
    "change",
    [
        {"status": 500},
        {"status": 0, "error": "ServerDisconnectedError"},
        {"retry_after": None},
        {"retry_after": "0"},
        {"problem": {"code": "quorum_not_reached"}},
        {"returned": 12 * S},
        {"returned": 40 * S, "size_bytes": 5 << 20},
    ],
)
def test_a_dishonest_answer_is_found(change) -> None:
    """Wrong status, no answer, no Retry-After, no `definite`, too late."""
    assert honesty_violations([RIGHT_ANSWER]) == []
    assert honesty_violations([replace(RIGHT_ANSWER, returned=30 * S, size_bytes=5 << 20)]) == []
    assert honesty_violations([replace(RIGHT_ANSWER, **change)])
    assert honesty_violations([replace(RIGHT_ANSWER, **change, is_disturbed=True)]) == []
