"""One member: raftos' `State` with the term rule before its dispatch, and the roles of this package.

raftos checks terms inside each handler, runs the handler on a role that has just been replaced, and swallows the message
that deposes a leader (docs/consensus.md, "Defects of raftos"). Here the term is updated, durably, before the current role
sees anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from services.consensus.raft import decide
from services.consensus.raft.candidate import CandidateRole
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.decide import LogPosition
from services.consensus.raft.follower import FollowerRole
from services.consensus.raft.leader import LeaderRole
from services.consensus.raft.log import RaftLog
from services.consensus.raft.messages import (
    AppendEntries,
    InstallSnapshot,
    Message,
    Received,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
    vote_request_of_raftos,
)
from services.consensus.raft.ports import HardStateStore, Network, Observer
from services.consensus.raft.seam import BaseCandidate, BaseFollower, BaseLeader, BaseRole, BaseState, config
from services.consensus.raft.snapshot_receiving import SnapshotReceiver
from services.consensus.raft.snapshot_sending import SnapshotSender

Role = FollowerRole | CandidateRole | LeaderRole

_OF_A_LEADER = (AppendEntries, InstallSnapshot)
_REQUESTS = (*_OF_A_LEADER, RequestVote, TimeoutNow)


@dataclass(slots=True)
class ElectionCounts:
    """Since this process began: elections that this member started and won, and how often it learnt of another leader."""

    started: int = 0
    won: int = 0
    leader_changes: int = 0


class _Mesh:
    """What raftos calls the server: it names the peers and broadcasts. An address is a 1-tuple of a member's id."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.cluster: list[tuple[str]] = []

    def broadcast(self, message: Message) -> None:
        for (peer,) in self.cluster:
            self.network.post(message, peer)


