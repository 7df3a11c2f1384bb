"""N, W and R at their edges."""

from __future__ import annotations

import pytest

from services.gateway.replicas.quorum import (
    Quorums,
    WriteTally,
    durability,
    replicas_confirmed,
    require_enough_nodes,
    require_read_quorum,
)
from shared.errors import DiskFullError, InvalidRequestError, PeerUnreachableError, QuorumNotReachedError

DEFAULTS = Quorums(replica_count=3, write_quorum=2, read_quorum=2)


def test_a_chunk_counts_with_w_acknowledgements_and_not_with_one_fewer() -> None:
    """Both sides of the write quorum."""
    tally = WriteTally(target=3, needed=2)
    tally.record_stored("a")
    assert not tally.is_quorum_met
    tally.record_stored("a")
    assert not tally.is_quorum_met, "one node is one replica, however often it answers"
    tally.record_stored("b")
    assert tally.is_quorum_met


@pytest.mark.parametrize(
    ("acknowledged", "under_way", "wanted", "is_short"),
    [
        (0, 0, 3, True),
        (0, 1, 2, True),
        (0, 2, 1, False),
        (1, 1, 1, False),
        (1, 0, 2, True),
        (2, 1, 0, False),
        (3, 0, 0, False),
    ],
)
def test_attempts_are_started_for_n_and_missed_only_below_w(acknowledged, under_way, wanted, is_short) -> None:
    """N attempts are wanted; the quorum is out of reach only when even all of them would not meet W."""
    tally = WriteTally(target=3, needed=2, acknowledged={f"n{i}" for i in range(acknowledged)})
    assert tally.wanted(under_way) == wanted
    assert tally.is_short(under_way) == is_short


def test_a_late_success_replaces_the_refusal() -> None:
    """A retry that succeeds is counted, and its node is no longer among the refusals."""
    tally = WriteTally(target=3, needed=1)
    tally.record_refusal("a", PeerUnreachableError("x"))
    tally.record_stored("a")
    tally.record_refusal("a", PeerUnreachableError("late"))
    assert tally.acknowledged == {"a"}
    assert tally.refusals == {}


def test_a_missed_quorum_carries_the_counts_and_is_definite() -> None:
    """Nothing was published, and the problem says what was missing where."""
    tally = WriteTally(target=3, needed=2, acknowledged={"a"})
    tally.record_refusal("b", PeerUnreachableError("x"))
    tally.record_refusal("c", DiskFullError("x"))
    error = tally.failure()
    assert isinstance(error, QuorumNotReachedError)
    assert error.definite
    assert error.facts == {"needed": 2, "acknowledged": 1, "outcomes": {"b": "peer_unreachable", "c": "disk_full"}}


def test_full_nodes_alone_are_a_507() -> None:
    """When every refusal is a full disk, the answer is 507 and not 503."""
    tally = WriteTally(target=3, needed=2, acknowledged={"a"})
    tally.record_refusal("b", DiskFullError("x"))
    assert tally.failure().status == 507


def test_durability_is_that_of_the_weakest_chunk() -> None:
    """The receipt never promises more than the worst chunk has."""
    tallies = [WriteTally(3, 2, acknowledged={"a", "b", "c"}), WriteTally(3, 2, acknowledged={"b", "c"})]
    for order in (tallies, tallies[::-1]):
        assert durability(order, 3).acknowledged == 2
        assert durability(order, 3).nodes == ["a", "b", "c"]
    assert durability([], 3).acknowledged == 3


@pytest.mark.parametrize("value", ["0", "4", "-1", "+2", " 2", "2.0", "", "1_0", "\u0662", "two", "999999"])
def test_a_quorum_header_outside_1_to_n_is_refused(value) -> None:
    """Only plain numbers from 1 to N; int() would take more."""
    with pytest.raises(InvalidRequestError):
        DEFAULTS.for_request(value, None)
    with pytest.raises(InvalidRequestError):
        DEFAULTS.for_request(None, value)


def test_asking_for_r_makes_it_a_condition() -> None:
    """Without the header R is reported, with it R is required."""
    require_read_quorum(1, DEFAULTS.for_request("3", None))
    strict = DEFAULTS.for_request(None, "3")
    assert strict.write_quorum == 2
    require_read_quorum(3, strict)
    with pytest.raises(QuorumNotReachedError) as caught:
        require_read_quorum(2, strict)
    assert caught.value.facts == {"needed": 3, "acknowledged": 2}


def test_confirmed_is_the_weakest_chunk_and_n_without_chunks() -> None:
    """An empty file needs no replica."""
    assert replicas_confirmed([{"a", "b"}, {"a"}], 3) == 1
    assert replicas_confirmed([{"a"}, {"a", "b"}], 3) == 1
    assert replicas_confirmed([], 3) == 3


def test_too_few_nodes_are_refused_before_the_body() -> None:
    """W nodes are enough, one fewer is not."""
    require_enough_nodes(2, DEFAULTS)
    with pytest.raises(QuorumNotReachedError) as caught:
        require_enough_nodes(1, DEFAULTS)
    assert caught.value.definite
