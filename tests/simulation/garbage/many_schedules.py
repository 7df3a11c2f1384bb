"""Many schedules: `make simulate-garbage SCHEDULES=10000`, and the few hundred of every test run.

One that fails is printed and lives again with `make simulate-garbage SEED=N`.
"""

from __future__ import annotations

import sys

from tests.simulation.garbage.oracle import ViolationError
from tests.simulation.garbage.world import live
from tests.simulation.many_seeds import Report, main


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


if __name__ == "__main__":
    sys.exit(main(live_some, "schedules", range(300), failures="losses"))
