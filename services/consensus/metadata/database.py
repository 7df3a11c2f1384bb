"""One connection to the state machine's file: transactions, and rows that carry a checksum and count in the state's sum (C-57).

WAL, so that readers never wait for the writer; `synchronous=NORMAL`, because a transaction that a power cut takes away
is replayed from the Raft log, which is what was fsynced before the acknowledgement. Each connection is used by one
thread at a time; who holds it is the caller's business (`store`).

Every row ends with a checksum over its table's name and its columns: SQLite notices torn writes, not a disk that returns
other bytes than it was given. `content_sum` is the sum of all of them, kept up to date by every insert and removal, so that
two members compare their whole state by comparing one number. A sum and not a chain, because it does not depend on the
order in which rows came and costs one addition; 64 bits, because it guards against mistakes and not against forgers.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from blake3 import blake3

from services.consensus.metadata.checkpoint import move_now
from services.consensus.metadata.schema import (
    BUCKET_USAGE,
    CHECKED_TABLES,
    KEY_LENGTHS,
    LATER_COLUMNS,
    OLDEST_TABLE_VERSION,
    TABLE_VERSION,
    USAGE,
    Row,
    statements_of,
)
from shared.units import KIB

AUTOCHECKPOINT_FRAMES: Final = 32_768
_SUM_MASK: Final = (1 << 64) - 1
_SIGN: Final = 1 << 63
# By name: columns that came later stand behind the checksum.
_INSERTS: Final = {
    table: f"INSERT INTO {table} ({', '.join(columns)}, checksum) VALUES ({', '.join('?' * (len(columns) + 1))})"  # noqa: S608
    for table, columns in CHECKED_TABLES.items()
}
_DELETES: Final = {
    table: f"DELETE FROM {table} WHERE {' AND '.join(f'{key}=?' for key in columns[: KEY_LENGTHS.get(table, 1)])}"  # noqa: S608
    for table, columns in CHECKED_TABLES.items()
}
_NO_LATER_COLUMNS: Final = (None, None, None)
_VALUES_MAX: Final = 500
_pack: Final = msgspec.msgpack.Encoder().encode
"""The bytes that `msgpack` makes, in half the time: every row is packed when it is written and when it is read."""
# In two halves: the sum of what 63 bits hold need not fit into them.
_FILES_BY_BUCKET: Final = (
    "SELECT incarnation, sum(size_bytes >> 32), sum(size_bytes & 4294967295), count(*) FROM files GROUP BY incarnation"
)
_USAGE_VERSION: Final = 5
"""Of tables: the first that have `usage`."""


class UnknownTablesError(Exception):
    """The file was written by a version whose tables are not known here. Never crosses the wire.

    `is_newer` says that it is this software that is too old, and nothing is wrong with the file.
    """

    def __init__(self, message: str, *, is_newer: bool = False) -> None:
        super().__init__(message)
        self.is_newer = is_newer


class RowDamagedError(Exception):
    """A stored row does not fit its checksum: this member's state must be rebuilt. Never crosses the wire."""


