"""When the answer to a read may be prepared while leadership is being proven."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from services.consensus.member import Member
from services.consensus.raft.leader import LeaderRole


def may_answer(*, commit_index: int, last_applied: int, first_index: int = 5, **changes: object) -> bool:
    """Of a leader whose first entry is at `first_index`."""
    log = SimpleNamespace(commit_index=commit_index, last_applied=last_applied, is_behind_base=False)
    role = SimpleNamespace(is_current=True, first_index=first_index, log=log)
    for name, value in changes.items():
        setattr(log if hasattr(log, name) else role, name, value)
    role.unproven_read_index = LeaderRole.unproven_read_index.__get__(role)
    member = SimpleNamespace(leader_role=role, log=log)
    return bool(Member.may_answer_unproven.__get__(member))


@pytest.mark.parametrize(("last_applied", "expected"), [(6, False), (7, True), (8, True)])
def test_what_is_committed_and_not_applied_is_waited_for(last_applied: int, expected: bool) -> None:
    """An acknowledged change that the tables lack would be a stale answer."""
    assert may_answer(commit_index=7, last_applied=last_applied) is expected


def test_a_new_leader_first_commits_an_entry_of_its_own() -> None:
    """Before that it does not know how far the one before it had committed."""
    assert not may_answer(commit_index=4, last_applied=4)


@pytest.mark.parametrize("change", [{"is_current": False}, {"is_behind_base": True}])
def test_who_leads_no_more_or_lacks_entries_prepares_nothing(change: dict[str, bool]) -> None:
    """The barrier says so to the caller."""
    assert not may_answer(commit_index=7, last_applied=7, **change)


def test_who_does_not_lead_prepares_nothing() -> None:
    """It has no read index."""
    assert not Member.may_answer_unproven.__get__(SimpleNamespace(leader_role=None))
