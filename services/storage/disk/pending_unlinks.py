"""Pending unlinks: files whose deletion was acknowledged and whose unlink may not be durable yet (S-51).

A file is unlinked after COMMIT, and its directory is not fsynced for it: that would cost every deletion an fsync of its own.
Instead the same transaction records the digest here. At start such a file is removed and not adopted; a record is dropped
once the unlink is durable. A row of the catalog outranks a pending unlink: what was stored again stays.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from typing import Final

from services.storage.disk.catalog import find
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.group_commit import Transaction
from services.storage.disk.row_damage import SOUND_DIGEST
from shared.disk.durable_files import sync_directory

MAX_PENDING: Final = 4096
"""From here on finished ones are dropped: one fsync for each directory among them, whatever their number."""


class PendingUnlinks:
    """Records them, and drops the finished ones before they are too many. The commit thread's own, but for `count`."""

    def __init__(self, files: ChunkFiles) -> None:
        self._files = files
        self._newly_recorded: set[str] | None = None
        """Since `begin_dropping`."""
        self.count = 0
        """How many may be recorded."""

    def record(self, transaction: Transaction, digests: Sequence[str]) -> None:
        """The files of `digests` are unlinked after this transaction."""
        if self.count + len(digests) > MAX_PENDING:
            drop_finished(transaction, self._files)
            self.count = 0
        transaction.sql.executemany(
            "INSERT OR IGNORE INTO pending_unlinks (digest) VALUES (?)", [(bytes.fromhex(each),) for each in digests]
        )
        self.count += len(digests)
        if self._newly_recorded is not None:
            self._newly_recorded.update(digests)

    def begin_dropping(self, _: Transaction) -> None:
        """Which ones are finished is about to be found out, by another thread: `sync_finished`."""
        self._newly_recorded = set()

    def end_dropping(self, transaction: Transaction, finished: Iterable[str]) -> None:
        """It was; the records of `finished` go."""
        newly, self._newly_recorded = self._newly_recorded or set(), None
        # Of a file that was stored and deleted again meanwhile, the last unlink may not be durable.
        drop(transaction, [digest for digest in finished if digest not in newly])
        self.count = len(newly)


def is_recorded(sql: sqlite3.Connection, digest: str) -> bool:
    """Whether the deletion of `digest` was acknowledged and its unlink may not be durable."""
    key = bytes.fromhex(digest)
    found = sql.execute("SELECT 1 FROM pending_unlinks WHERE digest = ?", (key,)).fetchone()
    return found is not None


def drop_finished(transaction: Transaction, files: ChunkFiles) -> None:
    """Drop the records of files that are gone, and have their unlinks made durable with this transaction."""
    gone = _find_finished(transaction.sql, files)
    transaction.directories.update(files.path_of(digest).parent for digest in gone)
    drop(transaction, gone)


def drop(transaction: Transaction, digests: Iterable[str]) -> None:
    """Drop the records of `digests`, whose unlinks are durable."""
    keys = [(bytes.fromhex(digest),) for digest in digests]
    transaction.sql.executemany("DELETE FROM pending_unlinks WHERE digest = ?", keys)


def sync_finished(sql: sqlite3.Connection, files: ChunkFiles) -> list[str]:
    """The recorded files that are gone, once their unlinks are durable. Blocks for up to 256 fsyncs. Raises SyncFailedError."""
    gone = _find_finished(sql, files)
    for directory in {files.path_of(digest).parent for digest in gone}:
        sync_directory(directory)
    return gone


def _find_finished(sql: sqlite3.Connection, files: ChunkFiles) -> list[str]:
    rows = sql.execute(f"SELECT digest FROM pending_unlinks WHERE {SOUND_DIGEST}").fetchall()  # noqa: S608 - constants
    recorded = [digest.hex() for (digest,) in rows]
    # A file that is still there and has no row was deleted in this very transaction, or is unlinked aside soon.
    return [digest for digest in recorded if not files.path_of(digest).exists() or find(sql, digest)]


class UnlinksAside:
    """Unlinks that another thread than the commit thread makes: each may wait for the journal of the file system.

    Invariant: a file whose name the commit thread has taken back is not unlinked by what was asked for before.
    """

    def __init__(self, files: ChunkFiles) -> None:
        self._files = files
        self._waiting: dict[str, None] = {}
        self._current: set[str] = set()
        self._changed = threading.Condition()

    def add(self, digests: Iterable[str]) -> None:
        """Their deletion is committed; by the commit thread."""
        with self._changed:
            self._waiting.update(dict.fromkeys(digests))

    def take_back(self, digest: str) -> None:
        """A new file is about to get this name; by the commit thread. Blocks for one unlink at most."""
        with self._changed:
            self._waiting.pop(digest, None)
            while digest in self._current:
                self._changed.wait()

    def run(self) -> None:
        """Unlink what waits. Blocks. Raises OSError; what is left then is removed at the next start."""
        while True:
            with self._changed:
                if not self._waiting:
                    return
                digest, _ = self._waiting.popitem()
                self._current.add(digest)
            try:
                self._files.path_of(digest).unlink(missing_ok=True)
            finally:
                with self._changed:
                    self._current.discard(digest)
                    self._changed.notify_all()
