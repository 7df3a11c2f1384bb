"""The tests' source of chance: one seed repeats everything, and no seed repeats nothing."""

from __future__ import annotations

from tests.chance import draw_seed, random_bytes, start_from


def test_the_same_seed_gives_the_same_bytes() -> None:
    """So that a failure can be run again with the seed that it printed."""
    printed = start_from(None)
    first = [random_bytes(100), draw_seed(), random_bytes(1)]
    assert start_from(str(printed)) == printed
    assert [random_bytes(100), draw_seed(), random_bytes(1)] == first


def test_without_a_seed_no_run_is_like_another() -> None:
    """Bytes that came up in every run would find what the run before has left."""
    start_from(None)
    first = random_bytes(32)
    start_from(None)
    assert random_bytes(32) != first


def test_a_test_starts_from_the_seed_that_it_is_shown(seed: int) -> None:
    """Whatever ran before it."""
    first = random_bytes(32)
    start_from(str(seed))
    assert random_bytes(32) == first
