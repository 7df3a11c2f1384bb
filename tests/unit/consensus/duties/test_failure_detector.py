"""The leader's view of heartbeats: silence, grace, elections, returns, and what nodes say of their health."""

from __future__ import annotations

import pytest

from services.consensus.duties.failure_detector import FLAPPING_WINDOW_S, FailureDetector, Verdict
from shared.contracts.cluster import HealthReport, NodeState

ACTIVE, SUSPECT, INACTIVE, DRAINING = NodeState.ACTIVE, NodeState.SUSPECT, NodeState.INACTIVE, NodeState.DRAINING
JOINING = NodeState.JOINING
WELL = HealthReport(is_failing=False, is_slow=False)
FAILING = HealthReport(is_failing=True, is_slow=False)
SLOW = HealthReport(is_failing=False, is_slow=True)
ELECTED_S = 1000.0


def detector() -> FailureDetector:
    made = FailureDetector(grace_s=60, heartbeat_interval_s=30)
    made.became_leader(ELECTED_S, ["storage-1", "storage-2"])
    return made


def state_of(watched: FailureDetector, at_s: float, known: NodeState = ACTIVE, node_id: str = "storage-1") -> NodeState:
    return watched.judge(node_id, known, at_s).state


@pytest.mark.parametrize(
    ("heard", "at_s", "known", "expected"),
    [
        # silence, counted from the last heartbeat: 1.5 intervals are forgiven, then the grace period
        ([(1010, WELL)], 1055.0, ACTIVE, ACTIVE),
        ([(1010, WELL)], 1055.001, ACTIVE, SUSPECT),
        ([(1010, WELL)], 1070.0, ACTIVE, SUSPECT),
        ([(1010, WELL)], 1070.001, ACTIVE, INACTIVE),
        ([(1010, WELL)], 1070.001, SUSPECT, INACTIVE),
        # counted from the election while nothing was heard
        ([], 1045.0, ACTIVE, ACTIVE),
        ([], 1045.001, ACTIVE, SUSPECT),
        ([], 1060.0, ACTIVE, SUSPECT),
        ([], 1060.001, ACTIVE, INACTIVE),
        # what an earlier leader knew holds until the node speaks
        ([], 1001.0, SUSPECT, SUSPECT),
        ([], 1001.0, INACTIVE, INACTIVE),
        ([], 1060.001, SUSPECT, INACTIVE),
        ([(1002, WELL)], 1002.0, SUSPECT, ACTIVE),
        ([(1002, WELL)], 1002.0, INACTIVE, ACTIVE),
        ([(1002, None)], 1002.0, INACTIVE, ACTIVE),
        # health
        ([(1002, FAILING)], 1002.0, ACTIVE, SUSPECT),
        ([(1002, SLOW)], 1002.0, ACTIVE, SUSPECT),
        ([(1002, FAILING)], 1002.0, INACTIVE, SUSPECT),
        ([(1002, FAILING), (1003, WELL)], 1003.0, SUSPECT, SUSPECT),
        ([(1002, FAILING), (1031, WELL)], 1031.999, SUSPECT, SUSPECT),
        ([(1002, FAILING), (1031, WELL)], 1032.0, SUSPECT, ACTIVE),
        ([(1002, FAILING)], 1062.001, SUSPECT, INACTIVE),
        # an operator's word stands
        ([(1002, WELL)], 1002.0, DRAINING, DRAINING),
        ([(1002, FAILING)], 1900.0, DRAINING, DRAINING),
        ([], 1900.0, JOINING, JOINING),
    ],
)
def test_the_state_that_a_node_should_have(heard, at_s, known, expected) -> None:
    """By when it was heard, with what it said of its health, and by what the log says."""
    watched = detector()
    for heard_at_s, health in heard:
        watched.heard("storage-1", heard_at_s, health)
    verdict = watched.judge("storage-1", known, at_s)
    assert verdict.state is expected
    assert (verdict.reason is None) == (expected is ACTIVE) or expected in {DRAINING, JOINING}


def test_a_new_leader_gives_every_node_a_full_grace_period() -> None:
    """What an earlier leadership heard, or did not hear, counts no longer."""
    watched = detector()
    assert state_of(watched, 2000.0) is INACTIVE
    watched.became_leader(2000.0, ["storage-1", "storage-2"])
    assert state_of(watched, 2045.0) is ACTIVE
    assert state_of(watched, 2060.0) is SUSPECT
    assert state_of(watched, 2060.5) is INACTIVE


