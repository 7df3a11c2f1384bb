"""`reconcile.sqlite`: what the loops know. On disk, because it does not fit in memory; disposable, because it can be asked again.

One thread owns the connection, so the event loop never waits for SQLite. A transaction is not fsynced (synchronous=NORMAL
in WAL mode): after a power cut the file is that of some moment before, and the position in it says of which.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import structlog

from services.storage.disk.disk_threads import DiskThreads
from shared.errors import NotReadyError, UnavailableError

logger = structlog.get_logger(__name__)

FILE_NAME: Final = "reconcile.sqlite"
_FORMAT: Final = 1
_CREATE: Final = """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE expected (digest BLOB PRIMARY KEY, size_bytes INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE missing (
        digest BLOB PRIMARY KEY, size_bytes INTEGER NOT NULL, reference_index INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE extra (
        digest BLOB PRIMARY KEY, size_bytes INTEGER NOT NULL, is_referenced INTEGER
    ) WITHOUT ROWID;
    CREATE TABLE totals (name TEXT PRIMARY KEY, chunks INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO totals VALUES ('missing', 0, 0), ('surplus', 0, 0), ('orphans', 0, 0), ('unchecked', 0, 0);
    CREATE TRIGGER missing_more AFTER INSERT ON missing BEGIN
        UPDATE totals SET chunks = chunks + 1, bytes = bytes + new.size_bytes WHERE name = 'missing';
    END;
    CREATE TRIGGER missing_less AFTER DELETE ON missing BEGIN
        UPDATE totals SET chunks = chunks - 1, bytes = bytes - old.size_bytes WHERE name = 'missing';
    END;
    CREATE TRIGGER extra_more AFTER INSERT ON extra BEGIN
        UPDATE totals SET chunks = chunks + 1, bytes = bytes + new.size_bytes
        WHERE name = CASE new.is_referenced WHEN 1 THEN 'surplus' WHEN 0 THEN 'orphans' ELSE 'unchecked' END;
    END;
    CREATE TRIGGER extra_less AFTER DELETE ON extra BEGIN
        UPDATE totals SET chunks = chunks - 1, bytes = bytes - old.size_bytes
        WHERE name = CASE old.is_referenced WHEN 1 THEN 'surplus' WHEN 0 THEN 'orphans' ELSE 'unchecked' END;
    END;
    CREATE TRIGGER extra_checked AFTER UPDATE OF is_referenced ON extra BEGIN
        UPDATE totals SET chunks = chunks - 1, bytes = bytes - old.size_bytes
        WHERE name = CASE old.is_referenced WHEN 1 THEN 'surplus' WHEN 0 THEN 'orphans' ELSE 'unchecked' END;
        UPDATE totals SET chunks = chunks + 1, bytes = bytes + new.size_bytes
        WHERE name = CASE new.is_referenced WHEN 1 THEN 'surplus' WHEN 0 THEN 'orphans' ELSE 'unchecked' END;
    END;
"""
CREATE_LISTING: Final = "CREATE TABLE listing (digest BLOB PRIMARY KEY, size_bytes INTEGER NOT NULL) WITHOUT ROWID"

ResultT = TypeVar("ResultT")


class DatabaseDamagedError(Exception):
    """The file is no database any more; `ReconcileDatabase.remake` begins another one."""


class ReconcileDatabase:
    """The file and its thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads: DiskThreads | None = None
        self._sql: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the file, or make it; one that is damaged, or of another format, is made anew. Raises UnavailableError."""
        self._threads = DiskThreads(1, "reconcile", 1)
        self._threads.open()
        try:
            await self._ask(self._open)
        except DatabaseDamagedError:
            await self.remake()

    async def remake(self) -> None:
        """Begin with an empty file. Raises UnavailableError."""
        logger.warning(
            "what reconcile knew is damaged or of another version; everything is listed anew", path=self._path.name
        )
        await self._ask(self._remake)

    async def close(self) -> None:
        """Finish what was asked, and close the file."""
        if self._threads is None:
            return
        with contextlib.suppress(UnavailableError, DatabaseDamagedError):
            await self._ask(self._close)
        threads, self._threads = self._threads, None
        await asyncio.to_thread(threads.close)

    async def change(
        self, work: Callable[[sqlite3.Connection], ResultT], then: Callable[[ResultT], None] | None = None
    ) -> ResultT:
        """`work` in one transaction; when it is committed, `then` in the same thread.

        Raises:
            UnavailableError: it cannot be written now; nothing changed.
            DatabaseDamagedError: the file is damaged.
        """

        def run() -> ResultT:
            sql = self._connection()
            sql.execute("BEGIN IMMEDIATE")
            try:
                result = work(sql)
                sql.execute("COMMIT")
            except BaseException:
                if sql.in_transaction:
                    sql.execute("ROLLBACK")
                raise
            if then is not None:
                then(result)
            return result

        return await self._ask(run)

    async def read(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """`work` in the thread. Raises as `change`."""
        return await self._ask(lambda: work(self._connection()))

    async def _ask(self, work: Callable[[], ResultT]) -> ResultT:
        if self._threads is None:
            raise NotReadyError("This node has not read yet what it knew before.")
        try:
            return await self._threads.run(work)
        except sqlite3.OperationalError as error:
            raise UnavailableError(f"What reconcile knows cannot be read or written: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise DatabaseDamagedError(str(error)) from error
        except OSError as error:
            raise UnavailableError(f"The file of reconcile cannot be made: {error}.") from error

    def _connection(self) -> sqlite3.Connection:
        if self._sql is None:
            self._open()
        assert self._sql is not None, "it was just opened"
        return self._sql

    def _open(self) -> None:
        sql = sqlite3.connect(self._path, isolation_level=None, timeout=10, check_same_thread=False)
        try:
            sql.execute("PRAGMA journal_mode=WAL")
            sql.execute("PRAGMA synchronous=NORMAL")
            sql.execute("PRAGMA cache_size=-8192")
            (version,) = sql.execute("PRAGMA user_version").fetchone()
            _prepare(sql, version)
        except BaseException:
            sql.close()
            raise
        self._sql = sql

    def _close(self) -> None:
        if self._sql is not None:
            self._sql.close()
            self._sql = None

    def _remake(self) -> None:
        self._close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._open()


def _prepare(sql: sqlite3.Connection, version: int) -> None:
    if version == 0:
        sql.executescript(f"BEGIN; {_CREATE} PRAGMA user_version={_FORMAT}; COMMIT;")
    elif version != _FORMAT:
        raise sqlite3.DatabaseError("another format")
