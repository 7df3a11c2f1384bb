"""Random lives of a cluster: safety under faults, then liveness after healing. Every failure names its seed."""

from __future__ import annotations

import pytest

from tests.simulation.chaos import Chaos
from tests.simulation.virtual_loop import run_simulation

SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cluster_under_random_faults_stays_linearizable_and_heals(seed: int) -> None:
    """Crashes, power cuts, partitions, loss, duplication and forced elections never break an invariant."""
    chaos = Chaos(seed)
    run_simulation(seed, chaos.run())
    tried = chaos.counts["writes"] + chaos.counts["timeouts"] + chaos.counts["refused"]
    assert tried > 0, f"seed {seed}: nothing was tried, so nothing was tested"


def test_the_same_seed_gives_the_same_life() -> None:
    """A failure can be replayed."""
    first, second = Chaos(7, duration_s=20), Chaos(7, duration_s=20)
    messages = [run_simulation(7, chaos.run()).network.message_count for chaos in (first, second)]
    assert messages[0] == messages[1]
    assert first.counts == second.counts
