"""The leader's view of heartbeats: silence, grace, elections, returns."""

import pytest

from services.consensus.duties.failure_detector import FailureDetector


def detector() -> FailureDetector:
    made = FailureDetector(grace_s=60)
    made.became_leader(1000.0, ["storage-1", "storage-2"])
    return made


def test_a_node_is_overdue_only_beyond_the_grace_period():
    """Silence of exactly the grace period is still forgiven, a moment more is not."""
    watched = detector()
    watched.heard("storage-1", 1010.0)
    assert watched.overdue(1060.0) == []
    assert watched.overdue(1060.001) == ["storage-2"]
    assert watched.overdue(1070.0) == ["storage-2"]
    assert watched.overdue(1070.001) == ["storage-1", "storage-2"]


def test_a_new_leader_gives_every_node_a_full_grace_period():
    """What an earlier leadership heard, or did not hear, counts no longer."""
    watched = detector()
    assert watched.overdue(2000.0) == ["storage-1", "storage-2"]
    watched.became_leader(2000.0, ["storage-1", "storage-2"])
    assert watched.overdue(2060.0) == []
    assert watched.overdue(2060.5) == ["storage-1", "storage-2"]


def test_only_a_heartbeat_makes_a_node_return():
    """The grace that comes with an election does not make an inactive node active again."""
    watched = detector()
    assert watched.returned(1001.0, ["storage-2"]) == []
    watched.heard("storage-2", 1002.0)
    assert watched.returned(1002.0, ["storage-2"]) == ["storage-2"]
    assert watched.returned(1062.5, ["storage-2"]) == []


def test_a_return_is_forgotten_with_the_leadership():
    """A member that leads again later waits for a new heartbeat."""
    watched = detector()
    watched.heard("storage-2", 1002.0)
    watched.became_leader(1003.0, ["storage-1", "storage-2"])
    assert watched.returned(1003.0, ["storage-2"]) == []


def test_a_node_that_joins_is_watched_from_then_on_and_a_removed_one_no_longer():
    """Nodes that were known keep their silence; new ones start with a full grace period."""
    watched = detector()
    watched.watch(1050.0, {"storage-1", "storage-3"})
    assert watched.overdue(1061.0) == ["storage-1"]
    assert watched.overdue(1111.0) == ["storage-1", "storage-3"]
    watched.heard("storage-3", 1112.0)
    watched.watch(1113.0, {"storage-1"})
    assert watched.returned(1113.0, ["storage-3"]) == []


def test_a_heartbeat_that_is_reported_late_does_not_turn_back_time():
    """Two heartbeats handled in the wrong order leave the later one."""
    watched = detector()
    watched.heard("storage-1", 1050.0)
    watched.heard("storage-1", 1020.0)
    assert "storage-1" not in watched.overdue(1105.0)


def test_an_unknown_node_that_speaks_is_watched():
    """A node admitted a moment ago may speak before the map is looked at."""
    watched = detector()
    watched.heard("storage-9", 1001.0)
    assert watched.overdue(1062.0) == ["storage-1", "storage-2", "storage-9"]


def test_a_grace_period_of_nothing_is_refused():
    """It would declare every node dead between two heartbeats."""
    with pytest.raises(ValueError):
        FailureDetector(grace_s=0)
