"""Time and names that cannot be trusted: C2 and promise P7 with a lying gateway, and N14."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.faults.cluster.conftest import steady_of
from tests.faults.harness.fault_cluster import CLOCK, running_cluster
from tests.faults.harness.trial import Trial
from tests.faults.workloads.steady import Steady, failed_share

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(600)]


async def test_c2_a_gateway_whose_clock_is_behind_loses_no_write(tmp_path, seed, repetitions) -> None:
    """Ten seconds behind the other one, with the clock service killed and stopped meanwhile: nothing lost, nothing stale."""
    async with running_cluster(tmp_path, seed=seed, patches={"gateway-2": ["clock_behind"]}) as (cluster, network):
        trial = Trial(cluster, network, seed)
        async with trial.load():
            await trial.wait_for_answers(100)
            await cluster.signal(CLOCK, signal.SIGSTOP)
            await trial.wait_for_answers(100)
            await cluster.signal(CLOCK, signal.SIGKILL)
            await asyncio.sleep(repetitions(3, 60))
            await trial.wait_for_answers(100)
        await trial.judge()


async def test_n14_names_that_cannot_be_looked_up_stop_nothing(tmp_path, seed, repetitions) -> None:
    """Every look-up in every process takes 10 s and fails: peers work, and the clock's own loop is not held up."""
    kinds = ("clock", "consensus", "storage", "gateway")
    async with running_cluster(
        tmp_path,
        seed=seed,
        patches={kind: ["names_take_ten_seconds"] for kind in kinds},
        overrides={"clock": {"TRIVET_NTP_SERVERS": "one.time.invalid,two.time.invalid,three.time.invalid"}},
    ) as (cluster, network):
        trial = Trial(cluster, network, seed, workloads=[Steady])
        took: list[float] = []
        async with trial.load():
            ends = time.monotonic() + repetitions(15, 120)
            while time.monotonic() < ends:
                began = time.monotonic()
                await trial.peers.request(cluster.peer(CLOCK), "GET", "/healthz", timeout_s=10)
                took.append(time.monotonic() - began)
                await asyncio.sleep(0.05)
            await trial.wait_for_answers(50)
        await trial.judge()
        print(f"{len(took)} answers of the clock, the slowest after {max(took):.2f} s")
        assert failed_share(steady_of(trial).attempted) == 0
        # A loop that waits for a look-up waits ten seconds.
        assert max(took) < 5.0
