"""The invariants of Raft, checked after every message that any member handles, and on every message that one sends.

docs/consensus.md, "Invariants", lists them. Each is a sentence of the Raft paper's figure 3 or of its rules about
persistence. What must be durable is compared with the simulated disk itself, never with what the member believes. A violation
is remembered with its instant and fails the run; nothing is repaired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from services.consensus.member import Member
from services.consensus.raft.decide import LogPosition
from services.consensus.raft.leader import LeaderRole
from services.consensus.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Message,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestVoteResponse,
    TimeoutNow,
)
from services.consensus.raft.ports import Entry
from tests.simulation.disk import Registers, SimulatedDisk


class InvariantViolatedError(AssertionError):
    """A promise of the engine was broken."""


@dataclass
class _Life:
    """One life of a member: its disk, and the furthest it was seen."""

    disk: SimulatedDisk
    term: int
    commit_index: int
    last_applied: int


@dataclass
class Invariants:
    """Everything that must hold between the members of one cluster, over all their lives."""

    disks_of: Callable[[Iterable[str]], dict[str, SimulatedDisk]]
    leader_of_term: dict[int, str] = field(default_factory=dict)
    vote_of: dict[tuple[str, int], str] = field(default_factory=dict)
    entries: dict[int, Entry] = field(default_factory=dict)
    committed_in: dict[int, int] = field(default_factory=dict)
    """By index, the term of the leader that committed it first."""
    terms_on_disk: dict[str, int] = field(default_factory=dict)
    violations: list[InvariantViolatedError] = field(default_factory=list)
    snapshots_installed: int = 0
    _reference: Registers = field(default_factory=Registers)
    _lives: dict[int, _Life] = field(default_factory=dict)
    _led: set[tuple[str, int]] = field(default_factory=set)

    def watch(self, node: Member, disk: SimulatedDisk) -> None:
        term = node.raft.storage.term
        if term < self.terms_on_disk.get(node.id, 0):
            self._violated(f"{node.id} came back with term {term}, it had seen {self.terms_on_disk[node.id]}")
        self._lives[id(node)] = _Life(disk, term, node.log.commit_index, node.log.last_applied)
        node.on_role_change(lambda: self.check(node))
        self._watch_commits(node)

    def unwatch(self, node: Member) -> None:
        self._lives.pop(id(node), None)

    def forget_disk(self, member: str) -> None:
        """A member's disk was exchanged on purpose."""
        self.terms_on_disk.pop(member, None)
        self.vote_of = {key: vote for key, vote in self.vote_of.items() if key[0] != member}

    def raise_errors(self) -> None:
        if self.violations:
            raise self.violations[0]

    def applied(self, member: str, index: int, entry: Entry) -> None:
        """State machine safety: nobody applies another entry at an index (figure 3)."""
        known = self.entries.setdefault(index, entry)
        if tuple(known) != tuple(entry):
            self._violated(f"{member} applies {_short(entry)} at {index}, another member applied {_short(known)}")

    def became(self, member: str, position: LogPosition, state: Registers) -> None:
        """A snapshot is what applying every entry up to its position gives (section 7), the results of requests included."""
        self.snapshots_installed += 1
        known = self.entries.get(position.index)
        if known is None or known.term != position.term:
            self._violated(f"{member} becomes a snapshot at {position}, where {known and _short(known)} was applied")
            return
        expected = self._reference
        if expected.last_applied > position.index:
            expected = Registers()
        while expected.last_applied < position.index:
            expected.take(self.entries[expected.last_applied + 1])
        self._reference = expected
        if expected.pack() != state.pack():
            self._violated(f"{member} becomes a snapshot that is not the state at {position.index}")

    # --- what a member says -------------------------------------------------------------------------------------

    def sent(self, node: Member, disk: SimulatedDisk, receiver: Member | None, message: Message) -> None:
        """A message leaves: whatever it promises must be on the sender's disk by now."""
        kind, term = message.kind, message.term
        if isinstance(message, RequestPreVote | RequestPreVoteResponse):
            return
        if term != disk.hard_state[0]:
            self._violated(f"{node.id} sends {kind} of term {term}, its disk knows term {disk.hard_state[0]}")
        if isinstance(message, AppendEntries | TimeoutNow) and self.leader_of_term.get(term) != node.id:
            self._violated(f"{node.id} sends {kind} of term {term}, which it does not lead")
        is_vote = isinstance(message, RequestVoteResponse) and message.vote_granted
        if is_vote and receiver is not None and disk.hard_state[1] != receiver.id:
            self._violated(f"{node.id} votes for {receiver.id}, its disk knows a vote for {disk.hard_state[1]}")
        if isinstance(message, AppendEntriesResponse) and message.success:
            self._check_acknowledgement(node.id, disk, receiver, message)

    def _check_acknowledgement(
        self, member: str, disk: SimulatedDisk, leader: Member | None, message: AppendEntriesResponse
    ) -> None:
        index = message.last_log_index
        assert index is not None
        if index > disk.last_index:
            self._violated(f"{member} acknowledges {index}, its disk holds {disk.last_index}")
        elif index <= disk.base.index:
            pass  # committed, and no longer in the log
        elif leader is not None and leader.leader_role is not None and leader.leader_role.term == message.term:
            log = leader.log
            if index > log.last_log_index or (index >= log.base.index and log.term_at(index) != disk.entry(index).term):
                self._violated(f"{member} acknowledges {index}, where its log differs from that of {leader.id}")

    # --- what a member is ---------------------------------------------------------------------------------------

    def check(self, node: Member) -> None:
        life = self._lives.get(id(node))
        if life is None:
            return
        term, log = node.raft.storage.term, node.log
        self.terms_on_disk[node.id] = max(term, self.terms_on_disk.get(node.id, 0))
        if term < life.term or log.commit_index < life.commit_index or log.last_applied < life.last_applied:
            self._violated(f"{node.id}: term, commit index or last applied went back")
        if not log.last_applied <= log.commit_index <= log.last_log_index:
            self._violated(
                f"{node.id}: applied {log.last_applied}, commit {log.commit_index}, last {log.last_log_index}"
            )
        if node.raft.voters != node.configuration.voters:
            self._violated(f"{node.id}: its log says {node.configuration.voters} vote, it counts {node.raft.voters}")
        if log.last_applied > log.durable_index:
            self._violated(f"{node.id}: applied {log.last_applied}, durable only {log.durable_index}")
        installed = life.disk.installed
        on_disk = max(life.disk.last_index, installed.position.index if installed is not None else 0)
        if log.durable_index > min(log.last_log_index, on_disk):
            self._violated(f"{node.id}: durable {log.durable_index}, last {log.last_log_index}, on disk {on_disk}")
        disk = life.disk
        if disk.base.index > disk.checkpoint.last_applied and not disk.is_state_lost:
            self._violated(
                f"{node.id}: its log begins at {disk.base.index}, a power cut leaves {disk.checkpoint.last_applied}"
            )
        # Between the two steps of an installation the state is there, and the log has not been told yet.
        if log.is_behind_base and not disk.is_state_lost and not node.raft.snapshots.is_installing:
            self._violated(f"{node.id}: applied {log.last_applied}, its log begins at {log.base.index}")
        self._check_vote(node.id, life.disk)
        role = node.raft.state
        if isinstance(role, LeaderRole) and role.is_current:
            self._check_leader(node, role, life)
        life.term, life.commit_index, life.last_applied = term, log.commit_index, log.last_applied

    def _check_vote(self, member: str, disk: SimulatedDisk) -> None:
        """One vote per term, which is not taken back (section 5.2)."""
        term, vote = disk.hard_state
        known = self.vote_of.get((member, term))
        if vote is not None:
            self.vote_of[member, term] = vote
        if known not in {None, vote}:
            self._violated(f"{member} voted for {known} in term {term}, now its disk says {vote}")

    def _check_leader(self, node: Member, role: LeaderRole, life: _Life) -> None:
        other = self.leader_of_term.setdefault(role.term, node.id)
        if other != node.id:
            self._violated(f"election safety: {other} and {node.id} both lead term {role.term}")
        for peer, progress in role.progress.items():
            if not progress.match_index < progress.next_index:
                self._violated(
                    f"{node.id}: match {progress.match_index} not below next {progress.next_index} of {peer}"
                )
        if (node.id, role.term) not in self._led:
            self._led.add((node.id, role.term))
            self._check_election(node, role)
        elif life.commit_index < node.log.commit_index < role.first_index:
            self._violated(f"{node.id} commits {node.log.commit_index} by counting, before any entry of its own term")

    def _watch_commits(self, node: Member) -> None:
        """At the instant itself: a moment later another membership may be in force."""
        tell, known = node.commit_advanced, node.log.commit_index

        def commit_advanced(index: int) -> None:
            nonlocal known
            if index > known and node.leader_role is not None:
                self._check_commit(node, index)
                for committed in range(known + 1, index + 1):
                    self.committed_in.setdefault(committed, node.leader_role.term)
            known = max(known, index)
            tell(index)

        node.commit_advanced = commit_advanced

    def _check_commit(self, node: Member, index: int) -> None:
        """What a leader commits is on the disks of a true majority at that instant (section 5.3)."""
        disks = self.disks_of(_true_voters(node))
        holders = [name for name, disk in disks.items() if _holds(disk, index, node.log.term_at(index))]
        if 2 * len(holders) <= len(disks):
            self._violated(f"{node.id} commits {index}, which only {holders} of {sorted(disks)} hold")

    def _check_election(self, node: Member, role: LeaderRole) -> None:
        """At the instant of an election: a true majority voted, and the log holds everything that was ever applied."""
        disks = self.disks_of(_true_voters(node))
        votes = [name for name, disk in disks.items() if disk.hard_state == (role.term, node.id)]
        # Somebody may have gone on to a later term meanwhile; then `vote_of` remembers.
        votes += [name for name in disks if name not in votes and self.vote_of.get((name, role.term)) == node.id]
        if 2 * len(votes) <= len(disks):
            self._violated(f"{node.id} leads term {role.term} with the votes of {votes} among {sorted(disks)}")
        # Leader completeness (figure 3): of the leaders of later terms. Votes that come late make a leader of a term that is
        # over, which may lack what a later one has committed meanwhile, and commits nothing.
        for index, entry in self.entries.items():
            if index < node.log.base.index or self.committed_in.get(index, 0) > role.term:
                continue
            if index > node.log.last_log_index or node.log.term_at(index) != entry.term:
                self._violated(f"leader completeness: {node.id} leads term {role.term} without entry {index}")
                return

    def _violated(self, what: str) -> None:
        now_s = asyncio.get_running_loop().time()
        self.violations.append(InvariantViolatedError(f"t={now_s:.3f} s: {what}"))


def _true_voters(node: Member) -> list[str]:
    """Counted here, and not by what is watched."""
    return [member.id for member in node.configuration.members if member.is_voter]


def _holds(disk: SimulatedDisk, index: int, term: int) -> bool:
    if index <= disk.base.index or (disk.installed is not None and index <= disk.installed.position.index):
        return True
    return index <= disk.last_index and disk.entry(index).term == term


def _short(entry: Entry) -> str:
    return f"(term {entry.term}, kind {int(entry.kind)}, {entry.payload[:40]!r})"
