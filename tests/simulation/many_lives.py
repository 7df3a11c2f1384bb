"""Many seeds on all processors: `make simulate SEEDS=50000`, and the thousand that every test run lives.

Each seed is independent, so they are dealt out in small groups to worker processes; a failure is reported with its seed and
lives again with `python -m tests.simulation.many_lives --seeds N`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

from rich.progress import track

from tests.simulation.chaos import Chaos
from tests.simulation.virtual_loop import run_simulation

GROUP = 20


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


def live(seeds: range) -> Report:
    """Live the lives of `seeds`, one after the other."""
    report = Report()
    for seed in seeds:
        chaos = Chaos(seed)
        try:
            run_simulation(seed, chaos.run())
        except Exception as error:  # noqa: BLE001 the next seeds are lived all the same
            report.failures[seed] = repr(_innermost(error))
        report.seeds += 1
        report.counts += chaos.counts
    return report


def live_on_all_processors(seeds: range) -> Iterator[Report]:
    """One report per group, as they are done."""
    groups = [seeds[start : start + GROUP] for start in range(0, len(seeds), GROUP)]
    # Spawned and not forked: a fork of a process with threads may inherit a lock that nobody will ever release.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(live, group) for group in groups]):
            yield done.result()


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _seeds(text: str) -> range:
    """`first:end`, or the number of one seed."""
    first, colon, end = text.partition(":")
    return range(int(first), int(end)) if colon else range(int(first), int(first) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.many_lives", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=_seeds, default=range(1000), help="first:end, or a single seed")
    seeds: range = parser.parse_args().seeds
    total, began = Report(), time.monotonic()
    groups = live_on_all_processors(seeds)
    for report in track(groups, description=f"{len(seeds)} lives", total=-(-len(seeds) // GROUP)):
        for seed, failure in report.failures.items():
            sys.stdout.write(f"seed {seed}: {failure}\n")
        total.add(report)
    sys.stdout.write(f"{total.seeds} seeds in {time.monotonic() - began:.1f} s, {len(total.failures)} failed\n")
    sys.stdout.write("".join(f"{count:12,} {what}\n" for what, count in total.counts.most_common()))
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
