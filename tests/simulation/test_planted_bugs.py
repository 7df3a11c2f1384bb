"""The tests are tested: every planted bug is caught, and what catches it is content without the bug."""

from __future__ import annotations

import pytest

from services.consensus.raft import decide
from tests.simulation.planted_bugs import BUGS, SEEDS, PlantedBug, first_seed, planted, verdict_of_scenario
from tests.simulation.player import SCENARIO_FOLDER


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_scenario_of_its_situation_catches_a_planted_bug(bug: PlantedBug) -> None:
    """The named scenario fails with the bug, and only with it."""
    path = SCENARIO_FOLDER / f"{bug.scenario}.txt"
    with planted(bug):
        assert verdict_of_scenario(path) is not None, f"{bug.name} went unnoticed by {bug.scenario}"
    assert verdict_of_scenario(path) is None, f"{bug.scenario} fails without {bug.name}"


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.is_found_by_seeds], ids=lambda bug: bug.name)
def test_random_schedules_catch_a_planted_bug(bug: PlantedBug) -> None:
    """One of the seeds that every test run plays finds the bug without knowing of it."""
    with planted(bug):
        assert first_seed(SEEDS) is not None, f"{bug.name} went unnoticed by seeds {SEEDS}"


def test_there_are_at_least_thirteen_bugs() -> None:
    """Each with a name of its own."""
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 13


def test_a_broken_plant_does_not_pass_for_a_bug_that_was_caught() -> None:
    """An error of the planted code itself is raised, not counted."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(decide, "grant_pre_vote", lambda: True)  # takes no arguments: a TypeError when it is called

    bug = PlantedBug("broken", plant, "campaign")
    with planted(bug), pytest.raises(TypeError):
        verdict_of_scenario(SCENARIO_FOLDER / "campaign.txt")
    with planted(bug), pytest.raises((TypeError, ExceptionGroup)):
        first_seed([0])
