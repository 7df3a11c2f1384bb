"""What a leader may let the state machine forget is decided by its own monotonic clock, never by a timestamp."""

from __future__ import annotations

from services.consensus.nodes import PastIndexes


def test_nothing_is_old_before_it_was_seen_long_enough_ago() -> None:
    """A new leader has seen nothing, so it forgets nothing, however far ahead its clock is."""
    past = PastIndexes()
    assert past.index_before(1e9) is None
    past.note(100.0, 7)
    assert past.index_before(99.9) is None
    assert past.index_before(100.0) == 7


def test_the_newest_old_index_counts() -> None:
    """Of all that was seen long enough ago."""
    past = PastIndexes()
    for minute in range(10):
        past.note(60.0 * minute, 100 * minute)
    assert past.index_before(299.0) == 400
    assert past.index_before(300.0) == 500


def test_notes_are_bounded() -> None:
    """The oldest is let go; what is forgotten is then only later."""
    past = PastIndexes()
    for minute in range(10_000):
        past.note(60.0 * minute, minute)
    assert past.index_before(60.0 * 9_000) is None
    assert past.index_before(60.0 * 9_990) == 9_990
