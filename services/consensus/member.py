"""One member put together: log, term and vote, roles and state machine, with the applying between commit and answer.

Everything outside (disk, threads, network, state machine) comes in through `raft.ports`, so that the simulator runs this very
code with time, crashes and loss of its own.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence

import structlog

from services.consensus.persistence.compaction import LogCompaction, LogLimits
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.follower import FollowerRole
from services.consensus.raft.leader import LeaderRole
from services.consensus.raft.log import RaftLog
from services.consensus.raft.messages import Message, Received
from services.consensus.raft.ports import (
    BlockingRunner,
    CannotApplyError,
    Entry,
    EntryKind,
    HardStateChange,
    HardStateStore,
    LogDamagedError,
    LogStore,
    Network,
    StateMachine,
)
from services.consensus.raft.snapshot_receiving import SnapshotReceiver
from services.consensus.raft.snapshot_sending import SnapshotSender
from services.consensus.raft.state import RaftState, own_class_of
from shared.contracts.cluster import ConsensusMember
from shared.errors import ClusterMismatchError, NotLeaderError
from shared.units import MIB

logger = structlog.get_logger(__name__)

APPLY_BATCH_ENTRIES = 256
APPLY_BATCH_BYTES = 4 * MIB
FOLLOWER_APPLY_DELAY_S = 0.05
"""How long a follower lets committed entries wait for company: nobody waits for what it applies, and a transaction costs as much
as the entries in it. Below the heartbeat interval, by which a follower learns late of a commit anyway."""

FOLLOWER_APPLY_BACKLOG = 64
"""With as many waiting it applies at once."""

HEARD_WITHIN_S = 10.0
"""The log keeps what a follower needs that spoke within this time, up to a limit."""


class Member:
    """A consensus member.

    Invariant: a proposal's future resolves only after its entry was committed and applied here; a read's only when
    everything committed before it arrived is applied here.
    """

    def __init__(
        self,
        member_id: str,
        *,
        log_store: LogStore,
        hard_state: HardStateStore,
        log_runner: BlockingRunner,
        apply_runner: BlockingRunner,
        compaction_runner: BlockingRunner,
        network: Network,
        state_machine: StateMachine,
        on_fatal: Callable[[BaseException], None],
        limits: LogLimits | None = None,
        follower_apply_delay_s: float = FOLLOWER_APPLY_DELAY_S,
    ) -> None:
        self.id = member_id
        self._follower_apply_delay_s = follower_apply_delay_s
        self._state_machine = state_machine
        self._apply_runner = apply_runner
        self._on_fatal = on_fatal
        self._is_applying = False
        self._apply_timer: asyncio.TimerHandle | None = None
        self._is_stopped = False
        self.stopped_applying: str | None = None
        self._applied_waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waiter_number = 0
        self._role_listeners: list[Callable[[], None]] = []
        self._raft: RaftState | None = None
        limits = limits or LogLimits()
        log = RaftLog(log_store, log_runner, last_applied=state_machine.last_applied, installed=state_machine.installed)
        _check_agreement(log, hard_state, state_machine)
        self.log = log
        self._compaction = LogCompaction(log, state_machine, compaction_runner, limits, self._kept_from)
        self._snapshots = SnapshotReceiver(
            log,
            state_machine,
            apply_runner,
            on_replaced=self._replaced,
            on_installed=self._installed,
            on_fatal=on_fatal,
        )
        self._raft = own_class_of(member_id)(
            member_id,
            log=log,
            hard_state=_GuardedHardState(hard_state, on_fatal),
            network=network,
            observer=self,
            snapshots=self._snapshots,
            send_snapshots=lambda role: SnapshotSender(
                role, state_machine, compaction_runner, piece_bytes=limits.snapshot_piece_bytes
            ),
        )

    @property
    def raft(self) -> RaftState:
        """The engine's state of this member."""
        assert self._raft is not None
        return self._raft

    @property
    def leader_role(self) -> LeaderRole | None:
        """The leader's role object, if this member leads."""
        role = self.raft.state
        return role if isinstance(role, LeaderRole) and role.is_current else None

    @property
    def leader(self) -> ConsensusMember | None:
        """Who leads, as far as this member knows."""
        return self.configuration.find(self.raft.get_leader())

    @property
    def configuration(self) -> Configuration:
        """The membership in force."""
        return self.log.configuration()[1]

    @property
    def checkpointed_index(self) -> int:
        """Up to here the state machine survives a power cut without the log."""
        return self._compaction.checkpointed_index

    def start(self) -> None:
        """Start the timers."""
        self.raft.start()

    def stop(self) -> None:
        """Stop the timers; nothing more is sent. Waiting proposals fail as unknown."""
        self._is_stopped = True
        self._cancel_apply_timer()
        self.raft.stop()

    def on_role_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the role or the known leader changes."""
        self._role_listeners.append(listener)

    def off_role_change(self, listener: Callable[[], None]) -> None:
        """Undo `on_role_change`."""
        self._role_listeners.remove(listener)

    def receive(self, received: Received[Message]) -> None:
        """A message from another member."""
        self.raft.receive(received)

    def link_changed(self, peer: str) -> None:
        """The connection to `peer` was lost or made: what was in flight may be gone."""
        role = self.leader_role
        if role is not None:
            role.connection_lost(peer)

    def bootstrap(self, configuration: Configuration) -> bool:
        """Write the first entry of a new cluster and campaign at once. False if this member is initialised already.

        Raises:
            ClusterMismatchError: it belongs to another cluster; definite.
        """
        if self.log.last_log_index > 0:
            if self.configuration.cluster_id != configuration.cluster_id:
                raise ClusterMismatchError(
                    "This member belongs to another cluster.", cluster_id=self.configuration.cluster_id
                )
            return False
        self.raft.storage.update({"term": 1})
        self.log.append([Entry(1, EntryKind.CONFIGURATION, configuration.encode())])
        self.raft.configuration_may_have_changed()
        self.log.when_durable(1, self._campaign)
        return True

    def propose_configuration(self, configuration: Configuration) -> asyncio.Future[object]:
        """Change the membership; see `LeaderRole.propose_configuration`. Raises NotLeaderError, ConflictError."""
        return self._require_leader().propose_configuration(configuration)

    def propose(self, payloads: Sequence[bytes]) -> list[asyncio.Future[object]]:
        """Append commands; see `LeaderRole.propose`.

        Raises:
            NotLeaderError: with the leader's id and URL, as far as known; definite.
        """
        return self._require_leader().propose(payloads)

    async def read_barrier(self) -> int:
        """Wait until this member may answer a linearizable read; returns the index that it has applied at least.

        Raises:
            NotLeaderError, LeaderUnavailableError: definite.
        """
        index = await self._require_leader().read_index()
        await self.wait_applied(index)
        return index

    @property
    def may_answer_unproven(self) -> bool:
        """Whether an answer from the state of now may be given to a read that is here, if `read_barrier`, called now, ends well.

        Then everything that was acknowledged before is applied already, and the barrier only has to prove leadership: it does
        not matter whether that comes before or after the state is read.
        """
        role = self.leader_role
        index = None if role is None else role.unproven_read_index
        return index is not None and self.log.last_applied >= index

    async def wait_applied(self, index: int) -> None:
        """Wait until the entry at `index` is applied here."""
        if self.log.last_applied >= index:
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiter_number += 1
        heapq.heappush(self._applied_waiters, (index, self._waiter_number, waiting))
        self._apply_next()
        await waiting

    def _require_leader(self) -> LeaderRole:
        role = self.leader_role
        if role is None:
            leader = self.leader
            if leader is None:
                raise NotLeaderError("This member does not lead.")
            raise NotLeaderError("This member does not lead.", leader_id=leader.id, leader_url=leader.url)
        return role

    def _campaign(self) -> None:
        """A new cluster does not wait for its first election timeout."""
        role = self.raft.state
        if isinstance(role, FollowerRole):
            role.start_election()
            # Alone, it leads already: a follower's timer that ran on would depose the leader again and again.
            if self.raft.state is role:
                role.election_timer.reset()

    # --- Observer -----------------------------------------------------------------------------------------------

    def commit_advanced(self, commit_index: int) -> None:  # noqa: ARG002 the log knows it
        """See `Observer`."""
        self._apply_soon()

    def role_changed(self) -> None:
        """See `Observer`."""
        for listener in list(self._role_listeners):
            listener()

    def configuration_changed(self) -> None:
        """See `Observer`."""
        self.role_changed()

    def fatal(self, error: BaseException) -> None:
        """See `Observer`."""
        self._on_fatal(error)

    # --- applying -----------------------------------------------------------------------------------------------

    def _apply_soon(self) -> None:
        """At once where somebody may wait for it; a follower lets entries gather first."""
        backlog = self.log.commit_index - self.log.last_applied
        may_wait = isinstance(self.raft.state, FollowerRole) and not self._applied_waiters
        if self._is_stopped:
            return  # the threads end soon; what is committed is applied in the next life
        if not may_wait or backlog >= FOLLOWER_APPLY_BACKLOG or not self._follower_apply_delay_s:
            self._apply_next()
        elif self._apply_timer is None and backlog > 0:
            self._apply_timer = asyncio.get_running_loop().call_later(self._follower_apply_delay_s, self._apply_next)

    def _cancel_apply_timer(self) -> None:
        if self._apply_timer is not None:
            self._apply_timer.cancel()
            self._apply_timer = None

    def _apply_next(self) -> None:
        self._cancel_apply_timer()
        log = self.log
        # Committed is not enough: a majority of others may have fsynced what is still in flight here. After a crash the
        # state machine would be ahead of this member's log, which cannot be told from a lost log.
        ready = min(log.commit_index, log.durable_index)
        if self._is_applying or self.stopped_applying or log.last_applied >= ready:
            return
        if log.is_behind_base or self._snapshots.is_installing:
            return
        first = log.last_applied + 1
        count = min(APPLY_BATCH_ENTRIES, ready - log.last_applied)
        entries = log.entries(first, max_count=count, max_bytes=APPLY_BATCH_BYTES)
        self._is_applying = True
        self._apply_runner.submit(
            lambda: self._state_machine.apply(first, entries),
            lambda results, error: self._applied(first, entries, results, error),
        )

    def _applied(
        self, first: int, entries: Sequence[Entry], results: Sequence[object] | None, error: BaseException | None
    ) -> None:
        self._is_applying = False
        if isinstance(error, CannotApplyError):
            self._stop_applying(str(error))
            return
        if results is None or error is not None:
            # A member that cannot apply an entry must not skip it: the next entries may depend on it.
            self._on_fatal(error or RuntimeError("applying gave no results"))
            return
        self.log.mark_applied(first + len(results) - 1)
        role = self.raft.state
        if isinstance(role, LeaderRole):
            for index, result in enumerate(results, first):
                role.applied(index, result)
        self._wake_readers()
        self._compaction.applied(entries[: len(results)])
        self._apply_soon()

    def _wake_readers(self) -> None:
        while self._applied_waiters and self._applied_waiters[0][0] <= self.log.last_applied:
            waiting = heapq.heappop(self._applied_waiters)[2]
            if not waiting.done():
                waiting.set_result(None)

    def _replaced(self) -> None:
        """A snapshot took the place of the log in memory, and with it of the membership."""
        self.raft.configuration_may_have_changed()

    def _installed(self) -> None:
        """A snapshot took the place of the state machine, and the log on disk agrees."""
        self._wake_readers()
        self._apply_next()

    def _kept_from(self) -> int:
        """What followers still need of the log; a follower itself needs nothing beyond the limits."""
        role = self.leader_role
        return self.log.last_applied if role is None else role.kept_from(HEARD_WITHIN_S)

    def _stop_applying(self, reason: str) -> None:
        """Alive, but not of use as a leader: it cannot answer for what it has not applied."""
        self.stopped_applying = reason
        self.raft.has_stopped_applying = True
        logger.critical("this member applies nothing any more", reason=reason, applied=self.log.last_applied)
        role = self.leader_role
        if role is not None:
            role.transfer()


class _GuardedHardState:
    """Term and vote; a failed write ends the member, because nobody knows then what is on the disk.

    Without this the error would only close the connection that brought the message, or leave a role half begun.
    """

    def __init__(self, store: HardStateStore, on_fatal: Callable[[BaseException], None]) -> None:
        self._store = store
        self._on_fatal = on_fatal

    @property
    def term(self) -> int:
        return self._store.term

    @property
    def voted_for(self) -> str | None:
        return self._store.voted_for

    def update(self, change: HardStateChange) -> None:
        try:
            self._store.update(change)
        except OSError as error:
            self._on_fatal(error)
            raise


def _check_agreement(log: RaftLog, hard_state: HardStateStore, state_machine: StateMachine) -> None:
    """The three files of a member must tell one story; otherwise one of them was lost or exchanged."""
    if hard_state.term < log.last_log_term:
        raise LogDamagedError(
            f"the term on disk is {hard_state.term}, the log ends in term {log.last_log_term}: its vote is lost"
        )
    if state_machine.last_applied > log.last_log_index:
        raise LogDamagedError(
            f"the state machine has applied entry {state_machine.last_applied}, the log ends at {log.last_log_index}"
        )
