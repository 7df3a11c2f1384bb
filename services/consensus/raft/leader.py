"""The leader: raftos' timers, heartbeat rounds and step-down; replication, commit, reads and transfer of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from services.consensus.raft import decide
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.log import RaftLog
from services.consensus.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshotResponse,
    Received,
    TimeoutNow,
)
from services.consensus.raft.ports import Entry, EntryKind, HardStateStore
from services.consensus.raft.progress import FollowerProgress, Mode
from services.consensus.raft.reads import ReadRounds
from services.consensus.raft.seam import BaseLeader, config
from services.consensus.raft.snapshot_sending import SnapshotSender
from shared.errors import ConflictError, LeaderUnavailableError, OutcomeUnknownError, OverloadedError
from shared.units import MIB

if TYPE_CHECKING:
    # It imports the roles.
    from services.consensus.raft.state import RaftState

MAX_BATCH_ENTRIES = 512
MAX_BATCH_BYTES = MIB
MAX_UNCOMMITTED_BYTES = 64 * MIB
MAX_TRACKED_ROUNDS = 50
ANSWERING_HEARTBEATS = 5
READ_HEDGE_S = 0.005
"""A round for reads asks the members that it did not ask first, when it is not proven by then."""


class LeaderRole(BaseLeader):
    """Paper, sections 5.3 and 5.4; ReadIndex and transfer from the thesis, sections 6.4 and 3.10.

    Invariants:
        a role that is no longer current, or whose term has passed, sends nothing;
        an entry of an earlier term is committed only together with one of this term;
        no read is answered before an entry of this term is committed.
    """

    state: RaftState
    storage: HardStateStore
    log: RaftLog

    def __init__(self, state: RaftState) -> None:
        super().__init__(state)
        self.term = self.storage.term
        self.first_index = self.log.last_log_index + 1
        self.progress: dict[str, FollowerProgress] = {}
        self.transfer_target: str | None = None
        self._transfer_deadline: asyncio.TimerHandle | None = None
        self._proposals: dict[int, asyncio.Future[object]] = {}
        self.snapshots: SnapshotSender = state.send_snapshots(self)
        self._reads = ReadRounds[asyncio.Future[None]]()
        self._quick: frozenset[str] = frozenset()
        """Who proved the last round."""
        self._read_hedge: asyncio.TimerHandle | None = None
        self._term_committed: list[asyncio.Future[None]] = []
        self._is_flush_scheduled = False

    # --- life cycle ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """raftos starts timers and the first heartbeat; a no-op of this term makes earlier entries committable."""
        super().start()
        self.progress = {peer: FollowerProgress(self.log.last_log_index + 1) for peer in self.state.cluster}
        self.log.append([Entry(self.term, EntryKind.NO_OP, b"")])
        self._flush_soon()

    def stop(self) -> None:
        """Whoever waits learns that leadership was lost; what becomes of their entries is not known here."""
        super().stop()
        self.snapshots.close()
        for timer in (self._transfer_deadline, self._read_hedge):
            if timer is not None:
                timer.cancel()
        for waiting in self._proposals.values():
            if not waiting.done():
                waiting.set_exception(OutcomeUnknownError("Leadership was lost before the entry was committed."))
                waiting.exception()  # whoever asked may have gone; then nobody fetches it
        self._proposals.clear()
        # A read that failed certainly changed nothing.
        for read in [*self._term_committed, *self._reads.fail()]:
            if not read.done():
                read.set_exception(LeaderUnavailableError("This member stopped leading."))

    @property
    def is_current(self) -> bool:
        """Whether this object still speaks for the member."""
        return self.state.state is self and self.storage.term == self.term

    def peers_changed(self) -> None:
        """Another configuration is in force: follow exactly its peers."""
        peers = self.state.cluster
        for gone in set(self.progress).difference(peers):
            self.snapshots.end(gone)
        self.progress = {
            peer: self.progress.get(peer) or FollowerProgress(self.log.last_log_index + 1) for peer in peers
        }

    # --- proposals ----------------------------------------------------------------------------------------------

    def propose(self, payloads: Sequence[bytes]) -> list[asyncio.Future[object]]:
        """Append commands; each future gets what applying it returned.

        Raises:
            OverloadedError: the uncommitted log is full; definite.
            LeaderUnavailableError: leadership is being handed over; definite.
        """
        if self.transfer_target is not None or not self.is_current or self.log.is_behind_base:
            raise LeaderUnavailableError("Leadership is being handed over.")
        if self.log.uncommitted_bytes > MAX_UNCOMMITTED_BYTES:
            raise OverloadedError("Too much waits to be committed.", limit_bytes=MAX_UNCOMMITTED_BYTES)
        first = self.log.last_log_index + 1
        self.log.append([Entry(self.term, EntryKind.COMMAND, payload) for payload in payloads])
        futures: list[asyncio.Future[object]] = [self.loop.create_future() for _ in payloads]
        self._proposals.update(enumerate(futures, first))
        self._flush_soon()
        return futures

    def propose_configuration(self, configuration: Configuration) -> asyncio.Future[object]:
        """Append a configuration entry; it is in force at once (section 6), and committed when the future is done.

        One voter at a time, so that every majority of the old and the new configuration share a member; and only after an
        entry of this term is committed (Ongaro's correction of 2015), so that no uncommitted change of an earlier leader
        can come back beside this one.

        Raises:
            ConflictError: another change is not committed yet, or this one changes more than one voter; definite.
            LeaderUnavailableError: leadership is being handed over; definite.
        """
        in_force_since, current = self.log.configuration()
        if self.transfer_target is not None or not self.is_current or self.log.is_behind_base:
            raise LeaderUnavailableError("Leadership is being handed over.")
        if self.log.commit_index < max(in_force_since, self.first_index):
            raise ConflictError("Another change of the membership is not committed yet.", retry_after_s=1)
        if not decide.is_single_change(current.voters, configuration.voters):
            raise ConflictError("A change adds or removes one voter at most, and leaves at least one.")
        index = self.log.append([Entry(self.term, EntryKind.CONFIGURATION, configuration.encode())])
        committed: asyncio.Future[object] = self.loop.create_future()
        self._proposals[index] = committed
        self.state.configuration_may_have_changed()
        self._flush_soon()
        return committed

    def applied(self, index: int, result: object) -> None:
        """The state machine applied the entry at `index`."""
        waiting = self._proposals.pop(index, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(result)
        if index == self.log.configuration()[0] and self.id not in self.state.voters:
            # In a later iteration of the loop, so that whoever asked for it is answered first.
            self.loop.call_soon(self._leave)

    # --- replication --------------------------------------------------------------------------------------------

    async def append_entries(self, destination: str | None = None) -> None:
        """raftos' heartbeat calls this; every peer hears from us, with entries if it lacks some."""
        for peer in [destination] if destination else list(self.progress):
            self.replicate(peer, is_heartbeat=True)

    def replicate(self, peer: str, *, is_heartbeat: bool = False) -> None:
        """Send `peer` what it lacks, as far as flow control lets us; an empty message only as a heartbeat."""
        progress = self.progress.get(peer)
        if not self.is_current or progress is None:
            return
        if progress.mode is not Mode.SNAPSHOT and progress.next_index <= self.log.base.index:
            # Its next entry was cut away.
            progress.needs_snapshot()
            self.snapshots.begin(peer, self.log.base.index)
        if progress.mode is Mode.SNAPSHOT:
            if is_heartbeat:
                self._post_append(peer, self.log.base.index, [])
            return
        entries = (
            self.log.entries(progress.next_index, max_count=MAX_BATCH_ENTRIES, max_bytes=MAX_BATCH_BYTES)
            if progress.may_send()
            else []
        )
        if not entries and not is_heartbeat:
            return
        previous = progress.next_index - 1
        self._post_append(peer, previous, entries)
        if entries:
            progress.sent(previous + len(entries), sum(len(entry.payload) for entry in entries))
            # Fill the pipeline: a follower far behind gets its batches back to back.
            self.replicate(peer)

    def _post_append(self, peer: str, previous: int, entries: list[Entry]) -> None:
        self.state.post(
            AppendEntries(
                term=self.term,
                leader_id=self.id,
                commit_index=self.log.commit_index,
                request_id=self.request_id,
                prev_log_index=previous,
                prev_log_term=self.log.term_at(previous),
                entries=entries,
            ),
            peer,
        )

    def on_receive_append_entries_response(self, received: Received[AppendEntriesResponse]) -> None:
        """A follower's answer: it counts for quorum rounds either way, and moves its progress."""
        peer, message = received.sender, received.message
        progress = self.progress.get(peer)
        if progress is None:
            return
        self._count_round(message.request_id, peer)
        progress.heard_at_s = self.loop.time()
        progress.is_low_on_disk = message.is_low_on_disk
        progress.majority_round_trip_ms = message.majority_round_trip_ms
        if message.is_installing:
            return
        lost_below = message.needs_snapshot
        progress.lacks_state = bool(lost_below)
        if lost_below:
            # Its state is lost, its log is not: it goes on to take entries and to count for majorities.
            self.snapshots.begin(peer, lost_below)
            self.snapshots.remind(peer)
        matched = message.last_log_index if message.success else None
        if progress.mode is Mode.SNAPSHOT and (matched is None or matched < self.log.base.index):
            # Entries do not help it yet. It answers, so that a copy of the state is made for the living only.
            self.snapshots.begin(peer, self.log.base.index)
            self.snapshots.remind(peer)
            return
        if matched is not None:
            if not lost_below:
                self.snapshots.end(peer)
            if progress.accepted(matched):
                self.update_commit_index()
            if self.log.is_behind_base:
                # It won because nobody else had every entry; it cannot serve, so somebody with a state takes over.
                self.transfer()
            self._hand_over_if_ready(peer, progress)
        elif not progress.rejected(message.prev_log_index, message.hint or 0):
            return
        self.replicate(peer)

    # --- snapshots ----------------------------------------------------------------------------------------------

    def on_receive_install_snapshot_response(self, received: Received[InstallSnapshotResponse]) -> None:
        """How much of a snapshot a follower has, or that it has become it."""
        peer, message = received.sender, received.message
        progress = self.progress.get(peer)
        if progress is None:
            return
        progress.heard_at_s = self.loop.time()
        installed_index = message.installed_index
        if message.needs_snapshot:
            self.snapshots.begin(peer, message.needs_snapshot)
        elif message.is_refused:
            self.snapshots.refused(message.digest)
        elif not installed_index:
            self.snapshots.answered(peer, message.digest, message.received_bytes)
        elif installed_index >= self.log.base.index:
            self.snapshots.end(peer)
            if progress.mode is Mode.SNAPSHOT:
                progress.installed(installed_index)
                self.update_commit_index()
                self.replicate(peer)

    def kept_from(self, silent_s: float) -> int:
        """The log must keep what follows this index, for followers that spoke within `silent_s`; others get a snapshot."""
        heard_since_s = self.loop.time() - silent_s
        needed = []
        for peer, progress in self.progress.items():
            if progress.heard_at_s < heard_since_s:
                self.snapshots.end(peer)  # it begins anew when it answers again
            elif progress.mode is not Mode.SNAPSHOT:
                needed.append(progress.match_index)
        pinned = self.snapshots.pinned_index
        return min([*needed, *([] if pinned is None else [pinned]), self.log.last_applied])

    def connection_lost(self, peer: str) -> None:
        """The transport lost messages to `peer`."""
        if peer in self.progress:
            self.progress[peer].connection_lost()

    def update_commit_index(self) -> None:
        """Count durable replicas (figure 2, section 5.4.2); runs when a follower answered and after our own fsync."""
        match_index = {peer: progress.match_index for peer, progress in self.progress.items()}
        match_index[self.id] = self.log.durable_index
        index = decide.commit_index(
            voters=self.state.voters,
            match_index=match_index,
            term_at=self.log.term_at,
            current_term=self.term,
            committed=self.log.commit_index,
        )
        if index > self.log.commit_index:
            self.state.commit(index)
            _resolve(self._term_committed)
            self._term_committed.clear()

    def _flush_soon(self) -> None:
        """Once per iteration of the loop: proposals of the same iteration share their messages."""
        if not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_scheduled = False
        for peer in list(self.progress):
            self.replicate(peer)

    def _leave(self) -> None:
        """A leader that was removed leads until that is committed, and then hands over (thesis, 4.2.2)."""
        if self.is_current and self.transfer() is None:
            self.state.to_follower()

    # --- quorum rounds: CheckQuorum and ReadIndex ---------------------------------------------------------------

    def heartbeat(self) -> None:
        """raftos numbers the round and sends it; old rounds are forgotten."""
        super().heartbeat()
        self._forget_old_rounds()
        if self.state.is_majority(1):
            self._round_proven(self.request_id)

    def _forget_old_rounds(self) -> None:
        for old in [number for number in self.response_map if number <= self.request_id - MAX_TRACKED_ROUNDS]:
            del self.response_map[old]

    @property
    def unproven_read_index(self) -> int | None:
        """What `read_index`, called now, would give once leadership is proven; None where it would first wait for an entry."""
        if not self.is_current or self.log.is_behind_base or self.log.commit_index < self.first_index:
            return None
        index: int = self.log.commit_index
        return index

    async def read_index(self) -> int:
        """An index such that whoever has applied it may answer a read that arrived before this call.

        Raises:
            LeaderUnavailableError: leadership was lost meanwhile; definite.
        """
        if not self.is_current or self.log.is_behind_base:
            raise LeaderUnavailableError("This member stopped leading.")
        if self.log.commit_index < self.first_index:
            waiting: asyncio.Future[None] = self.loop.create_future()
            self._term_committed.append(waiting)
            await waiting
            # Leadership may have gone between the commit and this iteration of the loop; nobody would end the read then.
            if not self.is_current:
                raise LeaderUnavailableError("This member stopped leading.")
        index = self.log.commit_index
        proof: asyncio.Future[None] = self.loop.create_future()
        self._reads.join(proof)
        self._begin_read_round()
        await proof
        return index

    def _begin_read_round(self) -> None:
        """Ask as few members as a majority needs, the quickest first, and soon the others; heartbeats go on to ask all.

        A member that is not asked saves the waking of its process, which is most of what a lone read costs.
        """
        if not self._reads.wants_round:
            return
        # The round's number exists only from here on, so every answer to it was caused after the reads arrived.
        self.request_id += 1
        self._reads.begin(self.request_id)
        self.response_map[self.request_id] = set()
        self._forget_old_rounds()
        needed = decide.majority(len(self.state.voters)) - (self.id in self.state.voters)
        if needed <= 0:
            self._round_proven(self.request_id)
            return
        peers = sorted(self.progress, key=lambda peer: (peer not in self.state.voters, peer not in self._quick))
        for peer in peers[:needed]:
            self.replicate(peer, is_heartbeat=True)
        self._read_hedge = self.loop.call_later(READ_HEDGE_S, self._ask_others, self.request_id, peers[needed:])

    def _ask_others(self, request_id: int, peers: Sequence[str]) -> None:
        if request_id in self.response_map:
            for peer in peers:
                self.replicate(peer, is_heartbeat=True)

    def _count_round(self, request_id: int, peer: str) -> None:
        answered = self.response_map.get(request_id)
        if answered is None:
            return
        answered.add(peer)
        if decide.has_majority(answered | {self.id}, self.state.voters):
            self._quick = frozenset(answered)
            self._round_proven(request_id)

    def _round_proven(self, request_id: int) -> None:
        if self.step_down_timer.is_active:
            self.step_down_timer.reset()
        for number in [number for number in self.response_map if number <= request_id]:
            del self.response_map[number]
        if proven := self._reads.proven(request_id):
            if self._read_hedge is not None:
                self._read_hedge.cancel()
            _resolve(proven)
        self._begin_read_round()

    # --- transfer -----------------------------------------------------------------------------------------------

    def transfer(self, among: Collection[str] | None = None) -> str | None:
        """Hand leadership to the furthest voter that answers; gives up after one election timeout. Returns its id.

        `among` restricts the choice.

        Nobody is asked who is short of disk space or silent (while a transfer is under way nothing is proposed, so one to
        a dead member would only cost time); None when no voter is left to ask.
        """
        heard_since_s = self.loop.time() - ANSWERING_HEARTBEATS * config.heartbeat_interval
        candidates = [
            peer
            for peer, progress in self.progress.items()
            if peer in self.state.voters
            and (among is None or peer in among)
            and progress.mode is not Mode.SNAPSHOT
            and not progress.lacks_state
            and not progress.is_low_on_disk
            and progress.heard_at_s >= heard_since_s
        ]
        if not candidates or self.transfer_target is not None:
            return self.transfer_target
        target = max(candidates, key=lambda peer: (self.progress[peer].match_index, peer))
        self.transfer_target = target
        self._transfer_deadline = self.loop.call_later(config.election_interval[0], self._give_up_transfer)
        self.replicate(target, is_heartbeat=True)
        self._hand_over_if_ready(target, self.progress[target])
        return target

    def _hand_over_if_ready(self, peer: str, progress: FollowerProgress) -> None:
        if peer == self.transfer_target and progress.match_index == self.log.last_log_index:
            self.state.post(TimeoutNow(self.term), peer)

    def _give_up_transfer(self) -> None:
        self.transfer_target = None


def _resolve(reads: Iterable[asyncio.Future[None]]) -> None:
    for read in reads:
        if not read.done():
            read.set_result(None)
