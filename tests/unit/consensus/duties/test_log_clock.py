"""What one leadership may tell the log: each moment once, and never more than has passed."""

from services.consensus.duties.log_clock import ElapsedTime


def test_a_leadership_begins_with_nothing():
    """What passed before it is not its own to tell."""
    elapsed = ElapsedTime()
    assert elapsed.elapsed_ms(1, 1000.0) == 0
    assert elapsed.elapsed_ms(1, 1060.0) == 60_000


def test_what_was_told_is_not_told_again():
    """From the answer on, not from the question: the entry stands in the log somewhere between the two."""
    elapsed = ElapsedTime()
    elapsed.elapsed_ms(1, 1000.0)
    elapsed.answered(1062.0)
    assert elapsed.elapsed_ms(1, 1070.0) == 8000


def test_another_leadership_begins_anew():
    """Also for the member that led before: somebody else may have told in between."""
    elapsed = ElapsedTime()
    elapsed.elapsed_ms(1, 1000.0)
    assert elapsed.elapsed_ms(3, 1060.0) == 0
    assert elapsed.elapsed_ms(3, 1061.5) == 1500
