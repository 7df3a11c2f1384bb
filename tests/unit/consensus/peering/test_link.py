"""When a connection between members counts as dead: after so many beats without news, no sooner and no later."""

from __future__ import annotations

from services.consensus.peering.link import SILENT_BEATS, Pulse


def test_a_count_that_grows_at_the_last_moment_is_alive() -> None:
    """Slow is not dead, for as long as it lasts."""
    pulse = Pulse()
    for count in range(1, 50):
        assert not any(pulse.is_lost(count) for _ in range(SILENT_BEATS))


def test_a_count_that_does_not_grow_is_lost_at_the_next_beat() -> None:
    """One beat past the limit."""
    pulse = Pulse()
    assert [pulse.is_lost(5) for _ in range(SILENT_BEATS + 1)] == [False] * SILENT_BEATS + [True]


def test_a_connection_that_never_carried_anything_is_lost_too() -> None:
    """Dead from birth: nothing ever arrived, so the count is still 0."""
    pulse = Pulse()
    assert [pulse.is_lost(0) for _ in range(SILENT_BEATS)] == [False] * (SILENT_BEATS - 1) + [True]
