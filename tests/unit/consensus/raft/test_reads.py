"""ReadIndex (thesis, section 6.4): a read waits for a proof of leadership that began after it arrived."""

from __future__ import annotations

from services.consensus.raft.reads import ReadRounds


def rounds_with(*reads: str) -> ReadRounds[str]:
    rounds = ReadRounds[str]()
    for read in reads:
        rounds.join(read)
    return rounds


def test_a_round_proves_the_reads_that_waited_when_it_began() -> None:
    """All of them, once."""
    rounds = rounds_with("a", "b")
    rounds.begin(1)
    assert rounds.proven(1) == ["a", "b"]
    assert rounds.proven(1) == []


def test_a_read_that_arrives_during_a_round_waits_for_the_next() -> None:
    """The round under way may have been answered before the read arrived."""
    rounds = rounds_with("early")
    rounds.begin(1)
    rounds.join("late")
    assert rounds.proven(1) == ["early"]
    assert rounds.wants_round
    rounds.begin(2)
    assert rounds.proven(2) == ["late"]


def test_an_older_round_proves_nothing_for_a_later_one() -> None:
    """Its answers were caused by messages that left before the read arrived."""
    rounds = rounds_with("a")
    rounds.begin(5)
    assert rounds.proven(4) == []
    assert rounds.proven(5) == ["a"]


def test_a_later_round_proves_the_earlier_ones() -> None:
    """Answers may be lost; who still leads in round 3 led in round 2."""
    rounds = rounds_with("a")
    rounds.begin(2)
    assert rounds.proven(3) == ["a"]


def test_one_round_at_a_time_is_wanted_and_only_if_somebody_waits() -> None:
    """A thousand reads cost one round, not a thousand."""
    rounds = rounds_with()
    assert not rounds.wants_round
    rounds.join("a")
    assert rounds.wants_round
    rounds.begin(1)
    rounds.join("b")
    assert not rounds.wants_round


def test_loss_of_leadership_ends_all_reads_that_wait() -> None:
    """Collecting and proving alike; a late answer finds nobody."""
    rounds = rounds_with("proving")
    rounds.begin(1)
    rounds.join("collecting")
    assert sorted(rounds.fail()) == ["collecting", "proving"]
    assert rounds.fail() == []
    assert rounds.proven(1) == []
    assert not rounds.wants_round
