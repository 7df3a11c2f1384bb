"""Whom to ask next: hints, suspicion, pauses; no network and no waiting."""

import pytest

from shared.consensus_calls.leader_tracker import LeaderTracker
from shared.peer_address import PeerAddress
from shared.roles import Role

MEMBERS = [PeerAddress(f"consensus-{n}", f"http://127.0.0.1:{8200 + n}", Role.CONSENSUS) for n in (1, 2, 3)]


def test_suspected_members_come_last_and_only_until_the_suspicion_ends():
    """When every member is suspected, they are asked all the same."""
    tracker = LeaderTracker(MEMBERS)
    tracker.failed(MEMBERS[0], 10.0, 1.0)
    assert {tracker.choose(10.5).id for _ in range(4)} == {"consensus-2", "consensus-3"}
    assert {tracker.choose(11.5).id for _ in range(3)} == {"consensus-1", "consensus-2", "consensus-3"}
    for member in MEMBERS:
        tracker.failed(member, 12.0, 1.0)
    assert {tracker.choose(12.5).id for _ in range(3)} == {"consensus-1", "consensus-2", "consensus-3"}


def test_pauses_begin_when_every_member_was_asked_and_are_bounded():
    """The first round is immediate; a leader that answers resets it."""
    tracker = LeaderTracker(MEMBERS)
    pauses = []
    for attempt in range(40):
        tracker.redirected(MEMBERS[attempt % 3], None, None, 1.0)
        pauses.append(tracker.pause_s())
    assert pauses[:2] == [0.0, 0.0]
    assert pauses[2] > 0
    assert pauses == sorted(pauses)
    assert pauses[-1] <= 0.25
    tracker.led(MEMBERS[0])
    assert tracker.pause_s() == 0.0


@pytest.mark.parametrize(
    ("leader_id", "leader_url"),
    [
        ("consensus-1", "http://127.0.0.1:1"),
        ("../etc", "http://127.0.0.1:1"),
        ("consensus-9", "file:///etc/passwd"),
        ("consensus-9", None),
        (7, "http://127.0.0.1:1"),
        (None, None),
    ],
)
def test_a_hint_that_cannot_be_used_is_ignored(leader_id, leader_url):
    """A member that names itself, or nonsense, does not become the leader; the others are asked in turn."""
    tracker = LeaderTracker(MEMBERS)
    first = tracker.choose(1.0)
    tracker.redirected(first, leader_id, leader_url, 1.0)
    assert tracker.choose(1.0) == MEMBERS[1]


def test_a_known_member_is_called_at_its_configured_address():
    """A hint's URL never replaces what this process was configured with."""
    tracker = LeaderTracker(MEMBERS)
    tracker.redirected(MEMBERS[0], "consensus-3", "http://127.0.0.1:1", 1.0)
    assert tracker.choose(1.0) == MEMBERS[2]


def test_members_that_come_and_go_for_years_are_learnt_and_the_oldest_forgotten():
    """The hint of a leader that joined after a hundred others is followed; the configured members stay."""
    tracker = LeaderTracker(MEMBERS)
    for number in range(10, 200):
        tracker.redirected(MEMBERS[0], f"consensus-{number}", f"http://127.0.0.1:{number}", 1.0)
        assert tracker.choose(1.0).id == f"consensus-{number}"
    tracker.redirected(MEMBERS[0], None, None, 1.0)
    asked = {tracker.choose(1.0).id for _ in range(100)}
    assert asked.issuperset(member.id for member in MEMBERS)
    assert len(asked) < 30


def test_a_client_that_outlives_every_member_it_was_told_finds_the_group():
    """The leader names everybody in its answers; who left is forgotten, who came is asked when the leader is gone."""
    tracker = LeaderTracker(MEMBERS)
    tracker.led(MEMBERS[0])
    tracker.members_are("consensus-1=http://127.0.0.1:8201,consensus-8=http://127.0.0.1:8208")
    tracker.members_are("consensus-8=http://127.0.0.1:8208,consensus-9=http://127.0.0.1:8209")
    tracker.failed(MEMBERS[0], 1.0, 100.0)
    assert {tracker.choose(1.0).id for _ in range(20)} >= {"consensus-8", "consensus-9"}
    tracker.members_are("consensus-9=http://127.0.0.1:8209")
    assert "consensus-8" not in {tracker.choose(1.0).id for _ in range(20)}


def test_members_that_a_leader_names_wrongly_are_not_learnt():
    """Whatever stands in a header, only ids and URLs that could be members are called."""
    tracker = LeaderTracker(MEMBERS)
    tracker.members_are("../etc=http://127.0.0.1:1,consensus-9=file:///etc/passwd,,=,consensus-8")
    assert {tracker.choose(1.0).id for _ in range(20)} == {member.id for member in MEMBERS}
