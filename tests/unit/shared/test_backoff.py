"""`shared.backoff`: pauses that double, spread over everything below their ceiling."""

from __future__ import annotations

import random

import pytest

from shared.backoff import Backoff, ceiling_s


def test_the_ceiling_doubles_from_the_base_up_to_the_limit() -> None:
    """However often an attempt failed."""
    assert [ceiling_s(failures, base_s=5, limit_s=60) for failures in (1, 2, 3, 4, 5, 6, 10_000)] == [
        5,
        10,
        20,
        40,
        60,
        60,
        60,
    ]


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.75])
def test_chance_spreads_a_pause_over_everything_below_its_ceiling(chance: float) -> None:
    """Full jitter: from nothing up to the ceiling."""
    backoff = Backoff(1.0, 8.0, lambda: chance)
    assert [backoff.failed() for _ in range(5)] == [chance * ceiling for ceiling in (1.0, 2.0, 4.0, 8.0, 8.0)]


def test_a_success_begins_anew() -> None:
    """The next failure waits for the base at most."""
    backoff = Backoff(1.0, 8.0, lambda: 0.5)
    for _ in range(4):
        backoff.failed()
    backoff.succeeded()
    assert backoff.failures == 0
    assert backoff.failed() == 0.5


def test_two_that_failed_together_do_not_come_back_together(seed: int) -> None:
    """They draw from chance, each for itself."""
    one, other = (Backoff(1.0, 8.0, random.Random(seed + number).random) for number in range(2))
    assert [one.failed() for _ in range(5)] != [other.failed() for _ in range(5)]
