"""Many seeds on all processors. Each is independent, so they are dealt out in small groups to worker processes.

What is done is written to a file, if one is named, group by group: the same command again goes on with the groups that are
left. A run takes hours; worker processes end with the one that began them, however that ends.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import track

GROUP: Final = 20
_PR_SET_PDEATHSIG: Final = 1


@dataclass
class Report:
    """What came of some seeds: the failures by seed, and how often everything happened."""

    seeds: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, other: Report) -> None:
        self.seeds += other.seeds
        self.failures |= other.failures
        self.counts += other.counts


Live = Callable[[range], Report]


def on_all_processors(live: Live, seeds: range, *, jobs: int | None = None) -> Iterator[Report]:
    """One report per group, as they are done."""
    yield from (report for _, report in _live_groups(live, _groups(seeds), jobs or os.cpu_count() or 1))


def _groups(seeds: range) -> list[range]:
    return [seeds[start : start + GROUP] for start in range(0, len(seeds), GROUP)]


def _live_groups(live: Live, groups: list[range], jobs: int) -> Iterator[tuple[range, Report]]:
    if jobs == 1:
        for group in groups:
            yield group, live(group)
        return
    # Spawned and not forked: a fork of a process with threads may inherit a lock that nobody will ever release.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        groups_of = {pool.submit(live, group): group for group in groups}
        for done in as_completed(groups_of):
            yield groups_of[done], done.result()


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends; a parent that is gone already sends nothing."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main(live: Live, what: str, default: range, *, failures: str = "failures") -> int:
    """A program that lives `--seeds` and prints what came of them; 1 when one failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=_seeds, default=default, help="first:end, or a single seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes")
    parser.add_argument("--done", type=Path, help="a file of what is done, to go on with later")
    given = parser.parse_args()
    seeds: range = given.seeds
    done = _Done(given.done)
    began = time.monotonic()
    groups = [group for group in _groups(seeds) if group not in done.groups]
    reports = _live_groups(live, groups, given.jobs)
    console = Console(stderr=True)
    for group, report in track(reports, f"{len(seeds)} {what}", total=len(groups), console=console):
        for seed, failure in report.failures.items():
            sys.stdout.write(f"seed {seed}: {failure}\n")
        done.add(group, report)
    sys.stdout.write(
        _summary(done.total, f"{what}, {len(done.total.failures)} {failures}", seeds, time.monotonic() - began)
    )
    return 1 if done.total.failures else 0


def _summary(total: Report, what: str, seeds: range, elapsed_s: float) -> str:
    """How often everything happened, and in the last line all of it at once."""
    counts = total.counts.most_common()
    lines = [f"{count:12,} {name}" for name, count in counts]
    lines += [f"failed: seed {seed}" for seed in sorted(total.failures)]
    coverage = ", ".join(f"{name} {count}" for name, count in counts)
    lines.append(f"{total.seeds} {what}, seeds {seeds[0]}-{seeds[-1]}, {elapsed_s:.0f} s, coverage: {coverage}")
    return "\n".join(lines) + "\n"


class _Done:
    """The groups that an earlier run has lived, one in a line, and all that came of them."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.groups: list[range] = []
        self.total = Report()
        if path is not None and path.exists():
            whole, _, torn = path.read_text().rpartition("\n")
            for line in whole.splitlines():
                self._read(json.loads(line))
            if torn:
                os.truncate(path, path.stat().st_size - len(torn.encode()))

    def _read(self, row: dict[str, object]) -> None:
        first, end, failures, counts = row["first"], row["end"], row["failures"], row["counts"]
        assert isinstance(first, int)
        assert isinstance(end, int)
        assert isinstance(failures, dict)
        assert isinstance(counts, dict)
        self.groups.append(range(first, end))
        by_seed = {int(seed): str(failure) for seed, failure in failures.items()}
        self.total.add(Report(end - first, by_seed, Counter(counts)))

    def add(self, group: range, report: Report) -> None:
        """Another group is done."""
        self.total.add(report)
        if self._path is not None:
            row = {"first": group[0], "end": group[-1] + 1, "failures": report.failures, "counts": report.counts}
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def _seeds(text: str) -> range:
    """`first:end`, or the number of one seed."""
    first, colon, end = text.partition(":")
    return range(int(first), int(end)) if colon else range(int(first), int(first) + 1)
