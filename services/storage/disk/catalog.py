"""The catalog of a disk tier: which chunks it holds, how long they are, their start index, and the bodies of small ones.

One SQLite file, so that a small chunk costs neither an inode nor an fsync of its own. Small bodies lie in a table of their
own, appended in order of arrival: the table of chunks stays small enough to be cached and scanned.
Functions that change something run inside a `group_commit.Transaction`; functions that read take any connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.storage.disk.group_commit import Transaction, open_writer
from shared.settings import refuse_to_start

_STEPS: Final = (
    """
    CREATE TABLE chunks (
        digest BLOB PRIMARY KEY,
        size_bytes INTEGER NOT NULL,
        start_index INTEGER NOT NULL,
        packed_id INTEGER
    ) WITHOUT ROWID;
    CREATE TABLE packed (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
    """,
    "CREATE TABLE positions (name TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID;",
)
"""Step n brings the catalog from format n to format n + 1; a step that was released never changes."""

FORMAT_VERSION: Final = len(_STEPS)
_MAX_VARIABLES: Final = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One chunk. `packed_id` is None for a chunk with a file of its own."""

    size_bytes: int
    start_index: int
    packed_id: int | None


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as a listing shows it."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What the catalog holds."""

    chunk_count: int
    used_bytes: int


def prepare(database: Path) -> None:
    """Create the catalog, or bring it to this format; ends the process with one sentence if not. Blocks."""
    sql = open_writer(database)
    try:
        (version,) = sql.execute("PRAGMA user_version").fetchone()
        if version > FORMAT_VERSION:
            refuse_to_start(f"the catalog {database} has format {version}; this version reads {FORMAT_VERSION}")
        for number in range(version, FORMAT_VERSION):
            # One transaction per step: a crash in between leaves a catalog of one format or of the next.
            sql.executescript(f"BEGIN; {_STEPS[number]} PRAGMA user_version={number + 1}; COMMIT;")
    except sqlite3.DatabaseError as error:
        refuse_to_start(f"the catalog {database} cannot be read ({error}); its chunks must come from the other nodes")
    finally:
        sql.close()


def open_reader(database: Path) -> sqlite3.Connection:
    """A read-only connection; used by one thread, closed by another when the first has ended."""
    sql = sqlite3.connect(
        f"file:{database}?mode=ro", uri=True, isolation_level=None, timeout=10, check_same_thread=False
    )
    sql.execute("PRAGMA query_only=ON")
    return sql


def totals(sql: sqlite3.Connection) -> Totals:
    """Count everything; reads the whole table of chunks, at start only."""
    return Totals(*sql.execute("SELECT count(*), coalesce(sum(size_bytes), 0) FROM chunks").fetchone())


def find(sql: sqlite3.Connection, digest: str) -> Row | None:
    """The row of one chunk."""
    found = sql.execute(
        "SELECT size_bytes, start_index, packed_id FROM chunks WHERE digest = ?", (bytes.fromhex(digest),)
    ).fetchone()
    return None if found is None else Row(*found)


def read_packed(sql: sqlite3.Connection, packed_id: int) -> bytes | None:
    """The body of a small chunk; None when it was deleted since its row was read."""
    found = sql.execute("SELECT body FROM packed WHERE id = ?", (packed_id,)).fetchone()
    return None if found is None else bytes(found[0])


def present(sql: sqlite3.Connection, digests: Sequence[str]) -> set[str]:
    """Those of `digests` that have a row."""
    found: set[str] = set()
    for part in _batches(digests):
        marks = ",".join("?" * len(part))
        rows = sql.execute(f"SELECT digest FROM chunks WHERE digest IN ({marks})", part)  # noqa: S608 - marks only
        found.update(row[0].hex() for row in rows)
    return found


def large_digests(sql: sqlite3.Connection, prefix: int) -> set[str]:
    """The digests, beginning with the byte `prefix`, of chunks that have a file of their own."""
    low, high = bytes([prefix]), bytes([prefix]) + b"\xff" * 32
    rows = sql.execute("SELECT digest FROM chunks WHERE packed_id IS NULL AND digest BETWEEN ? AND ?", (low, high))
    return {digest.hex() for (digest,) in rows}


def list_after(sql: sqlite3.Connection, digest: str, limit: int) -> list[StoredChunk]:
    """Up to `limit` chunks in order of digests, those after `digest` (empty: from the first)."""
    rows = sql.execute(
        "SELECT digest, size_bytes FROM chunks WHERE digest > ? ORDER BY digest LIMIT ?", (bytes.fromhex(digest), limit)
    )
    return [StoredChunk(found.hex(), size_bytes) for found, size_bytes in rows]


def position(sql: sqlite3.Connection, name: str) -> str:
    """Where the loop `name` was; empty at the beginning."""
    found = sql.execute("SELECT digest FROM positions WHERE name = ?", (name,)).fetchone()
    return "" if found is None else str(found[0])


def save_position(transaction: Transaction, name: str, digest: str) -> None:
    """Remember where the loop `name` is."""
    transaction.sql.execute("INSERT OR REPLACE INTO positions (name, digest) VALUES (?, ?)", (name, digest))


def raise_start_index(transaction: Transaction, digests: Iterable[str], start_index: int) -> None:
    """Record max(`start_index`) on those of `digests` that are held; rows that have more already cost no write."""
    transaction.sql.executemany(
        "UPDATE chunks SET start_index = ?1 WHERE digest = ?2 AND start_index < ?1",
        [(start_index, bytes.fromhex(digest)) for digest in digests],
    )


def add_packed(transaction: Transaction, digest: str, body: bytes, start_index: int) -> bool:
    """Store a small chunk unless it is there, and record its start index; whether it was added."""
    if find(transaction.sql, digest) is not None:
        raise_start_index(transaction, [digest], start_index)
        return False
    cursor = transaction.sql.execute("INSERT INTO packed (body) VALUES (?)", (body,))
    _add_row(transaction, digest, Row(len(body), start_index, cursor.lastrowid))
    return True


def add_file(transaction: Transaction, digest: str, size_bytes: int, start_index: int) -> bool:
    """Record a chunk that has a file, unless it has a row, and its start index; whether a row was added."""
    if find(transaction.sql, digest) is not None:
        raise_start_index(transaction, [digest], start_index)
        return False
    _add_row(transaction, digest, Row(size_bytes, start_index, None))
    return True


def remove(transaction: Transaction, digest: str) -> Row | None:
    """Take the row and a packed body out; the row that was there. A file is the caller's to unlink."""
    row = find(transaction.sql, digest)
    if row is None:
        return None
    transaction.sql.execute("DELETE FROM chunks WHERE digest = ?", (bytes.fromhex(digest),))
    if row.packed_id is not None:
        transaction.sql.execute("DELETE FROM packed WHERE id = ?", (row.packed_id,))
    transaction.added_chunks -= 1
    transaction.added_bytes -= row.size_bytes
    return row


def _batches(digests: Sequence[str]) -> Iterator[list[bytes]]:
    """`digests` as bytes, in parts that fit into one statement."""
    for start in range(0, len(digests), _MAX_VARIABLES):
        yield [bytes.fromhex(digest) for digest in digests[start : start + _MAX_VARIABLES]]


def _add_row(transaction: Transaction, digest: str, row: Row) -> None:
    transaction.sql.execute(
        "INSERT INTO chunks (digest, size_bytes, start_index, packed_id) VALUES (?, ?, ?, ?)",
        (bytes.fromhex(digest), row.size_bytes, row.start_index, row.packed_id),
    )
    transaction.added_chunks += 1
    transaction.added_bytes += row.size_bytes
