"""What Trivet takes from raftos is what was reviewed, and what it distrusts is never entered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import raftos.state
import raftos.timer

from services.consensus.raft import seam
from services.consensus.raft.seam import DISTRUSTED, UnreviewedRaftosError, configure_raftos, verify_raftos
from tests.simulation.chaos import Chaos
from tests.simulation.player import play_scenario, scenario_paths
from tests.simulation.virtual_loop import run_simulation

SEEDS = range(100, 106)


class DistrustedEnteredError(BaseException):
    """Not an Exception, so that nobody on the way can swallow it."""


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every distrusted function raises and is noted."""
    names: list[str] = []

    def refuse(name: str) -> Any:
        def refused(*_: Any, **__: Any) -> None:
            names.append(name)
            raise DistrustedEnteredError(name)

        return refused

    for owner, attribute in DISTRUSTED:
        monkeypatch.setattr(owner, attribute, refuse(f"{owner.__name__}.{attribute}"))
    return names


def test_the_installed_raftos_is_the_reviewed_one() -> None:
    """Version and digests agree."""
    verify_raftos()


@pytest.mark.parametrize("module", sorted(seam.REVIEWED_SHA256))
def test_a_changed_module_is_refused(module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """One byte is enough, and the message names the module."""
    original = seam._REVIEWED_MODULES[module]
    changed = tmp_path / f"{module}.py"
    changed.write_text(f"{_source(original)} ")
    monkeypatch.setattr(original, "__file__", str(changed))
    with pytest.raises(UnreviewedRaftosError, match=f"raftos.{module}"):
        verify_raftos()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with the same modules: what else changed was not read."""
    monkeypatch.setattr(seam, "version", lambda _: "0.2.7")
    with pytest.raises(UnreviewedRaftosError, match=r"0\.2\.7"):
        verify_raftos()


def test_the_election_interval_is_exactly_what_was_asked_for() -> None:
    """raftos derives it from the heartbeat; the seam turns that around."""
    configure_raftos(heartbeat_interval_ms=100, election_timeout_min_ms=2000, election_timeout_max_ms=4000)
    assert seam.config.election_interval == pytest.approx((2.0, 4.0))
    assert seam.config.heartbeat_interval == pytest.approx(0.1)


def test_calling_a_distrusted_function_raises_here(entered: list[str]) -> None:
    """The patches of the next tests really bite: each one, called, raises."""
    for owner, attribute in DISTRUSTED:
        with pytest.raises(DistrustedEnteredError):
            getattr(owner, attribute)(object())
    assert len(entered) == len(DISTRUSTED)


def test_random_lives_never_enter_what_is_distrusted(entered: list[str]) -> None:
    """Elections, replication, reads, transfers, crashes and restarts run on our code and the reviewed part of raftos."""
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        chaos = Chaos(seed, duration_s=30)
        run_simulation(seed, chaos.run())
        assert entered == [], f"seed {seed}"
        counts += chaos.counts
    rare = ("crashes", "power cuts", "transfers", "campaigns", "reads", "writes", "snapshots installed")
    assert min(counts[what] for what in rare) > 0, f"too little happened to prove anything: {counts}"


def test_directed_scenarios_never_enter_what_is_distrusted(entered: list[str]) -> None:
    """Nor do the situations that random lives reach seldom."""
    for path in scenario_paths():
        play_scenario(path)
    assert entered == []


def test_the_roles_are_raftos_own() -> None:
    """The dependency is honest: roles, dispatch and timers are its classes, subclassed."""
    from services.consensus.raft.candidate import CandidateRole
    from services.consensus.raft.follower import FollowerRole
    from services.consensus.raft.leader import LeaderRole
    from services.consensus.raft.state import RaftState

    assert issubclass(FollowerRole, raftos.state.Follower)
    assert issubclass(CandidateRole, raftos.state.Candidate)
    assert issubclass(LeaderRole, raftos.state.Leader)
    assert issubclass(RaftState, raftos.state.State)
    assert seam.Timer is raftos.timer.Timer


def _source(module: Any) -> str:
    import inspect

    return inspect.getsource(module)
