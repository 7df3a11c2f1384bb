"""Many seeds on all processors. Each is independent, so they are dealt out in small groups to worker processes."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Final

from rich.progress import track

GROUP: Final = 20


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


def on_all_processors(live: Callable[[range], Report], seeds: range) -> Iterator[Report]:
    """One report per group, as they are done."""
    groups = [seeds[start : start + GROUP] for start in range(0, len(seeds), GROUP)]
    # Spawned and not forked: a fork of a process with threads may inherit a lock that nobody will ever release.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        for done in as_completed([pool.submit(live, group) for group in groups]):
            yield done.result()


def main(live: Callable[[range], Report], what: str, default: range) -> int:
    """A program that lives `--seeds` and prints what came of them; 1 when one failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=_seeds, default=default, help="first:end, or a single seed")
    seeds: range = parser.parse_args().seeds
    total, began = Report(), time.monotonic()
    groups = on_all_processors(live, seeds)
    for report in track(groups, description=f"{len(seeds)} {what}", total=-(-len(seeds) // GROUP)):
        for seed, failure in report.failures.items():
            sys.stdout.write(f"seed {seed}: {failure}\n")
        total.add(report)
    sys.stdout.write(f"{total.seeds} {what} in {time.monotonic() - began:.1f} s, {len(total.failures)} failed\n")
    sys.stdout.write("".join(f"{count:12,} {what}\n" for what, count in total.counts.most_common()))
    return 1 if total.failures else 0


def _seeds(text: str) -> range:
    """`first:end`, or the number of one seed."""
    first, colon, end = text.partition(":")
    return range(int(first), int(end)) if colon else range(int(first), int(first) + 1)
