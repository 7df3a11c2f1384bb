"""One running cluster with its proxies per test module; every test heals it first and gets a trial of its own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.harness.fault_cluster import FaultCluster, running_cluster
from tests.faults.harness.network import Network
from tests.faults.harness.trial import InconclusiveError, Trial, Workload
from tests.faults.workloads.steady import Steady

MAX_TRIES = 3

MakeTrial = Callable[..., Trial]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[FaultCluster, Network]]:
    """Three members, four storage nodes, two gateways, a clock, and the links between them."""
    folder: Path = tmp_path_factory.mktemp("cluster")
    async with running_cluster(folder, seed=random.SystemRandom().randrange(1 << 32)) as made:
        print(f"cluster in {folder}")
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def make_trial(running: tuple[FaultCluster, Network], seed: int) -> AsyncIterator[MakeTrial]:
    """`make_trial()` has all workloads that are judged; `make_trial(Steady)` the polite clients that measure."""
    cluster, network = running
    network.heal()
    for name in cluster.pids():
        cluster.resume(name)
    await cluster.bring_back()
    cluster.touched_at.clear()

    made: list[Trial] = []

    def make(*workloads: Callable[..., Workload]) -> Trial:
        made.append(Trial(cluster, network, seed, workloads=workloads or None))
        return made[-1]

    yield make
    for trial in made:
        await trial.aclose()


async def conclusive(attempt: Callable[[], Awaitable[None]]) -> None:
    """Run `attempt` again when the driver stalled, a few times; one that says nothing is neither passed nor failed."""
    for number in range(1, MAX_TRIES + 1):
        try:
            await attempt()
        except InconclusiveError as error:
            print(f"inconclusive, try {number}: {error}")
            if number == MAX_TRIES:
                pytest.skip(f"INCONCLUSIVE in {MAX_TRIES} tries, so not passed: {error}")
        else:
            return


def require_p99(trial: Trial, p99_s: float, base_s: float, times: float) -> None:
    """It is at most so many times that of a quiet cluster, beside what the driver itself was late.

    Below a floor of half a second the share of a busy machine in a p99 is larger than what is measured.
    """
    limit_s = max(times * base_s, 0.5) + trial.canary.worst_s
    assert p99_s <= limit_s, f"p99 {p99_s:.3f} s, limit {limit_s:.3f} s"


def steady_of(trial: Trial) -> Steady:
    """The measuring workload of a trial."""
    return next(one for one in trial.workloads if isinstance(one, Steady))
