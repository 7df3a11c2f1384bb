"""Fast; part of `make test`: a plan is a function of its seed."""

from __future__ import annotations

from tests.faults.harness.nemesis import GROUP_FAULTS, LINK_FAULTS, PROCESS_FAULTS, compose


def test_the_same_seed_gives_the_same_plan_and_another_one_another() -> None:
    """Otherwise a printed seed would be of no use."""
    assert compose(7, 60) == compose(7, 60)
    assert compose(7, 60) != compose(8, 60)


def test_plans_use_every_fault_and_end_in_time() -> None:
    """Over some hundred seeds none is left out, and each leaves time for its healing."""
    used = set()
    for seed in range(300):
        for step in compose(seed, 60):
            used.add(step.fault)
            assert step.lasts_s > 0
            assert step.at_s + step.lasts_s <= 60
    assert used == {*PROCESS_FAULTS, *LINK_FAULTS, *GROUP_FAULTS}
