"""HTTP dates, read strictly and written (RFC 9110 section 5.6.7).

A date that is not one of the three forms is no date, and a condition on it must be ignored; the parser of mail dates that
comes with Python would take far more.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import Final

from shared.units import NANOSECONDS_PER_SECOND

EXAMPLE_DATE: Final = "Wed, 25 Nov 2026 16:35:12 GMT"

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LONG_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTH: Final = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME: Final = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_FORMS: Final = (
    re.compile(f"(?P<name>{'|'.join(_DAYS)}), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    re.compile(f"(?P<name>{'|'.join(_LONG_DAYS)}), (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"),
    re.compile(f"(?P<name>{'|'.join(_DAYS)}) {_MONTH} (?P<day>[0-9 ][0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
)
_LAST_SHORT_YEAR: Final = 76
"""Years of two digits up to here are of this century: 50 years ahead of when this was written. Nothing sends them now."""


def http_date(unix_ns: int) -> str:
    """`unix_ns` as an HTTP date, whole seconds, rounded down."""
    return _http_date(whole_s(unix_ns))


@lru_cache(maxsize=1024)
def _http_date(unix_s: int) -> str:
    return format_datetime(datetime.fromtimestamp(unix_s, UTC), usegmt=True)


def whole_s(unix_ns: int) -> int:
    """The second that an HTTP date would show."""
    return unix_ns // NANOSECONDS_PER_SECOND


def unix_seconds(value: str | None) -> int | None:
    """The Unix second that a date header names; None when it is no valid HTTP date."""
    for form in _FORMS:
        if value is not None and (match := form.fullmatch(value.strip(" \t"))) is not None:
            return _seconds(match)
    return None


def _seconds(match: re.Match[str]) -> int | None:
    year = int(match["year"])
    if len(match["year"]) == 2:
        year += 2000 if year <= _LAST_SHORT_YEAR else 1900
    try:
        moment = datetime(
            year,
            _MONTHS.index(match["month"]) + 1,
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            # The grammar has a leap second; the calendar of computers has not.
            59 if match["second"] == "60" else int(match["second"]),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return int(moment.timestamp())
