"""Random sequences of requests, sent to two gateways in turn, answer as a dictionary would (docs/faults.md, "Bad input": B16).

A failure prints its seed and the shortest sequence that fails. `--model-steps=5000` asks for more than a run of all
tests has time for.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import seed as with_seed
from hypothesis.stateful import run_state_machine_as_test

from tests.integration.gateway.upload_machine import UploadMachine

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

STEPS_OF_ONE_LIFE = 50
"""At most; some lives end earlier."""

STEPS_OF_SHORT_LIVES = 36


def test_b16_two_gateways_answer_as_a_dictionary_would(gateway, seed, pytestconfig) -> None:
    """800 steps or more: status, code, bytes, entity tag, versions, ranges, conditions, repeats and pages, all predicted."""
    steps = pytestconfig.getoption("--model-steps")
    UploadMachine.steps = 0

    @with_seed(seed)
    def life() -> UploadMachine:
        return UploadMachine(gateway)

    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=steps // STEPS_OF_SHORT_LIVES,
            stateful_step_count=STEPS_OF_ONE_LIFE,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            verbosity=Verbosity.normal,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{UploadMachine.steps} requests")
    assert UploadMachine.steps >= steps
