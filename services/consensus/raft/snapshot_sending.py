"""The leader's side of snapshots (section 7): one copy of the state, made when a follower needs it, sent a piece at a time.

A follower needs one when the log no longer has its next entry, or when it says that its state is lost. One piece is under
way per follower, and the pieces are paced, because replication to everybody else shares disk and network with them (C-53).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from services.consensus.raft.decide import LogPosition
from services.consensus.raft.log import RaftLog
from services.consensus.raft.messages import InstallSnapshot
from services.consensus.raft.ports import BlockingRunner, Snapshot, SnapshotMeta, StateMachine
from shared.units import KIB, MIB

PIECE_BYTES = 512 * KIB
PACE_BYTES_PER_S = 64 * MIB
RETRY_S = 5.0
"""After this long a copy that could not be made or read (no room, perhaps) is made again."""
REFUSED_RETRY_S = 60.0
"""After this long another copy is made, when a follower had no use for the last one."""
RESEND_S = 1.0
"""After this long without an answer the follower is asked again how much it has."""


class Loop(Protocol):
    """What the sender needs of asyncio's loop."""

    def time(self) -> float:
        """The loop's clock, in seconds."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> object:
        """Call it in `delay` seconds."""


class Outbox(Protocol):
    """What the sender needs of the member's state."""

    def post(self, message: InstallSnapshot, destination: str) -> None:
        """Send without waiting."""


class Leader(Protocol):
    """What the sender needs of the leader's role."""

    id: str
    term: int

    @property
    def log(self) -> RaftLog:
        """Of this member."""

    @property
    def loop(self) -> Loop:
        """On which it runs."""

    @property
    def state(self) -> Outbox:
        """Through which it speaks."""

    @property
    def is_current(self) -> bool:
        """Whether it still leads."""


@dataclass(slots=True)
class _Transfer:
    """One follower's transfer.

    Attributes:
        wanted_index: where the state must be at least; the follower's log starts there.
        offset: how much the follower said that it has.
        sent_offset: where the piece began that was sent last: an answer that comes twice does not send it twice.
        asked_at_s: when something was sent last, in the loop's time.
        is_reading: a piece is being read or waits for its turn.
    """

    wanted_index: int
    offset: int = 0
    sent_offset: int = -1
    asked_at_s: float = float("-inf")
    is_reading: bool = False


