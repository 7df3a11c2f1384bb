"""HTTP dates: the three forms of RFC 9110, and nothing else."""

from __future__ import annotations

import pytest

from services.gateway.semantics.http_dates import http_date, unix_seconds

MOMENT_S = 784_111_777


@pytest.mark.parametrize(
    "value",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        " Sun, 06 Nov 1994 08:49:37 GMT\t",
    ],
)
def test_all_three_forms_are_read(value) -> None:
    """Old servers and clients still send the second and the third."""
    assert unix_seconds(value) == MOMENT_S


def test_what_was_written_is_read_again() -> None:
    """Rounded down to the second: never in the future of the change."""
    assert http_date(MOMENT_S * 10**9 + 999_999_999) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert unix_seconds(http_date(1_795_000_000 * 10**9)) == 1_795_000_000


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "yesterday",
        "1994-11-06T08:49:37Z",
        "784111777",
        "06 Nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37 EST",
        "sun, 06 nov 1994 08:49:37 gmt",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, \u06606 Nov 1994 08:49:37 GMT",
    ],
)
def test_everything_else_is_no_date(value) -> None:
    """A condition on it is ignored, as RFC 9110 section 13.1.3 demands, instead of guessed."""
    assert unix_seconds(value) is None


def test_short_years_and_leap_seconds_are_near_what_was_meant() -> None:
    """More than fifty years ahead is the past; a 61st second is the 60th."""
    assert unix_seconds("Friday, 01-Jan-27 00:00:00 GMT") == 1_798_761_600
    assert unix_seconds("Saturday, 01-Jan-77 00:00:00 GMT") == 220_924_800
    assert unix_seconds("Sat, 31 Dec 2016 23:59:60 GMT") == unix_seconds("Sat, 31 Dec 2016 23:59:59 GMT")
