"""ReadIndex (thesis, section 6.4): a read waits for a proof of leadership that began after it arrived."""

from __future__ import annotations

import pytest

from services.consensus.raft.reads import ReadRounds
from shared.errors import LeaderUnavailableError


async def test_a_round_proves_the_reads_that_waited_when_it_began() -> None:
    """And nothing proves them before."""
    rounds = ReadRounds()
    read = rounds.join()
    rounds.begin(1)
    assert not read.done()
    rounds.proven(1)
    assert read.result() is None


async def test_a_read_that_arrives_during_a_round_waits_for_the_next() -> None:
    """The round under way may have been answered before the read arrived."""
    rounds = ReadRounds()
    rounds.join()
    rounds.begin(1)
    late = rounds.join()
    rounds.proven(1)
    assert not late.done()
    assert rounds.wants_round
    rounds.begin(2)
    rounds.proven(2)
    assert late.done()


async def test_an_older_round_proves_nothing_for_a_later_one() -> None:
    """Its answers were caused by messages that left before the read arrived."""
    rounds = ReadRounds()
    read = rounds.join()
    rounds.begin(5)
    rounds.proven(4)
    assert not read.done()
    rounds.proven(5)
    assert read.done()


async def test_a_later_round_proves_the_earlier_ones() -> None:
    """Answers may be lost; who still leads in round 3 led in round 2."""
    rounds = ReadRounds()
    read = rounds.join()
    rounds.begin(2)
    rounds.proven(3)
    assert read.done()


async def test_one_round_at_a_time_is_wanted_and_only_if_somebody_waits() -> None:
    """A thousand reads cost one round, not a thousand."""
    rounds = ReadRounds()
    assert not rounds.wants_round
    rounds.join()
    assert rounds.wants_round
    rounds.begin(1)
    rounds.join()
    assert not rounds.wants_round


async def test_loss_of_leadership_refuses_all_reads_that_wait() -> None:
    """Collecting and proving alike; a read that was refused certainly changed nothing."""
    rounds = ReadRounds()
    proving = rounds.join()
    rounds.begin(1)
    collecting = rounds.join()
    rounds.fail()
    for read in (proving, collecting):
        with pytest.raises(LeaderUnavailableError) as refusal:
            read.result()
        assert refusal.value.definite
    rounds.proven(1)  # a late answer finds nobody
    assert not rounds.wants_round


async def test_a_read_that_was_given_up_disturbs_neither_proof_nor_failure() -> None:
    """Clients go away."""
    rounds = ReadRounds()
    gone, other = rounds.join(), rounds.join()
    gone.cancel()
    rounds.begin(1)
    rounds.proven(1)
    assert other.done()
    rounds.join().cancel()
    rounds.fail()