class SnapshotSender:
    """Snapshots to followers, during one leadership.

    Invariant: while a transfer is under way, `pinned_index` keeps the log from being cut above the snapshot's end, so that
    the follower can go on from there.
    """

    def __init__(
        self, leader: Leader, machine: StateMachine, runner: BlockingRunner, *, piece_bytes: int = PIECE_BYTES
    ) -> None:
        self._leader = leader
        self._piece_bytes = piece_bytes
        self._machine = machine
        self._runner = runner
        self._transfers: dict[str, _Transfer] = {}
        self._snapshot: Snapshot | None = None
        self._meta: SnapshotMeta | None = None
        self._is_taking = False
        self._taking_from = 0
        self._retry_at_s = float("-inf")
        self._is_closed = False

    @property
    def pinned_index(self) -> int | None:
        """The log must keep what follows this index; None when no transfer needs it."""
        if self._is_taking:
            return self._taking_from
        return self._meta.position.index if self._meta is not None and self._transfers else None

    def begin(self, peer: str, wanted_index: int) -> None:
        """Bring `peer` to a state at `wanted_index` or later, once it answers (`remind`). Again changes only that index."""
        transfer = self._transfers.setdefault(peer, _Transfer(wanted_index))
        transfer.wanted_index = max(transfer.wanted_index, wanted_index)

    def end(self, peer: str) -> None:
        """The transfer is done, or nobody needs it any more."""
        if self._transfers.pop(peer, None) is not None and not self._transfers:
            self._drop_snapshot()

    def close(self) -> None:
        """Leadership was lost."""
        self._is_closed = True
        self._transfers.clear()
        self._drop_snapshot()

    def remind(self, peer: str) -> None:
        """Ask `peer` how much it has, unless it was asked a moment ago; called whenever it answers a heartbeat."""
        transfer = self._transfers.get(peer)
        if transfer is None or not self._have_snapshot(transfer):
            return
        if self._leader.loop.time() - transfer.asked_at_s >= RESEND_S and not transfer.is_reading:
            transfer.sent_offset = -1
            self._post(peer, transfer, b"")

    def refused(self, digest: bytes) -> None:
        """A follower checked this snapshot and cannot use it (damaged rows, an older version): sending it again is no help."""
        if self._meta is not None and self._meta.digest == digest:
            self._retry_at_s = self._leader.loop.time() + REFUSED_RETRY_S
            self._drop_snapshot()

    def answered(self, peer: str, digest: bytes, received_bytes: int) -> None:
        """`peer` holds so many bytes of the snapshot with that digest: send the next piece."""
        transfer, snapshot, meta = self._transfers.get(peer), self._snapshot, self._meta
        if transfer is None or snapshot is None or meta is None or meta.digest != digest or transfer.is_reading:
            return
        if received_bytes >= meta.size_bytes:
            return  # it is installing; `end` follows, or a reminder
        if received_bytes == transfer.sent_offset:
            return
        transfer.offset = transfer.sent_offset = received_bytes
        transfer.is_reading = True
        began_s = self._leader.loop.time()

        def done(data: bytes | None, error: BaseException | None) -> None:
            if data is None or error is not None:
                transfer.is_reading = False
                self._retry_at_s = self._leader.loop.time() + RETRY_S
                self._drop_snapshot()
                return
            wait_s = len(data) / PACE_BYTES_PER_S - (self._leader.loop.time() - began_s)
            self._leader.loop.call_later(max(0.0, wait_s), partial(send, data))

        def send(data: bytes) -> None:
            transfer.is_reading = False
            if self._transfers.get(peer) is transfer and self._meta is meta:
                self._post(peer, transfer, data)

        self._runner.submit(lambda: snapshot.read(received_bytes, self._piece_bytes), done)

    def _post(self, peer: str, transfer: _Transfer, data: bytes) -> None:
        assert self._meta is not None
        if not self._leader.is_current:
            return
        transfer.asked_at_s = self._leader.loop.time()
        self._leader.state.post(
            InstallSnapshot(self._leader.term, self._leader.id, self._meta.to_wire(), transfer.offset, data), peer
        )

    def _have_snapshot(self, transfer: _Transfer) -> bool:
        """Whether there is one that serves; otherwise one is made."""
        wanted_index = max(transfer.wanted_index, self._leader.log.base.index)
        if self._meta is not None and self._meta.position.index >= wanted_index:
            return True
        is_time = self._leader.loop.time() >= self._retry_at_s
        if is_time and not self._is_taking and self._leader.log.last_applied >= wanted_index:
            self._take()
        return False

    def _take(self) -> None:
        self._drop_snapshot()
        self._is_taking = True
        self._taking_from = self._leader.log.last_applied

        def done(snapshot: Snapshot | None, error: BaseException | None) -> None:
            self._is_taking = False
            if snapshot is None or error is not None:
                self._retry_at_s = self._leader.loop.time() + RETRY_S
                return
            if self._is_closed or not self._transfers:
                self._runner.submit(snapshot.close, _ignore)
                return
            self._hold(snapshot)

        self._runner.submit(self._machine.take_snapshot, done)

    def _hold(self, snapshot: Snapshot) -> None:
        log, index = self._leader.log, snapshot.last_applied
        configuration_index, configuration = log.configuration_at(index)
        self._snapshot = snapshot
        self._meta = SnapshotMeta(
            LogPosition(index=index, term=log.term_at(index)),
            configuration_index,
            configuration.encode() if configuration_index else b"",
            snapshot.size_bytes,
            snapshot.digest,
        )
        for peer, transfer in self._transfers.items():
            transfer.offset, transfer.sent_offset, transfer.asked_at_s = 0, -1, float("-inf")
            self.remind(peer)

    def _drop_snapshot(self) -> None:
        snapshot, self._snapshot, self._meta = self._snapshot, None, None
        if snapshot is not None:
            self._runner.submit(snapshot.close, _ignore)


def _ignore(_: object, __: BaseException | None) -> None:
    pass
