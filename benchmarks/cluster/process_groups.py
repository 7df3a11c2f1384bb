"""CPU and memory of a cluster's processes, by what they are: gateway, storage, consensus leader, followers, Redis, clock.

CPU comes from the per-process CPU clock of the kernel (clock_getcpuclockid(3)): the sum that /proc/<pid>/stat shows
in ticks of 10 ms, with the time of threads that have ended, in nanoseconds. /proc/<pid>/schedstat is in nanoseconds
too, but for one thread, and the sum over /proc/<pid>/task loses the threads that end. Children (Redis forks to
rewrite its log) are added from /proc, in ticks once they have ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LEADER: Final = "leader"
FOLLOWERS: Final = "followers"
GROUPS: Final = ("gateway", "storage", LEADER, FOLLOWERS, "redis", "clock")
"""In the order of tables and plots; a kind that a revision adds comes behind them."""

_NS_PER_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PROCESS_CLOCK: Final = 2
"""CPUCLOCK_SCHED of linux/posix-timers.h: the low bits of the clock id of a process."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What is needed of /proc/<pid>/stat. `waited_ticks` is the CPU of children that have ended."""

    parent: int
    waited_ticks: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes now, and the most that there ever were."""

    rss_bytes: int
    peak_bytes: int


def group_of(process: str, leader: str | None) -> str:
    """The group of the process `storage-2`, when `leader` leads."""
    kind = process.rsplit("-", 1)[0]
    if kind != "consensus":
        return kind
    return LEADER if process == leader else FOLLOWERS


def sum_by_group(values: Mapping[str, int], leader: str | None) -> dict[str, int]:
    """Sums of what single processes have, in the order of `GROUPS`."""
    sums: dict[str, int] = {}
    for process, value in values.items():
        group = group_of(process, leader)
        sums[group] = sums.get(group, 0) + value
    known = {group: sums[group] for group in GROUPS if group in sums}
    return known | {group: sums[group] for group in sorted(sums) if group not in known}


def read_cpu_ns(pids: Mapping[str, int]) -> dict[str, int]:
    """CPU that each process and its descendants have used since they began.

    Raises:
        OSError: a process has ended.
    """
    stats = _read_stats()
    used = {}
    for name, pid in pids.items():
        family = [pid, *descendants(pid, {child: stat.parent for child, stat in stats.items()})]
        waited_ticks = sum(stats[member].waited_ticks for member in family if member in stats)
        used[name] = (
            _clock_ns(pid) + sum(_clock_ns_or_zero(member) for member in family[1:]) + waited_ticks * _NS_PER_TICK
        )
    return used


def read_memory(pids: Mapping[str, int]) -> dict[str, Memory]:
    """Resident memory of each process. Raises OSError: one has ended."""
    return {name: parse_memory(Path(f"/proc/{pid}/status").read_text()) for name, pid in pids.items()}


def parse_stat(text: str) -> Stat:
    """Read proc_pid_stat(5). The second field, the name, may hold spaces and parentheses, so fields count from its last one."""
    fields = text.rpartition(")")[2].split()
    return Stat(parent=int(fields[1]), waited_ticks=int(fields[13]) + int(fields[14]))


def parse_memory(text: str) -> Memory:
    """Read proc_pid_status(5)."""
    kib = {
        name: int(rest.split()[0])
        for name, _, rest in (line.partition(":") for line in text.splitlines())
        if name in _MEMORY
    }
    return Memory(*(kib[name] * 1024 for name in _MEMORY))


_MEMORY: Final = ("VmRSS", "VmHWM")


def descendants(pid: int, parent_of: Mapping[int, int]) -> list[int]:
    """Children of a process, and theirs."""
    children = [child for child, parent in parent_of.items() if parent == pid]
    return children + [member for child in children for member in descendants(child, parent_of)]


def _read_stats() -> dict[int, Stat]:
    stats = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stats[int(folder.name)] = parse_stat((folder / "stat").read_text())
            except OSError:  # it ended meanwhile
                continue
    return stats


def _clock_ns(pid: int) -> int:
    return time.clock_gettime_ns((~pid << 3) | _PROCESS_CLOCK)


def _clock_ns_or_zero(pid: int) -> int:
    try:
        return _clock_ns(pid)
    except OSError:
        return 0
