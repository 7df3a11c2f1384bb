"""Random lives of the consensus engine: `make simulate SEEDS=50000`, and the three hundred that every test run lives.

A failure is reported with its seed and lives again with `python -m tests.simulation.many_lives --seeds N`.
"""

from __future__ import annotations

import sys

from tests.simulation.chaos import Chaos
from tests.simulation.many_seeds import Report, main
from tests.simulation.virtual_loop import run_simulation


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


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    sys.exit(main(live, "lives", range(1000)))
