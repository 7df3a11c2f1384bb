"""What else ran on the machine: all busy CPU less that of the cluster and of the load.

Kernel threads, interrupts and time stolen by the host count as other load, for they take the same cores.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final

OTHER_LOAD_WARNING_CORES: Final = 0.15
"""Above this a row is marked: on two cores its throughput and its latencies are not those of a quiet machine."""

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_BUSY_FIELDS: Final = (0, 1, 2, 5, 6, 7)
"""user, nice, system, irq, softirq, steal of proc_stat(5); not idle and iowait; guest time is in user already."""


def read_busy_s() -> float:
    """CPU seconds that all cores were busy since the start of the machine, in steps of a tick."""
    return parse_busy_ticks(Path("/proc/stat").read_text()) / _TICKS_PER_S


def parse_busy_ticks(text: str) -> int:
    """Read the first line of proc_stat(5)."""
    fields = [int(field) for field in text.split("\n", 1)[0].split()[1:]]
    return sum(fields[index] for index in _BUSY_FIELDS)


def read_own_cpu_s() -> float:
    """CPU of this process and of its children that have ended (curl, the disk floor)."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
