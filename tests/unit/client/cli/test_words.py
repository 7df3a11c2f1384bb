"""Sizes, times and names for people."""

from __future__ import annotations

import pytest

from trivet.cli import words


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (102400, "100 KiB"),
        (10**9, "954 MiB"),
        (1 << 60, "1.0 EiB"),
    ],
)
def test_a_size_has_at_most_three_digits(size_bytes, text) -> None:
    assert words.size(size_bytes) == text


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("10", 10), ("1KiB", 1024), ("1K", 1024), ("1kB", 1000), ("1.5 GiB", 3 << 29), ("2TB", 2 * 10**12)],
)
def test_a_size_is_read_in_powers_of_two_and_of_ten(text, size_bytes) -> None:
    assert words.parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "x", "10 bananas", "-1", "1e3"])
def test_what_is_no_size_is_refused(text) -> None:
    with pytest.raises(ValueError, match="is no size"):
        words.parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("45m", 2700), ("12h", 43200), ("1d12h", 129600), ("30min", 1800)]
)
def test_a_length_of_time_is_read(text, seconds) -> None:
    assert words.parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5m1h", "-5m"])
def test_what_is_no_length_of_time_is_refused(text) -> None:
    with pytest.raises(ValueError, match="length of time"):
        words.parse_duration_s(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (0.44, "0.4 s"), (12, "12 s"), (200, "3 min 20 s"), (3600, "1 h"), (100_000, "1 d 3 h")],
)
def test_a_length_of_time_has_at_most_two_parts(seconds, text) -> None:
    assert words.duration(seconds) == text


def test_what_steers_a_terminal_is_escaped() -> None:
    """A name from the store must not clear the screen of whoever lists it, nor end the line."""
    assert words.visible("a\x1b[2Jb\nc\u202ed") == "a\\x1b[2Jb\\nc\\u202ed"
    assert words.visible("Zürich 東京.jpg") == "Zürich 東京.jpg"


def test_wide_characters_take_two_columns() -> None:
    assert (words.width_of("abc"), words.width_of("東京"), words.width_of("e\u0301")) == (3, 4, 1)
