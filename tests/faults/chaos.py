"""Random compositions of faults on fresh clusters, one after the other, until the time is over or something is wrong.

    python -m tests.faults.chaos --hours 2            (make chaos HOURS=2)
    python -m tests.faults.chaos --runs 10
    python -m tests.faults.chaos --runs 1 --seed 123  the same plan again

A plan is a function of its seed. What the cluster makes of it is not, so a violation may need a few tries; its logs, its data and
the plan with its times are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from local_cluster.errors import LocalClusterError
from tests.faults.harness.ended_by_signals import INTERRUPTED, run_until_told
from tests.faults.harness.fault_cluster import running_cluster
from tests.faults.harness.nemesis import Nemesis, compose
from tests.faults.harness.trial import InconclusiveError, Trial

RUN_S = 60.0
MAX_TRIES = 3
MAX_INCONCLUSIVE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Finished:
    """One conclusive run."""

    seed: int
    summary: str


async def one_run(folder: Path, seed: int, *, run_s: float = RUN_S) -> Finished:
    """A fresh cluster under load and the seed's plan, judged.

    Raises:
        ViolationError, ExceptionGroup: something was wrong.
        InconclusiveError: the driver itself stalled.
    """
    async with running_cluster(folder, seed=seed) as (cluster, network):
        trial = Trial(cluster, network, seed)
        async with trial.load():
            await Nemesis(trial, compose(seed, run_s)).run()
            await asyncio.sleep(max(0.0, run_s - (time.monotonic() - trial.began)))
        await trial.judge()
        return Finished(seed, trial.summary())


def is_violation(error: BaseException) -> bool:
    """Whether the cluster broke a promise; otherwise the harness failed, and nothing is known."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_violation(one) for one in error.exceptions)
    return isinstance(error, AssertionError | LocalClusterError)


def main() -> int:
    """Entry point; 1 after a violation, 2 when too many runs said nothing."""
    arguments = _arguments()
    ends_at = time.monotonic() + arguments.hours * 3600
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    done = inconclusive = 0
    while done < arguments.runs if arguments.runs else time.monotonic() < ends_at:
        for attempt in range(1, MAX_TRIES + 1):
            folder = Path(tempfile.mkdtemp(prefix=f"trivet-chaos-{seed}-"))
            print(f"run {done + 1}: seed {seed}, {arguments.seconds:.0f} s", flush=True)
            try:
                run_until_told(one_run(folder, seed, run_s=arguments.seconds))
            except KeyboardInterrupt:
                print(f"interrupted; the cluster has ended. Logs and data: {folder}", file=sys.stderr)
                return INTERRUPTED
            except InconclusiveError as error:
                inconclusive += 1
                print(f"inconclusive, try {attempt} of {MAX_TRIES}: {error}", flush=True)
                shutil.rmtree(folder, ignore_errors=True)
            except Exception as error:  # noqa: BLE001 whatever it was, it stops here with its evidence
                traceback.print_exc()
                verdict = "VIOLATION" if is_violation(error) else "DEFECT OF THE TEST ITSELF"
                print(f"{verdict}. Logs and data: {folder}", file=sys.stderr)
                print(
                    f"Again: python -m tests.faults.chaos --runs 1 --seconds {arguments.seconds} --seed {seed}",
                    file=sys.stderr,
                )
                return 1
            else:
                shutil.rmtree(folder, ignore_errors=True)
                break
        done += 1
        seed = random.SystemRandom().randrange(1 << 32)
    print(f"{done} runs of {arguments.seconds:.0f} s, 0 violations, {inconclusive} inconclusive tries")
    return 2 if inconclusive > MAX_INCONCLUSIVE_SHARE * (done + inconclusive) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=RUN_S, help="of faults per run")
    parser.add_argument("--seed", type=int, default=None, help="of the first run")
    arguments = parser.parse_args()
    if not arguments.runs and not arguments.hours:
        arguments.runs = 1
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
