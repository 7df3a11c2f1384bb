"""Many schedules on all processors: `make simulate-garbage SCHEDULES=10000`, and the few hundred of every test run.

Each seed is independent; one that fails is printed and lives again with `make simulate-garbage SEED=N`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Final

from rich.progress import track

from tests.simulation.garbage.oracle import ViolationError
from tests.simulation.garbage.world import live
from tests.simulation.many_lives import Report

GROUP: Final = 10


def live_some(seeds: range) -> Report:
    """Live the schedules of `seeds`, one after the other."""
    report = Report()
    for seed in seeds:
        report.seeds += 1
        try:
            report.counts += live(seed)
        except ViolationError as violation:
            report.failures[seed] = str(violation)
    return report


def live_on_all_processors(seeds: range) -> Iterator[Report]:
    """One report per group, as they are done."""
    groups = [seeds[start : start + GROUP] for start in range(0, len(seeds), GROUP)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(live_some, group) for group in groups]):
            yield done.result()


def _seeds(text: str) -> range:
    """`first:end`, or the number of one seed."""
    first, colon, end = text.partition(":")
    return range(int(first), int(end)) if colon else range(int(first), int(first) + 1)


def main() -> int:
    """Entry point; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.garbage.many_schedules")
    parser.add_argument("--seeds", type=_seeds, default=range(300), help="first:end, or a single seed")
    seeds: range = parser.parse_args().seeds
    total, began = Report(), time.monotonic()
    groups = live_on_all_processors(seeds)
    for report in track(groups, description=f"{len(seeds)} schedules", total=-(-len(seeds) // GROUP)):
        for failure in report.failures.values():
            sys.stdout.write(f"{failure}\n")
        total.add(report)
    sys.stdout.write(f"{total.seeds} schedules in {time.monotonic() - began:.1f} s, {len(total.failures)} failed\n")
    sys.stdout.write("".join(f"{count:12,} {what}\n" for what, count in total.counts.most_common()))
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
