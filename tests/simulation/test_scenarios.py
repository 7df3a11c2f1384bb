"""Every directed scenario prints what its file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation import script
from tests.simulation.player import play_scenario, scenario_paths


@pytest.mark.parametrize("path", scenario_paths(), ids=lambda path: path.stem)
def test_a_scenario_goes_as_written(path: Path) -> None:
    """The exact interleaving of the file leads to exactly the states of the file, without breaking an invariant."""
    expected, actual = play_scenario(path)
    difference = script.side_by_side(expected, actual)
    assert not difference, f"{path.name}{difference}"


def test_there_are_enough_scenarios() -> None:
    """A folder that was not found must not pass for a folder in which everything is well."""
    assert len(scenario_paths()) >= 18


def test_a_script_survives_being_read_and_written() -> None:
    """Rewriting a scenario whose output did not change leaves it as it is."""
    for path in scenario_paths():
        assert script.render(script.parse(path.read_text())) == path.read_text(), path.name


def test_a_difference_is_shown_side_by_side() -> None:
    """A failure shows the line, the command and both outputs."""
    expected = script.parse("status\n----\nm1 leader\n")
    actual = script.parse("status\n----\nm1 follower\n")
    assert script.side_by_side(expected, expected) == ""
    assert "line 1: status" in script.side_by_side(expected, actual)
    assert "! m1 leader | m1 follower" in script.side_by_side(expected, actual)
