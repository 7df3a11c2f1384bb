"""One writer thread for the catalog: operations that arrive while it syncs share the next transaction and its fsync.

Operations that no request waits for (`yields`) have a queue of their own. They are committed one at a time, when no other
waits or when enough batches went before them.

Being the only writer of rows and of names in the chunk folders, it also makes "check, then change" one step without locks.
Order within a batch: rows and renames, then fsync of the touched directories, then COMMIT (fsync of the WAL), then
unlinks, then the replies, then a checkpoint now and then. A crash between two steps leaves at most a file without a
row, which the start-up scan adopts. Between batches it gives free pages of the catalog back (`catalog_vacuum`).
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from services.storage.disk.catalog_vacuum import CatalogVacuum
from services.storage.disk.disk_errors import error_from_commit, error_from_write, is_full, is_shortage
from services.storage.disk.replies import Failure, Reply, deliver
from services.storage.disk.wal_salvage import AcknowledgedMark
from services.storage.disk.write_gate import WriteGate
from shared.disk.durable_files import sync_directory
from shared.errors import InternalError, OverloadedError, TrivetError, UnavailableError
from shared.partitions import SetSum, partition_of

logger = structlog.get_logger(__name__)

ResultT = TypeVar("ResultT")

_MAX_BATCH: Final = 256
_MAX_PENDING: Final = 4096
_MAX_OVERTAKEN: Final = 4
"""So many batches may go before an operation that yields: a node that is never idle must still get its replicas back."""
_CHECKPOINT_FRAMES: Final = 2048
"""About 8 MiB of the write-ahead file. Counted in frames, because the file is used again from its start and never shrinks:
by its size, every commit after the first checkpoint would make one more, with three syncs."""
_CHECKPOINT_RETRY_FRAMES: Final = 256
"""A reader keeps the file from being used again for as long as its snapshot is in it; then it is tried again this much later."""


@dataclass(slots=True)
class Transaction:
    """What the operations of one batch share.

    Attributes:
        sql: the catalog inside an open transaction.
        directories: whose entries changed; synced before COMMIT.
        unlinks: files that no row names any more; removed after COMMIT.
        unlinks_aside: digests of such files that need not be removed before the replies.
        created: files under names that no row had before; removed if the transaction is rolled back.
        removed: digests whose row was taken out, even if another came in its place.
        written: digests whose bytes were written, or read from the medium, for the row that they got.
        differences: of the partition sums, by partition; applied after COMMIT.
    """

    sql: sqlite3.Connection
    directories: set[Path] = field(default_factory=set)
    unlinks: list[Path] = field(default_factory=list)
    unlinks_aside: set[str] = field(default_factory=set)
    created: list[Path] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    differences: dict[int, SetSum] = field(default_factory=dict)

    def change_sums(self, difference: SetSum, digest: bytes) -> None:
        """A chunk is added (its sum) or removed (its sum, negated)."""
        partition = partition_of(digest)
        self.differences[partition] = self.differences.get(partition, SetSum()) + difference


Operation = Callable[[Transaction], ResultT]
"""Changes the catalog. It may raise a TrivetError before its first change, then it fails alone; anything else that it
raises takes the batch down, because half an operation must not be committed."""


@dataclass(frozen=True, slots=True)
class _Pending:
    operation: Operation[Any]
    reply: Reply[Any]
    on_failure: Callable[[], None] | None
    yields: bool


class GroupCommitter:
    """Runs operations in order of arrival, many per transaction; those that yield when no other waits.

    Invariant: a reply is a result only after COMMIT returned without error.
    """

    def __init__(
        self,
        database: Path,
        gate: WriteGate,
        on_commit: Callable[[Transaction], None],
        observe_s: Callable[[float], None],
    ) -> None:
        self._gate = gate
        self._observe_s = observe_s
        self._mark = AcknowledgedMark(database)
        self._is_closed = False
        self._on_commit = on_commit
        self._closing = threading.Lock()
        """Held while something is queued: nothing may come behind the end."""
        self._salts = b""
        self._frames = 0
        self._checkpoint_at_frames = _CHECKPOINT_FRAMES
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._yielding: deque[_Pending] = deque()
        """Taken from the queue and put off; the commit thread's own."""
        self._overtaken = 0
        """Batches that went before the first of them."""
        self._sql = open_writer(database)
        self._vacuum = CatalogVacuum(self._sql, gate)
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()

    async def run(self, operation: Operation[ResultT], *, yields: bool = False) -> ResultT:
        """Run `operation` in the next transaction; its changes are durable on return.

        Args:
            yields: no request waits for it, so it waits for those that one does.

        Raises:
            TrivetError: what the operation itself refused.
            DiskFullError: there was no room; definite.
            UnavailableError: the gate is closed (definite) or the commit failed (not definite).
        """
        reply = Reply[ResultT].awaited()
        self.submit(operation, reply, yields=yields)
        try:
            # A cancelled caller does not take its change back: it is in the queue.
            return await reply.future
        finally:
            del reply  # an error holds this frame, which must not hold the error

    def submit(
        self,
        operation: Operation[ResultT],
        reply: Reply[ResultT],
        on_failure: Callable[[], None] | None = None,
        *,
        yields: bool = False,
    ) -> None:
        """As `run`, from any thread; `reply` gets what `run` would return or raise.

        Args:
            on_failure: called by the commit thread, before that reply, when the operation did not happen.

        Raises:
            OverloadedError, UnavailableError: not submitted; definite.
        """
        self._gate.check()
        if self._queue.qsize() + len(self._yielding) >= _MAX_PENDING:
            raise OverloadedError("Too many changes wait for the disk.", limit=_MAX_PENDING)
        with self._closing:
            if self._is_closed:
                raise UnavailableError("The node is shutting down.")
            self._queue.put(_Pending(operation, reply, on_failure, yields))

    def close(self) -> None:
        """Finish what was queued, then end the thread. Blocks. Every reader of the catalog must be closed by then."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            self._queue.put(None)
        self._thread.join()
        try:
            self._mark.clear()
        except OSError as error:
            logger.warning("the mark of what was acknowledged could not be cleared", error=str(error))
        self._sql.close()
        self._mark.close()

    def _run(self) -> None:
        while self._run_one_batch():
            pass

    def _run_one_batch(self) -> bool:
        """In a call of its own, so that nothing holds the bodies of a batch while the next one is waited for."""
        batch = self._next_batch()
        if batch is None:
            return False
        try:
            found = self._commit(batch)
        except Exception:
            # What this thread knows of the catalog may be wrong from here on; that it ends would be worse: all would wait.
            logger.exception("defect in the commit thread")
            self._gate.close("a defect in the commit thread")
            found = [Failure(InternalError("A defect of ours; it has been logged."))] * len(batch)
        for pending, reply in zip(batch, found, strict=True):
            if isinstance(reply, Failure) and pending.on_failure is not None:
                pending.on_failure()
        deliver([(pending.reply, reply) for pending, reply in zip(batch, found, strict=True)])
        self._checkpoint_when_long()
        return True

    def _next_batch(self) -> list[_Pending] | None:
        """At least one operation; None at the end."""
        batch: list[_Pending] = []
        while len(batch) < _MAX_BATCH:
            is_idle = not batch and not self._yielding
            if not is_idle and self._queue.empty():
                break
            pending = self._next_pending() if is_idle else self._queue.get()
            if pending is None:
                if is_idle:
                    return None
                self._queue.put(None)  # finish what is at hand, then end
                break
            (self._yielding if pending.yields else batch).append(pending)
        if self._yielding and (not batch or self._overtaken >= _MAX_OVERTAKEN):
            batch.append(self._yielding.popleft())
            self._overtaken = 0
        elif self._yielding:
            self._overtaken += 1
        return batch

    def _next_pending(self) -> _Pending | None:
        """Waits for the next operation, and gives space back meanwhile."""
        while True:
            wait_s = self._vacuum.wait_s()
            if wait_s == 0.0 and self._gate.reason is None:
                self._vacuum.step()
                self._record_acknowledged()
                self._checkpoint_when_long()
                continue
            try:
                return self._queue.get(timeout=wait_s or None)
            except queue.Empty:
                continue

    def _commit(self, batch: Sequence[_Pending]) -> list[object]:
        """One reply per operation: its result or `Failure`."""
        if self._gate.reason is not None:
            refusal = UnavailableError(f"This node takes no writes: {self._gate.reason}.", retry_after_s=60)
            return [Failure(refusal)] * len(batch)
        transaction = Transaction(self._sql)
        began_at_s = time.monotonic()
        try:
            self._sql.execute("BEGIN IMMEDIATE")
            replies = [_attempt(pending.operation, transaction) for pending in batch]
            for directory in transaction.directories:
                sync_directory(directory)
            self._sql.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever it was, every operation of the batch fails with it
            self._roll_back()
            failure = Failure(error_from_commit(error, self._gate))
            if self._gate.reason is None:
                # Nothing of the batch happened. A name that stayed would be a chunk again at the next start.
                self._remove(transaction.created)
            return [failure] * len(batch)
        self._observe_s(time.monotonic() - began_at_s)
        doubt = self._record_acknowledged()
        self._on_commit(transaction)
        if doubt is not None:
            # Files stay: the rows that named them may be back after a restart.
            return [Failure(doubt)] * len(batch)
        self._remove(transaction.unlinks)
        if transaction.removed:
            self._vacuum.check()
        return replies

    def _record_acknowledged(self) -> TrivetError | None:
        """Write the mark; the error that makes this commit doubtful after all, if any.

        ext4 that turns read-only lets a sync under way report success for what it then drops. The mark is written after the
        sync, so a file system that still accepts it had not turned by then.
        """
        self._frames = self._checkpoint_at_frames  # as good as too many, until they are counted
        try:
            position = self._mark.record()
        except OSError as error:
            if is_full(error) or is_shortage(error):
                logger.warning("the mark of what was acknowledged could not be written", error=str(error))
                return None  # no word against the sync; the mark itself is only a help against damage
            return error_from_write(error, self._gate)
        if position is not None:
            self._frames = position.frames
            if position.salts != self._salts:
                self._salts = position.salts
                self._checkpoint_at_frames = _CHECKPOINT_FRAMES
        return None

    def _roll_back(self) -> None:
        try:
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._gate.close(f"a failed change could not be rolled back ({error})")

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._gate.close(f"a file that no row names could not be removed ({error.strerror})")

    def _checkpoint_when_long(self) -> None:
        if self._frames < self._checkpoint_at_frames:
            return
        self._checkpoint_at_frames = self._frames + _CHECKPOINT_RETRY_FRAMES
        try:
            # SQLite's automatic checkpoint swallows fsync errors and would retry them into success; this one reports them.
            self._sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            error_from_commit(error, self._gate)


def open_writer(database: Path) -> sqlite3.Connection:
    """A connection whose COMMIT returns after the WAL is fsynced."""
    sql = sqlite3.connect(database, isolation_level=None, check_same_thread=False, timeout=10)
    sql.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of a new file: before anything is written
    sql.execute("PRAGMA journal_mode=WAL")
    sql.execute("PRAGMA synchronous=FULL")
    sql.execute("PRAGMA secure_delete=FAST").fetchone()
    sql.execute("PRAGMA wal_autocheckpoint=0")
    return sql


def _attempt(operation: Operation[object], transaction: Transaction) -> object:
    try:
        return operation(transaction)
    except TrivetError as error:
        return Failure(error)