def test_a_return_and_a_trouble_are_forgotten_with_the_leadership() -> None:
    """A member that leads again later waits for a new heartbeat."""
    watched = detector()
    watched.heard("storage-2", 1002.0, FAILING)
    watched.became_leader(1003.0, ["storage-1", "storage-2"])
    assert state_of(watched, 1003.0, INACTIVE, "storage-2") is INACTIVE
    watched.heard("storage-2", 1004.0, WELL)
    assert state_of(watched, 1004.0, INACTIVE, "storage-2") is ACTIVE


def come_and_go(watched: FailureDetector, times: int, *, away_s: float) -> float:
    at_s = ELECTED_S
    watched.heard("storage-1", at_s, WELL)
    for _ in range(times):
        at_s += away_s
        watched.heard("storage-1", at_s, WELL)
    return at_s


def test_a_node_that_comes_and_goes_is_suspect_until_it_stays() -> None:
    """Three returns within the window are forgiven, the fourth is not; it is over when one of them is old."""
    watched = detector()
    assert state_of(watched, come_and_go(watched, 3, away_s=61)) is ACTIVE
    watched = detector()
    last_s = come_and_go(watched, 4, away_s=61)
    assert watched.judge("storage-1", ACTIVE, last_s) == Verdict(SUSPECT, "it came back 4 times within 600 s")
    first_s = ELECTED_S + 61
    for at_s in range(int(last_s), int(first_s + FLAPPING_WINDOW_S), 30):
        watched.heard("storage-1", at_s, WELL)
    assert state_of(watched, first_s + FLAPPING_WINDOW_S - 0.5, SUSPECT) is SUSPECT
    assert state_of(watched, first_s + FLAPPING_WINDOW_S, SUSPECT) is ACTIVE


def test_a_silence_within_the_grace_period_is_no_return() -> None:
    """Heartbeats that are merely late do not make a node flap."""
    watched = detector()
    assert state_of(watched, come_and_go(watched, 10, away_s=60)) is ACTIVE


def test_a_node_that_joins_is_watched_from_then_on_and_a_removed_one_no_longer() -> None:
    """Nodes that were known keep their silence; new ones start with a full grace period."""
    watched = detector()
    watched.watch(1050.0, {"storage-1", "storage-3"})
    assert state_of(watched, 1061.0) is INACTIVE
    assert state_of(watched, 1061.0, node_id="storage-3") is ACTIVE
    assert state_of(watched, 1111.0, node_id="storage-3") is INACTIVE
    watched.heard("storage-3", 1112.0, FAILING)
    watched.watch(1113.0, {"storage-1"})
    watched.watch(1114.0, {"storage-1", "storage-3"})
    assert state_of(watched, 1114.0, node_id="storage-3") is ACTIVE


def test_a_heartbeat_that_is_reported_late_does_not_turn_back_time() -> None:
    """Two heartbeats handled in the wrong order leave the later one."""
    watched = detector()
    watched.heard("storage-1", 1050.0, WELL)
    watched.heard("storage-1", 1020.0, WELL)
    assert state_of(watched, 1095.0) is ACTIVE


def test_an_unknown_node_that_speaks_is_watched() -> None:
    """A node admitted a moment ago may speak before the map is looked at."""
    watched = detector()
    watched.heard("storage-9", 1001.0)
    assert state_of(watched, 1001.0, INACTIVE, "storage-9") is ACTIVE
    assert state_of(watched, 1062.0, ACTIVE, "storage-9") is INACTIVE


def test_a_node_that_was_never_watched_stays_what_it_is() -> None:
    """It entered the map between two looks."""
    assert detector().judge("storage-9", INACTIVE, 9999.0) == Verdict(INACTIVE)


def test_with_a_grace_period_below_the_interval_nothing_is_suspect_for_its_silence() -> None:
    """The shorter of the two decides."""
    watched = FailureDetector(grace_s=2, heartbeat_interval_s=30)
    watched.became_leader(ELECTED_S, ["storage-1"])
    assert state_of(watched, ELECTED_S + 2) is ACTIVE
    assert state_of(watched, ELECTED_S + 2.001) is INACTIVE


def test_a_grace_period_of_nothing_is_refused() -> None:
    """It would declare every node dead between two heartbeats."""
    with pytest.raises(ValueError):
        FailureDetector(grace_s=0)
