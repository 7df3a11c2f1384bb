"""Around a leap second, sources that smear it tell another time than those that do not: when to leave them out. Pure.

A leap second comes at the end of a UTC month and is announced by the leap indicator before. time.google.com spreads it
over the day around it, pool.ntp.org does not: up to half a second apart, and nothing on other days.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from shared.contracts.time import Leap
from shared.units import NANOSECONDS_PER_SECOND

WINDOW_NS: Final = 24 * 3600 * NANOSECONDS_PER_SECOND
SMEARING_SUFFIXES: Final = ("time.google.com", "time.aws.com", "time.facebook.com")

_BY_INDICATOR: Final = {0: Leap.NONE, 1: Leap.INSERT, 2: Leap.DELETE}


def is_smearing(server_name: str) -> bool:
    """Whether a server of that name is known to smear; `time1.google.com` and its siblings included."""
    name = server_name.lower().rstrip(".")
    return name.endswith(SMEARING_SUFFIXES) or (name.startswith("time") and name.endswith(".google.com"))


class LeapWatch:
    """Remembers an announced leap second until its window has passed: the servers drop the flag at the leap itself."""

    def __init__(self) -> None:
        self._leap_ns: int | None = None
        self.announced = Leap.NONE

    def note(self, indicators: list[int], utc_ns: int) -> None:
        """Take the leap indicators (0 to 2) of the sources that do not smear; more than half decide."""
        is_just_past = self._leap_ns is not None and 0 <= utc_ns - self._leap_ns <= WINDOW_NS
        for indicator in (1, 2):
            # Some servers still raise the flag minutes after the leap; that is not another one.
            if not is_just_past and 2 * indicators.count(indicator) > len(indicators):
                self.announced = _BY_INDICATOR[indicator]
                self._leap_ns = end_of_month_ns(utc_ns)
        if self._leap_ns is not None and utc_ns > self._leap_ns + WINDOW_NS:
            self._leap_ns = None
            self.announced = Leap.NONE

    def is_in_window(self, utc_ns: int) -> bool:
        """Whether smearing sources are to be left out at `utc_ns`."""
        return self._leap_ns is not None and abs(utc_ns - self._leap_ns) <= WINDOW_NS


def end_of_month_ns(utc_ns: int) -> int:
    """The first moment of the next UTC month, in nanoseconds since the Unix epoch."""
    moment = datetime.fromtimestamp(utc_ns // NANOSECONDS_PER_SECOND, UTC)
    year, month = (moment.year + 1, 1) if moment.month == 12 else (moment.year, moment.month + 1)
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * NANOSECONDS_PER_SECOND
