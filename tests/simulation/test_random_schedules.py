"""Random lives of a cluster: safety under faults, then liveness after healing. Every failure names its seed."""

from __future__ import annotations

import pytest

from tests.simulation.chaos import Chaos
from tests.simulation.many_lives import live
from tests.simulation.many_seeds import Report, on_all_processors
from tests.simulation.virtual_loop import run_simulation

EVERY_RUN = range(300)
THE_OTHERS = range(300, 1000)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seeds", [EVERY_RUN, pytest.param(THE_OTHERS, marks=pytest.mark.slow)], ids=str)
def test_random_lives_stay_linearizable_and_heal(seeds: range) -> None:
    """Crashes, power cuts, partitions, loss, duplication and forced elections never break an invariant."""
    total = Report()
    for report in on_all_processors(live, seeds):
        total.add(report)
    assert not total.failures, f"lives again with `make simulate SEED=...`: {total.failures}"
    assert total.seeds == len(seeds)
    frequent = {
        what: total.counts[what] for what in ("writes", "reads", "crashes", "power cuts", "splits", "campaigns")
    }
    assert min(frequent.values()) > len(seeds), f"too little happened to prove anything: {frequent}"
    rarer = {what: total.counts[what] for what in ("snapshots installed", "membership changes", "lost states")}
    assert min(rarer.values()) > len(seeds) // 4, f"too little happened to prove anything: {rarer}"


def test_the_same_seed_gives_the_same_life() -> None:
    """A failure can be replayed."""
    first, second = Chaos(7, duration_s=20), Chaos(7, duration_s=20)
    messages = [run_simulation(7, chaos.run()).network.message_count for chaos in (first, second)]
    assert messages[0] == messages[1]
    assert first.counts == second.counts