class RaftState(BaseState):
    """Role, log, term and vote of one member. Make it with `own_class_of`.

    Invariants:
        storage.term never goes back, and is durable before any message of that term leaves;
        exactly one role object is current, `self.state`.
    """

    server: _Mesh
    storage: HardStateStore
    log: RaftLog
    state: Role

    ROLES: ClassVar[dict[type[BaseRole], type[Role]]] = {
        BaseFollower: FollowerRole,
        BaseCandidate: CandidateRole,
        BaseLeader: LeaderRole,
    }

    def __init__(
        self,
        member_id: str,
        *,
        log: RaftLog,
        hard_state: HardStateStore,
        network: Network,
        observer: Observer,
        snapshots: SnapshotReceiver,
        send_snapshots: Callable[[LeaderRole], SnapshotSender],
    ) -> None:
        self.server = _Mesh(network)
        self.id = member_id
        self.__class__.loop = asyncio.get_running_loop()
        self.storage = hard_state
        self.log = log
        self.state_machine = None
        self.snapshots = snapshots
        self.send_snapshots = send_snapshots
        self.voters: frozenset[str] = frozenset()
        self.is_transfer = False
        self.is_low_on_disk = False
        self.majority_round_trip_ms: int | None = None
        self.has_stopped_applying = False
        self.elections = ElectionCounts()
        self._newest_leader: str | None = None
        self._observer = observer
        self._in_force: tuple[int, Configuration] | None = None
        self._heard_at = float("-inf")
        log.on_flushed = self._log_flushed
        log.on_failure = observer.fatal
        self.state = FollowerRole(self)
        self.configuration_may_have_changed()

    # --- raftos' seams ------------------------------------------------------------------------------------------

    @staticmethod
    def _get_id(member_id: str) -> str:
        """raftos makes ids of (host, port); ours are names."""
        return member_id

    def is_majority(self, count: int) -> bool:
        """raftos' own has wrong majorities for every even size."""
        return count >= decide.majority(len(self.voters))

    def set_leader(self, leader: str | BaseLeader | None) -> None:
        """raftos keeps who leads; whoever observes is told."""
        super().set_leader(leader)
        known = self.get_leader()
        if known is not None and known != self._newest_leader:
            self._newest_leader = known
            self.elections.leader_changes += 1
        self._observer.role_changed()

    def broadcast(self, message: object) -> None:
        """raftos' broadcast; a vote request of a transfer says so, so that followers do not insist on their leader."""
        if not isinstance(message, Message):
            message = vote_request_of_raftos(message, is_transfer=self.is_transfer)
            self.is_transfer = False
        super().broadcast(message)

    def _change_state(self, new_state: type[BaseRole]) -> None:
        self.elections.started += new_state is BaseCandidate
        self.elections.won += new_state is BaseLeader
        super()._change_state(self.ROLES[new_state])

    # --- messages -----------------------------------------------------------------------------------------------

    def post(self, message: Message, destination: str) -> None:
        """Send to one member."""
        self.server.network.post(message, destination)

    def receive(self, received: Received[Message]) -> None:
        """One message from an authenticated member: update the term, then raftos' dispatch to the current role."""
        message = received.message
        if isinstance(message, RequestPreVote):
            self._answer_pre_vote(message, received.sender)
            return
        is_promise = isinstance(message, RequestPreVoteResponse) and message.vote_granted
        if not is_promise and not self._update_term(message, received.sender):
            return
        if isinstance(message, _OF_A_LEADER) and isinstance(self.state, CandidateRole):
            self.to_follower()
        if self._has_handler_of(message.kind):
            self.request_handler(received)

    def _update_term(self, message: Message, sender: str) -> bool:
        """Figure 2, "All servers". False when the message is not for the current role."""
        current = self.storage.term
        if message.term > current:
            if isinstance(message, RequestVote) and not message.transfer and self._hears_leader():
                return False  # stickiness (section 6): a member that was cut off does not depose a live leader
            self.storage.update({"term": message.term, "voted_for": None})
            if not isinstance(self.state, FollowerRole):
                self.to_follower()
        elif message.term < current:
            if isinstance(message, _REQUESTS):
                self.post(RequestVoteResponse(current, vote_granted=False), sender)
            return False
        return not isinstance(message, RequestPreVoteResponse)

    def _has_handler_of(self, kind: str) -> bool:
        """raftos' base roles have empty handlers of every name; only our own are entered."""
        handler = getattr(type(self.state), f"on_receive_{kind}", None)
        return bool(handler) and str(handler.__module__).startswith("services.")

    def _answer_pre_vote(self, message: RequestPreVote, sender: str) -> None:
        end = LogPosition(message.last_log_term, message.last_log_index)
        is_granted = decide.grant_pre_vote(
            message.term, self.storage.term, end, self.log.end, hears_leader=self._hears_leader()
        )
        term = message.term if is_granted else self.storage.term
        self.post(RequestPreVoteResponse(term, is_granted), sender)

    # --- what the roles ask -------------------------------------------------------------------------------------

    def may_campaign(self) -> bool:
        """Learners, strangers and members that were never initialised do not, nor those without a state that they can use."""
        is_able = not self.has_stopped_applying and not self.log.is_behind_base and not self.snapshots.is_installing
        return self.id in self.voters and is_able

    def lacks_only_its_state(self) -> bool:
        """A voter whose log and vote are whole, while it waits for a snapshot."""
        return self.id in self.voters and self.log.is_behind_base and not self.snapshots.is_installing

    def heard_from_leader(self, leader_id: str) -> None:
        """The current leader spoke."""
        self._heard_at = self.loop.time()
        if self.get_leader() != leader_id:
            self.set_leader(leader_id)

    def commit(self, index: int) -> None:
        """Entries up to `index` are committed."""
        if index > self.log.commit_index:
            self.log.mark_committed(index)
            self._observer.commit_advanced(index)

    def configuration_may_have_changed(self) -> None:
        """The log's last configuration entry is in force, whether it was appended or erased."""
        in_force = self.log.configuration()
        # Not the index alone: one message may erase an entry and put another one in its place.
        if in_force == self._in_force:
            return
        self._in_force = in_force
        configuration = in_force[1]
        self.voters = configuration.voters
        self.server.cluster = [(peer,) for peer in configuration.peers_of(self.id)]
        self.server.network.configure(configuration)
        if isinstance(self.state, LeaderRole):
            self.state.peers_changed()
        self._observer.configuration_changed()

    def _hears_leader(self) -> bool:
        if isinstance(self.state, LeaderRole):
            return True
        return self.loop.time() - self._heard_at < config.election_interval[0]

    def _log_flushed(self) -> None:
        if isinstance(self.state, LeaderRole) and self.state.is_current:
            self.state.update_commit_index()
        # What was committed before it was durable here may be applied from now on.
        self._observer.commit_advanced(self.log.commit_index)


def own_class_of(member_id: str) -> type[RaftState]:
    """A class for this member alone, because raftos keeps the leader and the loop on the class."""

    class OwnState(RaftState):
        """See `own_class_of`."""

    OwnState.__qualname__ = f"RaftState[{member_id}]"
    return OwnState
