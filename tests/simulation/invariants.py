"""The invariants of RAFT.md part F, checked after every message that any member handles.

Each is a sentence of the Raft paper's figure 3 or of its rules about persistence. A violation is remembered with its instant
and fails the run; nothing is repaired.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from services.consensus.node import RaftNode
from services.consensus.raft.leader import LeaderRole
from services.consensus.raft.ports import Entry


class InvariantViolatedError(AssertionError):
    """A promise of the engine was broken."""


@dataclass
class _Seen:
    """The furthest that one life of a member was seen."""

    term: int = 0
    commit_index: int = 0
    last_applied: int = 0


@dataclass
class Invariants:
    """Everything that must hold between the members of one cluster, over all their lives."""

    leader_of_term: dict[int, str] = field(default_factory=dict)
    entries: dict[int, Entry] = field(default_factory=dict)
    terms_on_disk: dict[str, int] = field(default_factory=dict)
    violations: list[InvariantViolatedError] = field(default_factory=list)
    _seen: dict[int, _Seen] = field(default_factory=dict)
    _led: set[tuple[str, int]] = field(default_factory=set)

    def watch(self, node: RaftNode) -> None:
        term = node.raft.storage.term
        if term < self.terms_on_disk.get(node.id, 0):
            self._violated(f"{node.id} came back with term {term}, it had seen {self.terms_on_disk[node.id]}")
        self._seen[id(node)] = _Seen(term, node.log.commit_index, node.log.last_applied)
        node.on_role_change(lambda: self.check(node))

    def unwatch(self, node: RaftNode) -> None:
        self._seen.pop(id(node), None)

    def raise_errors(self) -> None:
        if self.violations:
            raise self.violations[0]

    def applied(self, member: str, index: int, entry: Entry) -> None:
        """State machine safety: nobody applies another entry at an index (figure 3)."""
        known = self.entries.setdefault(index, entry)
        if tuple(known) != tuple(entry):
            self._violated(f"{member} applies {entry} at {index}, another member applied {known}")

    def check(self, node: RaftNode) -> None:
        seen = self._seen.get(id(node))
        if seen is None:
            return
        term, log = node.raft.storage.term, node.log
        self.terms_on_disk[node.id] = max(term, self.terms_on_disk.get(node.id, 0))
        if term < seen.term or log.commit_index < seen.commit_index or log.last_applied < seen.last_applied:
            self._violated(f"{node.id}: term, commit index or last applied went back")
        if not log.last_applied <= log.commit_index <= log.last_log_index:
            self._violated(
                f"{node.id}: applied {log.last_applied}, commit {log.commit_index}, last {log.last_log_index}"
            )
        if log.last_applied > log.durable_index:
            self._violated(f"{node.id}: applied {log.last_applied}, durable only {log.durable_index}")
        if log.durable_index > log.last_log_index:
            self._violated(f"{node.id}: durable {log.durable_index} beyond the last entry {log.last_log_index}")
        self._seen[id(node)] = _Seen(term, log.commit_index, log.last_applied)
        role = node.raft.state
        if isinstance(role, LeaderRole) and role.is_current:
            self._check_leader(node, role)

    def _check_leader(self, node: RaftNode, role: LeaderRole) -> None:
        other = self.leader_of_term.setdefault(role.term, node.id)
        if other != node.id:
            self._violated(f"election safety: {other} and {node.id} both lead term {role.term}")
        for peer, progress in role.progress.items():
            if not progress.match_index < progress.next_index:
                self._violated(
                    f"{node.id}: match {progress.match_index} not below next {progress.next_index} of {peer}"
                )
        if (node.id, role.term) in self._led:
            return
        self._led.add((node.id, role.term))
        # Leader completeness, at the instant of the election: every applied entry is in the new leader's log.
        for index, entry in self.entries.items():
            if index > node.log.last_log_index or node.log.term_at(index) != entry.term:
                self._violated(f"leader completeness: {node.id} leads term {role.term} without entry {index}")
                return

    def _violated(self, what: str) -> None:
        now_s = asyncio.get_running_loop().time()
        self.violations.append(InvariantViolatedError(f"t={now_s:.3f} s: {what}"))


def describe(violations: list[Any]) -> str:
    """The first violations, one per line."""
    return "\n".join(str(violation) for violation in violations[:5])
