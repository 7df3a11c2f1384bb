"""The follower's side of snapshots (section 7): pieces in, and then the whole state and log replaced as if in one step.

The order is what makes a crash harmless: the pieces are durable and checked; the state machine becomes the snapshot in one
durable step and remembers which one it was; only then is the log cut off. A member that starts in between finishes it
(`RaftLog`).
"""

from __future__ import annotations

from collections.abc import Callable

from services.consensus.raft.log import RaftLog
from services.consensus.raft.messages import InstallSnapshot, InstallSnapshotResponse
from services.consensus.raft.ports import BlockingRunner, SnapshotDamagedError, SnapshotMeta, StateMachine

Answer = Callable[[InstallSnapshotResponse], None]


class SnapshotReceiver:
    """Snapshots from whoever leads.

    Invariant: while `is_installing`, nothing is applied, appended or erased.
    """

    def __init__(
        self,
        log: RaftLog,
        machine: StateMachine,
        runner: BlockingRunner,
        *,
        on_replaced: Callable[[], None],
        on_installed: Callable[[], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._log = log
        self._machine = machine
        self._runner = runner
        self._on_replaced = on_replaced
        self._on_installed = on_installed
        self._on_fatal = on_fatal
        self._is_writing = False
        self.is_installing = False

    def receive(self, piece: InstallSnapshot, answer: Answer) -> None:
        """Take one piece; `answer` gets how far this member is. A piece that comes at a bad moment is not answered."""
        if self.is_installing or self._is_writing:
            return
        meta = SnapshotMeta.from_wire(piece.snapshot)
        if self._log.last_applied >= meta.position.index:
            answer(_installed(piece.term, meta))
            return
        if meta.position.index < self._log.base.index:
            answer(_progress(piece.term, meta, 0, needs_snapshot=self._log.base.index))
            return
        self._is_writing = True

        def done(received_bytes: int | None, error: BaseException | None) -> None:
            self._is_writing = False
            if error is not None or received_bytes is None:
                return  # no room, perhaps: the leader asks again
            answer(_progress(piece.term, meta, received_bytes))
            # Meanwhile entries may have been appended, committed and applied that make it superfluous.
            if received_bytes == meta.size_bytes and self._log.last_applied < meta.position.index:
                self._install(piece.term, meta, answer)

        self._runner.submit(lambda: self._machine.receive(meta, piece.offset, piece.data), done)

    def _install(self, term: int, meta: SnapshotMeta, answer: Answer) -> None:
        self.is_installing = True

        def finished() -> None:
            self.is_installing = False
            self._on_installed()
            answer(_installed(term, meta))

        def install() -> bool:
            # What was submitted before, an apply perhaps, has been done by now; a state never goes back.
            is_news = self._machine.last_applied < meta.position.index
            if is_news:
                self._machine.install(meta)
            return is_news

        def done(is_news: bool | None, error: BaseException | None) -> None:
            if error is None and not is_news:
                finished()
            elif error is None:
                # Durable as a snapshot from here on; the log on disk follows.
                self._log.install(meta, finished)
                self._on_replaced()
            elif isinstance(error, SnapshotDamagedError):
                self.is_installing = False
                answer(_progress(term, meta, 0, is_refused=True))
            else:
                self._on_fatal(error)

        self._runner.submit(install, done)


def _progress(
    term: int, meta: SnapshotMeta, received_bytes: int, *, needs_snapshot: int = 0, is_refused: bool = False
) -> InstallSnapshotResponse:
    return InstallSnapshotResponse(
        term,
        meta.digest,
        received_bytes=received_bytes,
        installed_index=0,
        needs_snapshot=needs_snapshot,
        is_refused=is_refused,
    )


def _installed(term: int, meta: SnapshotMeta) -> InstallSnapshotResponse:
    return InstallSnapshotResponse(
        term, meta.digest, received_bytes=meta.size_bytes, installed_index=meta.position.index
    )