class ConstraintViolatedError(sqlite3.IntegrityError):
    """An entry asks for a row that the tables refuse: they are damaged, or this version has a defect. Never crosses the wire."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"the entry {index} cannot be applied: {reason}")


class Database:
    """A connection, its transactions, and the sum over all rows.

    Invariant: inside a write transaction `content_sum` is the sum of the checksums of all rows; outside of one it is stale.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.content_sum = 0

    @classmethod
    def open(cls, path: Path, *, cache_bytes: int, converts: bool = True) -> Database:
        """Open the file; make the tables when it is new, and those that are missing when an older version wrote it.

        Without `converts` an older version's file stays as it is, and may only be read.

        Raises:
            UnknownTablesError: it was written by a version that is not known here, or its schema was changed.
            sqlite3.DatabaseError: it is damaged or cannot be opened.
        """
        # Transactions are begun and ended by hand; threads take turns under the store's rules.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
        try:
            # Before anything else: a file from elsewhere may bring views and triggers of its own.
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            # Checkpoints (`checkpoint`) come long before; this is for a member that never reaches one.
            connection.execute(f"PRAGMA wal_autocheckpoint={AUTOCHECKPOINT_FRAMES}")
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute(f"PRAGMA cache_size=-{cache_bytes // KIB}")
            database = cls(connection)
            database._bring_up_to_date(converts=converts)
        except BaseException:
            connection.close()
            raise
        return database

    def close(self) -> None:
        """Give the file back."""
        self.connection.close()

    def checkpoint(self) -> None:
        """Move what is left of the write-ahead file into the main file, outside a transaction."""
        move_now(self.connection)

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[None]:
        """All or nothing; every read inside sees one state."""
        self.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            # A full disk may have ended the transaction already; rolling back again would hide the reason.
            if self.connection.in_transaction:
                self.execute("ROLLBACK")
            raise

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Inside a write transaction: after an exception everything is as it was before the block."""
        before = self.content_sum
        self.execute("SAVEPOINT entry")
        try:
            yield
        except BaseException:
            self.content_sum = before
            # As in `transaction`.
            if self.connection.in_transaction:
                self.execute("ROLLBACK TO entry")
                self.execute("RELEASE entry")
            raise
        self.execute("RELEASE entry")

    def one(self, statement: str, parameters: Row = ()) -> Row | None:
        """The first row."""
        row: Row | None = self.execute(statement, parameters).fetchone()
        return row

    def insert(self, table: str, *columns: object) -> None:
        """Add a row, with its checksum."""
        checksum = row_checksum(table, columns)
        self.execute(_INSERTS[table], (*columns, checksum))
        self.content_sum += checksum

    def insert_many(self, table: str, rows: Iterable[Row]) -> None:
        """Add rows, each with its checksum."""
        with_checksums = [(*columns, row_checksum(table, columns)) for columns in rows]
        self.connection.executemany(_INSERTS[table], with_checksums)
        self.content_sum += sum(row[-1] for row in with_checksums)

    def matching(self, select: str, values: Iterable[bytes] | Iterable[int], *others: object) -> Iterator[Row]:
        """The rows of `select`, which says `{values}` where a list of some of the values is to stand, before any of the `others`.

        Sorted and by the hundred: a statement for each costs twice as much.
        """
        ordered: list[bytes | int] = sorted(values)
        for at in range(0, len(ordered), _VALUES_MAX):
            some = ordered[at : at + _VALUES_MAX]
            yield from self.execute(select.format(values=", ".join(["(?)"] * len(some))), (*some, *others))

    def remove(self, table: str, *columns: object) -> None:
        """Take a row out that was read and checked before."""
        self.execute(_DELETES[table], columns[: KEY_LENGTHS.get(table, 1)])
        self.content_sum -= row_checksum(table, columns)

    def remove_many(self, table: str, rows: Sequence[Row]) -> None:
        """The same of many, at less than half of what it costs one by one."""
        length = KEY_LENGTHS.get(table, 1)
        self.connection.executemany(_DELETES[table], [columns[:length] for columns in rows])
        self.content_sum -= sum(row_checksum(table, columns) for columns in rows)

    def signed_sum(self) -> int:
        """`content_sum` as it fits into a column."""
        return ((self.content_sum + _SIGN) & _SUM_MASK) - _SIGN

    def _bring_up_to_date(self, *, converts: bool) -> None:
        found = self.one("PRAGMA user_version")
        version = 0 if found is None else int(found[0])
        if version != 0:
            self._check_schema(version)
            if version == TABLE_VERSION or not converts:
                return
        with self.transaction(write=True):
            for statement in statements_of(version, TABLE_VERSION):
                self.execute(statement)
            if version < _USAGE_VERSION:
                self._count_files()
            self.execute(f"PRAGMA user_version={TABLE_VERSION}")

    def _count_files(self) -> None:
        """Fill `usage`. Tables of before have neither older versions nor parts, and nobody owns a file."""
        for incarnation, high, low, files in self.execute(_FILES_BY_BUCKET).fetchall():
            columns = BUCKET_USAGE, incarnation, str((high << 32) + low), files
            self.execute("INSERT INTO usage VALUES (?, ?, ?, ?, ?)", (*columns, row_checksum(USAGE, columns)))

    def _check_schema(self, version: int) -> None:
        if not OLDEST_TABLE_VERSION <= version <= TABLE_VERSION:
            raise UnknownTablesError(
                f"the metadata file has tables of version {version}, this is {TABLE_VERSION}",
                is_newer=version > TABLE_VERSION,
            )
        if strange := schema_of(self.connection) ^ _own_schema(version):
            names = ", ".join(sorted({f"{kind} {name}" for kind, name, *_ in strange}))
            raise UnknownTablesError(f"the schema of the metadata file is not that of its version: {names}")


def schema_of(connection: sqlite3.Connection) -> frozenset[tuple[str, str, str, str]]:
    """(kind, name, table, statement) of everything that the file defines: tables, indexes, and what should not be there."""
    rows = connection.execute("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master")
    return frozenset((kind, name, table, " ".join(sql.split())) for kind, name, table, sql in rows)


@functools.cache
def _own_schema(version: int) -> frozenset[tuple[str, str, str, str]]:
    connection = sqlite3.connect(":memory:")
    try:
        for statement in statements_of(0, version):
            connection.execute(statement)
        return schema_of(connection)
    finally:
        connection.close()


def row_checksum(table: str, columns: Row) -> int:
    """64 bits of BLAKE3 over the table's name and the columns, as a signed number."""
    first = LATER_COLUMNS.get(table)
    if first is not None and columns[first:] == _NO_LATER_COLUMNS:
        columns = columns[:first]
    return int.from_bytes(blake3(_pack((table, *columns))).digest(8), "little", signed=True)


def checked(table: str, row: Row) -> Row:
    """The columns of a row without its checksum.

    Raises:
        RowDamagedError: they are not those that were written.
    """
    columns = row[:-1]
    if row_checksum(table, columns) != row[-1]:
        raise RowDamagedError(f"a row of the table `{table}` is damaged")
    return columns


def checked_all(table: str, rows: Iterable[Row]) -> Iterator[Row]:
    """`checked` of many rows, at half of what it costs one by one."""
    from_bytes, first = int.from_bytes, LATER_COLUMNS.get(table)
    for row in rows:
        columns = row[:-1]
        counted = columns if first is None or columns[first:] != _NO_LATER_COLUMNS else columns[:first]
        if from_bytes(blake3(_pack((table, *counted))).digest(8), "little", signed=True) != row[-1]:
            raise RowDamagedError(f"a row of the table `{table}` is damaged")
        yield columns
