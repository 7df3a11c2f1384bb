"""When a slow leader hands over: only where another member is far nearer to a majority, for long, and seldom."""

from __future__ import annotations

import pytest

from services.consensus.duties.slow_leader import HAND_OVER_INTERVAL_S, PATIENCE_S, TIMES_FASTER, SlowLeader
from services.consensus.raft.decide import majority_round_trip_ms

LIMIT_MS = 500
NEAR = {"m2": 2, "m3": 3}


def handed_over_at(
    leader: SlowLeader, own_ms: int | None, others_ms: dict[str, int | None], *, until_s: int
) -> int | None:
    """The first second at which somebody else should lead."""
    return next((second for second in range(until_s) if leader.successors(second, own_ms, others_ms)), None)


def test_a_leader_far_from_a_majority_hands_over_to_those_that_are_near() -> None:
    """After it led for a while, and not before."""
    leader = SlowLeader(LIMIT_MS, 0.0)
    assert handed_over_at(leader, 1000, {"m2": 2, "m3": 900}, until_s=60) == HAND_OVER_INTERVAL_S
    assert leader.successors(HAND_OVER_INTERVAL_S + 1, 1000, {"m2": 2, "m3": 900}) == ["m2"]


def test_a_leader_that_has_long_led_is_slow_for_a_while_before_it_goes() -> None:
    """One moment above the limit is nothing."""
    leader = SlowLeader(LIMIT_MS, -1000.0)
    assert handed_over_at(leader, LIMIT_MS, dict(NEAR), until_s=60) == PATIENCE_S


@pytest.mark.parametrize(
    ("own_ms", "others_ms"),
    [
        (LIMIT_MS - 1, {"m2": 1, "m3": 1}),
        (1000, {"m2": 1000 // TIMES_FASTER + 1, "m3": 1000}),
        (1000, {"m2": None, "m3": None}),
        (None, {"m2": 1, "m3": 1}),
        (1000, {}),
    ],
    ids=["just below the limit", "all are slow", "others unknown", "unknown itself", "alone"],
)
def test_a_leader_stays_when_nobody_is_known_to_be_much_better(
    own_ms: int | None, others_ms: dict[str, int | None]
) -> None:
    """An election that changes nothing would be repeated for ever."""
    assert handed_over_at(SlowLeader(LIMIT_MS, 0.0), own_ms, others_ms, until_s=600) is None


@pytest.mark.parametrize("break_ms", [None, LIMIT_MS - 1])
def test_every_break_begins_the_patience_anew(break_ms: int | None) -> None:
    """Slow now and then is not slow."""
    leader = SlowLeader(LIMIT_MS, -1000.0)
    for second in range(600):
        own_ms = break_ms if second % int(PATIENCE_S) == 0 else 1000
        assert not leader.successors(second, own_ms, NEAR)


def test_a_hand_over_that_failed_is_tried_again_after_a_rest() -> None:
    """While it is tried nothing is proposed, so trying all the time would be worse than a slow leader."""
    leader = SlowLeader(LIMIT_MS, -1000.0)
    tries = []
    for second in range(101):
        if leader.successors(second, 1000, NEAR):
            leader.tried(second)
            tries.append(second)
    assert tries == [5, 25, 45, 65, 85]


@pytest.mark.parametrize(
    ("voters", "known_ms", "expected"),
    [
        ("m1", {}, 0),
        ("m1 m2", {"m2": 7}, 7),
        ("m1 m2", {}, None),
        ("m1 m2 m3", {"m2": 900, "m3": 2}, 2),
        ("m1 m2 m3", {"m2": 900}, 900),
        ("m1 m2 m3 m4", {"m2": 1, "m3": 5, "m4": 900}, 5),
        ("m1 m2 m3 m4 m5", {"m2": 1, "m3": 800, "m4": 900, "m5": 2}, 2),
        ("m1 m2 m3 m4 m5", {"m2": 1}, None),
        ("m2 m3", {"m2": 1, "m3": 1}, None),
        ("m1 m2 m3", {"m2": 900, "m3": 901, "m9": 1}, 900),
    ],
)
def test_a_majority_has_answered_once_the_last_voter_that_it_needs_has(
    voters: str, known_ms: dict[str, int], expected: int | None
) -> None:
    """Those beyond the majority do not matter, nor does anybody who is no voter."""
    assert majority_round_trip_ms("m1", frozenset(voters.split()), known_ms) == expected
