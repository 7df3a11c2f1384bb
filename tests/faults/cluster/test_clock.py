"""C2 and P7 of DESIGN.md with a lying gateway: stamps describe, the log decides."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.faults.harness.fault_cluster import CLOCK, running_cluster
from tests.faults.harness.trial import Trial

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
