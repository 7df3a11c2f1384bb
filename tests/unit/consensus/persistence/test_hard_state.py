"""Term and vote survive every interruption, together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.consensus.persistence.hard_state import FileHardState
from services.consensus.raft.ports import LogDamagedError


def test_a_new_member_has_seen_no_term(tmp_path: Path) -> None:
    """Figure 2: currentTerm starts at 0, votedFor at none."""
    state = FileHardState(tmp_path)
    assert (state.term, state.voted_for) == (0, None)


def test_term_and_vote_survive_a_restart(tmp_path: Path) -> None:
    """What `update` returned for is on disk."""
    FileHardState(tmp_path).update({"term": 7, "voted_for": "m2"})
    again = FileHardState(tmp_path)
    assert (again.term, again.voted_for) == (7, "m2")


def test_a_vote_in_a_term_that_was_known_survives_a_restart(tmp_path: Path) -> None:
    """A voter learns of a term first and votes in it later; two votes in one term would make two leaders."""
    state = FileHardState(tmp_path)
    state.update({"term": 7, "voted_for": None})
    state.update({"voted_for": "m2"})
    again = FileHardState(tmp_path)
    assert (again.term, again.voted_for) == (7, "m2")


def test_a_vote_that_must_be_there_and_is_gone_stops_the_member(tmp_path: Path) -> None:
    """A member that has lived before may have voted: it must not start as one that has not."""
    with pytest.raises(LogDamagedError):
        FileHardState(tmp_path, must_exist=True)
    FileHardState(tmp_path).update({"term": 7, "voted_for": "m2"})
    again = FileHardState(tmp_path, must_exist=True)
    assert (again.term, again.voted_for) == (7, "m2")


def test_an_update_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed fsync leaves the old term and vote, in memory and on disk."""
    state = FileHardState(tmp_path)
    state.update({"term": 3, "voted_for": "m1"})

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="Input/output"):
            state.update({"term": 4, "voted_for": None})
    assert (state.term, state.voted_for) == (3, "m1")
    again = FileHardState(tmp_path)
    assert (again.term, again.voted_for) == (3, "m1")


def test_the_term_never_goes_back(tmp_path: Path) -> None:
    """Lowering it is a defect of ours, not an input."""
    state = FileHardState(tmp_path)
    state.update({"term": 3})
    with pytest.raises(AssertionError):
        state.update({"term": 2})


def test_every_flipped_byte_is_refused(tmp_path: Path) -> None:
    """A damaged vote is a lost vote: the member must not start."""
    FileHardState(tmp_path).update({"term": 300, "voted_for": "consensus-2"})
    path = tmp_path / "hard_state"
    whole = path.read_bytes()
    for offset in range(len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(LogDamagedError):
            FileHardState(tmp_path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(LogDamagedError):
            FileHardState(tmp_path)
