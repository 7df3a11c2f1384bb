"""What the host's chronyd knows, where there is one: it may have NTS, PTP or a GPS receiver, and kernel time stamps.

Asked through `chronyc -c tracking`, as its command protocol is private to it. chronyd disciplines the host's wall clock,
so the answer is an error bound for that: |offset| + root dispersion + root delay / 2 (as AWS' ClockBound computes it).
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
from dataclasses import dataclass
from typing import Final

from services.clock.intersection import Interval
from shared.units import NANOSECONDS_PER_SECOND

TIMEOUT_S: Final = 2.0
FLOOR_NS: Final = 10_000
"""For the time between chronyd's answer and our reading of the clock."""

_FIELDS: Final = 14
_LOCAL_REFERENCES: Final = ("7F7F0101", "00000000")
_MAX_STRATUM: Final = 15


@dataclass(frozen=True, slots=True)
class Tracking:
    """What chronyd says about the host's wall clock: true time lies within `error_ns` of it."""

    error_ns: int
    stratum: int

    def interval(self, wall_ns: int) -> Interval:
        """The interval for true time at the moment when the wall clock shows `wall_ns`."""
        return Interval.around(wall_ns, self.error_ns)


def parse_tracking(line: str) -> Tracking | None:
    """One line of `chronyc -c tracking`; None when chronyd is not synchronised or the line is something else. Pure.

    Fields (chronyc(1), "tracking"): reference id, name, stratum, reference time, system time offset, last offset, RMS
    offset, frequency, residual frequency, skew, root delay, root dispersion, update interval, leap status.
    """
    fields = line.strip().split(",")
    if len(fields) != _FIELDS or fields[0] in _LOCAL_REFERENCES or fields[13] == "Not synchronised":
        return None
    try:
        stratum = int(fields[2])
        offset_s, root_delay_s, root_dispersion_s = float(fields[4]), float(fields[10]), float(fields[11])
    except ValueError:
        return None
    error_s = abs(offset_s) + root_dispersion_s + root_delay_s / 2
    if not 1 <= stratum <= _MAX_STRATUM or not 0 <= error_s < 1:
        return None
    return Tracking(round(error_s * NANOSECONDS_PER_SECOND) + FLOOR_NS, stratum)


class HostChrony:
    """Asks chronyc, if it is installed. Each question is one short process, once per round."""

    def __init__(self, command: str) -> None:
        self._arguments = [*shlex.split(command), "-c", "tracking"]
        self.is_installed = shutil.which(self._arguments[0]) is not None

    async def tracking(self) -> Tracking | None:
        """What chronyd says now; None when it is not there, not synchronised or too slow."""
        if not self.is_installed:
            return None
        try:
            process = await asyncio.create_subprocess_exec(
                *self._arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
            )
        except OSError:
            return None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return None
        return parse_tracking(output.decode("ascii", "replace")) if process.returncode == 0 else None
