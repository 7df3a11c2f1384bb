"""The catalog of a disk tier: which chunks it holds, how long they are, their start index, and the bodies of small ones.

One SQLite file, so that a small chunk costs neither an inode nor an fsync of its own. Small bodies lie in a table of their
own, appended in order of arrival: the table of chunks stays small enough to be cached and scanned.
Functions that change something run inside a `group_commit.Transaction`; functions that read take any connection.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from services.storage.disk.catalog_vacuum import make_incremental
from services.storage.disk.group_commit import Transaction, open_writer
from services.storage.disk.row_damage import (
    PACKED_ID,
    SOUND_DIGEST,
    SOUND_ROW,
    SOUND_VALUES,
    START_INDEX,
    check_structure,
    mend,
)
from services.storage.disk.wal_salvage import find_unchecked
from services.storage.ports import LostChunk
from shared.contracts.chunks import HeldChunk
from shared.partitions import DIGEST_BYTES, SetSum, sum_of
from shared.settings import refuse_to_start

_CREATE: Final = """
    CREATE TABLE chunks (
        digest BLOB PRIMARY KEY,
        size_bytes INTEGER NOT NULL,
        start_index INTEGER NOT NULL,
        packed_id INTEGER
    ) WITHOUT ROWID;
    CREATE TABLE packed (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE positions (name TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE lost (digest BLOB PRIMARY KEY, start_index INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE pending_unlinks (digest BLOB PRIMARY KEY) WITHOUT ROWID;
"""
FORMAT_VERSION: Final = 5
_UPGRADES: Final = {
    0: (_CREATE, FORMAT_VERSION),
    4: ("ALTER TABLE leaving RENAME TO pending_unlinks;", 5),
}
"""What brings a catalog of one format to a later one; an upgrade that was released never changes."""
ValueT = TypeVar("ValueT")

_MAX_VARIABLES: Final = 500
_POSITION: Final = re.compile(rb"[0-9a-f]{64}")
_ROW: Final = (
    f"CASE typeof(size_bytes) WHEN 'integer' THEN size_bytes ELSE 0 END, {START_INDEX}, {PACKED_ID}, {SOUND_VALUES}"
)
_FIND: Final = f"SELECT {_ROW} FROM chunks WHERE digest = ?"  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class Row:
    """One chunk. `packed_id` is None for a chunk with a file of its own.

    A row that is not `is_sound` was damaged; what could not be read of it is 0 or None. Nothing may be promised on it.
    """

    size_bytes: int
    start_index: int
    packed_id: int | None
    is_sound: bool = True


def prepare(database: Path) -> None:
    """Create the catalog, or bring it to this format; ends the process with one sentence if not. Blocks."""
    try:
        with contextlib.closing(open_writer(database)) as sql:
            _prepare(sql, database)
    except sqlite3.DatabaseError as error:
        refuse_to_start(f"the catalog {database} cannot be read ({error}); its chunks must come from the other nodes")


def _prepare(sql: sqlite3.Connection, database: Path) -> None:
    is_salvaged = find_unchecked(database) is not None
    if is_salvaged:
        # Pages of a damaged write-ahead file were taken in: bodies are checked by their digests, the structure here.
        check_structure(sql)
    (version,) = sql.execute("PRAGMA user_version").fetchone()
    while version != FORMAT_VERSION:
        if version not in _UPGRADES:
            refuse_to_start(f"the catalog {database} has format {version}; this version reads {FORMAT_VERSION}")
        step, version = _UPGRADES[version]
        # One transaction per step: a crash in between leaves a catalog of one format or of another.
        sql.executescript(f"BEGIN; {step} PRAGMA user_version={version}; COMMIT;")
    mend(sql, is_salvaged=is_salvaged)
    make_incremental(sql, database)


def open_reader(database: Path) -> sqlite3.Connection:
    """A read-only connection; used by one thread, closed by another when the first has ended."""
    sql = sqlite3.connect(
        f"file:{database}?mode=ro", uri=True, isolation_level=None, timeout=10, check_same_thread=False
    )
    sql.execute("PRAGMA query_only=ON")
    sql.execute("PRAGMA temp_store=MEMORY")
    # SQLite opens its files at the first question, and they stay open.
    sql.execute("SELECT 1 FROM chunks LIMIT 1").fetchone()
    return sql


def all_sizes(sql: sqlite3.Connection) -> Iterator[tuple[bytes, int]]:
    """Digest and length of every chunk; reads the whole table of chunks, at start only."""
    return sql.execute(f"SELECT digest, size_bytes FROM chunks WHERE {SOUND_ROW}")  # noqa: S608 - constants


def find(sql: sqlite3.Connection, digest: str) -> Row | None:
    """The row of one chunk, sound or not."""
    found = sql.execute(_FIND, (bytes.fromhex(digest),)).fetchone()
    return None if found is None else _row_of(found)


def find_many(sql: sqlite3.Connection, digests: Sequence[str]) -> dict[str, Row]:
    """The rows of those of `digests` that have one, sound or not."""
    rows: dict[str, Row] = {}
    for part in _batches(digests):
        found = sql.execute(f"SELECT digest, {_ROW} FROM chunks WHERE digest IN ({_marks(part)})", part)  # noqa: S608 - marks, constants
        rows.update((key.hex(), _row_of(values)) for key, *values in found)
    return rows


def holds(sql: sqlite3.Connection, digest: str) -> bool:
    """Whether the chunk has a sound row."""
    row = find(sql, digest)
    return row is not None and row.is_sound


def present(sql: sqlite3.Connection, digests: Sequence[str]) -> set[str]:
    """Those of `digests` that have a sound row."""
    found: set[str] = set()
    for part in _batches(digests):
        rows = sql.execute(f"SELECT digest FROM chunks WHERE digest IN ({_marks(part)}) AND {SOUND_VALUES}", part)  # noqa: S608 - marks, constants
        found.update(row[0].hex() for row in rows)
    return found


def start_indexes(sql: sqlite3.Connection, digests: Sequence[str]) -> dict[str, int]:
    """Those of `digests` that have a sound row, with what is recorded on them."""
    found: dict[str, int] = {}
    for part in _batches(digests):
        rows = sql.execute(
            f"SELECT digest, start_index FROM chunks WHERE digest IN ({_marks(part)}) AND {SOUND_VALUES}",  # noqa: S608 - marks, constants
            part,
        )
        found.update((digest.hex(), start_index) for digest, start_index in rows)
    return found


def large_digests(sql: sqlite3.Connection, prefix: int) -> set[str]:
    """The digests, beginning with the byte `prefix`, of chunks that have a file of their own."""
    low, high = bytes([prefix]), bytes([prefix]) + b"\xff" * 32
    rows = sql.execute(
        f"SELECT digest FROM chunks WHERE packed_id IS NULL AND digest BETWEEN ? AND ? AND {SOUND_ROW}",  # noqa: S608 - constants
        (low, high),
    )
    return {digest.hex() for (digest,) in rows}


def list_chunks(sql: sqlite3.Connection, prefix: str, after: str, limit: int) -> list[HeldChunk]:
    """See `ports.Tier.list_chunks`."""
    low, high = (bytes.fromhex(prefix.ljust(2 * DIGEST_BYTES, digit)) for digit in "0f")
    if after and (after_digest := bytes.fromhex(after)) >= low:
        where, first = "digest > ?", after_digest
    else:
        where, first = "digest >= ?", low
    rows = sql.execute(
        f"SELECT digest, size_bytes, start_index FROM chunks WHERE {where} AND digest <= ? AND {SOUND_ROW} "  # noqa: S608 - one of two constants
        "ORDER BY digest LIMIT ?",
        (first, high, limit),
    )
    return [HeldChunk(digest=found.hex(), size_bytes=size, start_index=index) for found, size, index in rows]


def list_lost(sql: sqlite3.Connection, after: str, limit: int) -> list[LostChunk]:
    """See `ports.Tier.list_lost`."""
    rows = sql.execute(
        f"SELECT digest, {START_INDEX} FROM lost WHERE digest > ? AND {SOUND_DIGEST} ORDER BY digest LIMIT ?",  # noqa: S608 - constants
        (bytes.fromhex(after), limit),
    )
    return [LostChunk(found.hex(), start_index) for found, start_index in rows]


def newest_packed(sql: sqlite3.Connection, size_bytes: int) -> list[str]:
    """The packed chunks that arrived last, about `size_bytes` of them. Reads the whole table of chunks."""
    first, found_bytes = 0, 0
    for packed_id, length in sql.execute(
        "SELECT id, CASE typeof(body) WHEN 'blob' THEN length(body) ELSE 0 END FROM packed ORDER BY id DESC"
    ):
        first, found_bytes = packed_id, found_bytes + length
        if found_bytes >= size_bytes:
            break
    rows = sql.execute(f"SELECT digest FROM chunks WHERE packed_id >= ? AND {SOUND_ROW}", (first,))  # noqa: S608 - constants
    return [digest.hex() for (digest,) in rows]


def count_lost(sql: sqlite3.Connection) -> int:
    """How many chunks are lost; few, or none."""
    return int(sql.execute(f"SELECT count(*) FROM lost WHERE {SOUND_DIGEST}").fetchone()[0])  # noqa: S608 - constants


def lost_index(sql: sqlite3.Connection, digest: str) -> int | None:
    """The start index of a lost chunk, or None when it is not lost."""
    found = sql.execute(f"SELECT {START_INDEX} FROM lost WHERE digest = ?", (bytes.fromhex(digest),)).fetchone()  # noqa: S608 - constants
    return None if found is None else int(found[0])


def lost_indexes(sql: sqlite3.Connection, digests: Sequence[str]) -> dict[str, int]:
    """The start indexes of those of `digests` that are lost."""
    found: dict[str, int] = {}
    for part in _batches(digests):
        rows = sql.execute(f"SELECT digest, {START_INDEX} FROM lost WHERE digest IN ({_marks(part)})", part)  # noqa: S608 - marks, constants
        found.update((key.hex(), start_index) for key, start_index in rows)
    return found


def is_lost(sql: sqlite3.Connection, digest: str) -> bool:
    """Whether the chunk is lost."""
    return lost_index(sql, digest) is not None


def position(sql: sqlite3.Connection, name: str) -> str:
    """Where the loop `name` was; empty at the beginning, and when what was recorded is no digest any more."""
    found = sql.execute("SELECT CAST(digest AS BLOB) FROM positions WHERE name = ?", (name,)).fetchone()
    return found[0].decode() if found is not None and _POSITION.fullmatch(found[0] or b"") else ""


def save_position(transaction: Transaction, name: str, digest: str) -> None:
    """Record where the loop `name` is."""
    transaction.sql.execute("INSERT OR REPLACE INTO positions (name, digest) VALUES (?, ?)", (name, digest))


def raise_start_indexes(transaction: Transaction, start_indexes: Iterable[tuple[str, int]]) -> None:
    """Record max(start index) on those of the digests that are held; rows that have more already cost no write."""
    transaction.sql.executemany(
        "UPDATE chunks SET start_index = ?1 WHERE digest = ?2 AND start_index < ?1",
        [(start_index, bytes.fromhex(digest)) for digest, start_index in start_indexes],
    )


def add_packed(transaction: Transaction, digest: str, body: bytes, start_index: int) -> bool:
    """Store a small chunk unless it is there, and record its start index; whether it was added."""
    row = find(transaction.sql, digest)
    if row is not None and row.is_sound:
        raise_start_indexes(transaction, [(digest, start_index)])
        return False
    insert_packed(transaction, digest, body, start_index, row)
    return True


def insert_packed(
    transaction: Transaction, digest: str, body: bytes, start_index: int, damaged: Row | None = None
) -> None:
    """Store a small chunk that has no row, or the `damaged` one."""
    cursor = transaction.sql.execute("INSERT INTO packed (body) VALUES (?)", (body,))
    _add_row(transaction, digest, Row(len(body), start_index, cursor.lastrowid), damaged)


def add_file(transaction: Transaction, digest: str, size_bytes: int, start_index: int) -> bool:
    """Record a chunk that has a file, unless it has a row, and its start index; whether a row was added."""
    row = find(transaction.sql, digest)
    if row is not None and row.is_sound:
        raise_start_indexes(transaction, [(digest, start_index)])
        return False
    insert_file(transaction, digest, size_bytes, start_index, row)
    return True


def insert_file(
    transaction: Transaction, digest: str, size_bytes: int, start_index: int, damaged: Row | None = None
) -> None:
    """Record a chunk that has a file and no row, or the `damaged` one."""
    _add_row(transaction, digest, Row(size_bytes, start_index, None), damaged)


def remove(transaction: Transaction, digest: str) -> Row | None:
    """See `remove_rows`; the row that was there."""
    row = find(transaction.sql, digest)
    if row is not None:
        remove_rows(transaction, {digest: row})
    return row


def remove_rows(transaction: Transaction, rows: Mapping[str, Row]) -> None:
    """Take `rows`, which were found in this transaction, and their packed bodies out. Files are the caller's to unlink.

    Of a damaged row the body stays, because which one it was is not sure, and so does its part of the used bytes until the
    next start.
    """
    for part in _batches(list(rows)):
        transaction.sql.execute(f"DELETE FROM chunks WHERE digest IN ({_marks(part)})", part)  # noqa: S608 - marks
    packed_ids = sorted(row.packed_id for row in rows.values() if row.packed_id is not None and row.is_sound)
    for packed in _parts(packed_ids):
        transaction.sql.execute(f"DELETE FROM packed WHERE id IN ({_marks(packed)})", packed)  # noqa: S608 - marks
    for digest, row in rows.items():
        key = bytes.fromhex(digest)
        transaction.change_sums(-sum_of(key, row.size_bytes if row.is_sound else 0), key)
    transaction.removed += rows
    if transaction.written:  # by an operation of the same commit: what it wrote is gone again
        transaction.written = [digest for digest in transaction.written if digest not in rows]


def correct(transaction: Transaction, digest: str, row: Row, size_bytes: int) -> None:
    """Write a damaged `row`, whose chunk was found whole and `size_bytes` long, anew."""
    key = bytes.fromhex(digest)
    if row.is_sound:  # then its wrong length was counted; otherwise its right one, before the damage
        transaction.change_sums(SetSum(0, size_bytes - row.size_bytes, 0), key)
    _write_row(transaction, key, Row(size_bytes, row.start_index, row.packed_id))


def lose(transaction: Transaction, digest: str, start_index: int) -> Row | None:
    """Take the chunk out and record it as lost; the row that was there, if any."""
    row = remove(transaction, digest)
    transaction.sql.execute(
        "INSERT INTO lost (digest, start_index) VALUES (?1, ?2) "
        "ON CONFLICT DO UPDATE SET start_index = max(start_index, ?2)",
        (bytes.fromhex(digest), start_index if row is None else max(start_index, row.start_index)),
    )
    return row


def forget_lost(transaction: Transaction, digest: str) -> int | None:
    """Take the chunk off the list of lost ones; its start index, or None when it was not lost."""
    # Without RETURNING on purpose: a cursor that was not read to its end would keep the statement open.
    start_index = lost_index(transaction.sql, digest)
    if start_index is not None:
        drop_lost(transaction, [digest])
    return start_index


def drop_lost(transaction: Transaction, digests: Sequence[str]) -> None:
    """Take these off the list of lost ones."""
    for part in _batches(digests):
        transaction.sql.execute(f"DELETE FROM lost WHERE digest IN ({_marks(part)})", part)  # noqa: S608 - marks


def _row_of(values: Sequence[Any]) -> Row:
    size_bytes, start_index, packed_id, is_sound = values
    return Row(size_bytes, start_index, packed_id, bool(is_sound))


def _batches(digests: Sequence[str]) -> Iterator[Sequence[bytes]]:
    """`digests` as bytes, in parts that fit into one statement."""
    yield from _parts([bytes.fromhex(digest) for digest in digests])


def _parts(values: Sequence[ValueT]) -> Iterator[Sequence[ValueT]]:
    for start in range(0, len(values), _MAX_VARIABLES):
        yield values[start : start + _MAX_VARIABLES]


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _add_row(transaction: Transaction, digest: str, row: Row, damaged: Row | None) -> None:
    key = bytes.fromhex(digest)
    transaction.written.append(digest)
    # A lost chunk that comes back keeps the start index that was durable on it.
    start_index = max(row.start_index, forget_lost(transaction, digest) or 0, damaged.start_index if damaged else 0)
    _write_row(transaction, key, Row(row.size_bytes, start_index, row.packed_id))
    if damaged is None:  # one that was damaged since the start has been counted
        transaction.change_sums(sum_of(key, row.size_bytes), key)


def _write_row(transaction: Transaction, key: bytes, row: Row) -> None:
    transaction.sql.execute(
        "INSERT OR REPLACE INTO chunks (digest, size_bytes, start_index, packed_id) VALUES (?, ?, ?, ?)",
        (key, row.size_bytes, row.start_index, row.packed_id),
    )
