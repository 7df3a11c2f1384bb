"""Repairs rows of the catalog that a flipped bit has damaged, at start (S-89).

SQLite checks no types when it reads: a flipped bit in the header of a record makes a length NULL or TEXT, or a digest short.
Such a row must not take the node out of service: the readers in `catalog` ignore it, and `mend` removes it at start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

import structlog
from blake3 import blake3

from shared.partitions import DIGEST_BYTES

logger = structlog.get_logger(__name__)

SOUND_DIGEST: Final = f"(typeof(digest) = 'blob' AND length(digest) = {DIGEST_BYTES})"
SOUND_INDEX: Final = "(typeof(start_index) = 'integer' AND start_index >= 0)"
SOUND_VALUES: Final = (
    f"(typeof(size_bytes) = 'integer' AND size_bytes >= 0 AND {SOUND_INDEX} "
    "AND typeof(packed_id) IN ('integer', 'null'))"
)
"""What a row of `chunks` must be beside its digest, for SQL. Never NULL."""
SOUND_ROW: Final = f"({SOUND_DIGEST} AND {SOUND_VALUES})"
START_INDEX: Final = f"CASE WHEN {SOUND_INDEX} THEN start_index ELSE 0 END"
_SMALL_TABLES: Final = (
    f"DELETE FROM lost WHERE NOT {SOUND_DIGEST}",  # noqa: S608 - constants
    f"UPDATE lost SET start_index = 0 WHERE NOT {SOUND_INDEX}",  # noqa: S608 - constants
    f"DELETE FROM pending_unlinks WHERE NOT {SOUND_DIGEST}",  # noqa: S608 - constants
    "DELETE FROM positions WHERE typeof(name) <> 'text' OR typeof(digest) <> 'text'",
)
"""What is dropped costs little: a file adopted as garbage, a chunk found missing later, a pass of the scrub."""
PACKED_ID: Final = "CASE typeof(packed_id) WHEN 'integer' THEN packed_id END"


def mend(sql: sqlite3.Connection, *, is_salvaged: bool = False) -> None:
    """Take damaged rows out, durably; at start. Their chunks are restored, or recorded as lost, or unknown.

    In a catalog that `is_salvaged`, rows may be gone that nothing shows to have been there but their packed bodies.
    A chunk that is packed is restored under the digest of its body. Otherwise, where its digest can be read, it is lost and
    comes back from the peers, or by its file, which has no row now and is adopted. What is left over is known by its absence
    only: the comparison of nodes finds it.

    Raises:
        sqlite3.DatabaseError: the damage is in the structure, or a row cannot be read to its end; nothing was changed.
    """
    sql.execute("BEGIN IMMEDIATE")
    changes = sql.total_changes
    for statement in _SMALL_TABLES:
        sql.execute(statement)
    start_indexes, rows = _take_out(sql)
    restored = _restore_packed(sql, start_indexes) if rows or is_salvaged else 0
    lost = sum(_lose(sql, key, start_index) for key, start_index in start_indexes.items())
    if sql.total_changes != changes:
        # A wrong length of a whole record overlaps with its neighbour, which must not be overwritten.
        check_structure(sql)
    sql.execute("COMMIT")
    if rows or restored:
        logger.error("rows of the catalog were damaged", rows=rows, restored=restored, lost=lost)


def check_structure(sql: sqlite3.Connection) -> None:
    """Read all pages. Raises sqlite3.DatabaseError."""
    (verdict,) = sql.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _take_out(sql: sqlite3.Connection) -> tuple[dict[bytes, int], int]:
    """Start indexes by digest of the damaged rows of which those can be read, and the number of all damaged rows."""
    # The cast makes TEXT of the right length, one flipped bit away from BLOB, the digest that it was.
    damaged = sql.execute(
        f"SELECT CAST(digest AS BLOB), {START_INDEX} FROM chunks WHERE NOT {SOUND_ROW}"  # noqa: S608 - constants
    ).fetchall()
    if damaged:
        sql.execute(f"DELETE FROM chunks WHERE NOT {SOUND_ROW}")  # noqa: S608 - constants
    start_indexes = {key: start_index for key, start_index in damaged if key and len(key) == DIGEST_BYTES}
    return start_indexes, len(damaged)


def _restore_packed(sql: sqlite3.Connection, start_indexes: Mapping[bytes, int]) -> int:
    """Give every body without a row a row; how many it were."""
    sql.execute("CREATE TEMP TABLE named AS SELECT packed_id AS id FROM chunks WHERE packed_id IS NOT NULL")
    sql.execute("CREATE INDEX temp.named_id ON named (id)")
    orphans = sql.execute("SELECT id FROM packed WHERE id NOT IN (SELECT id FROM named)").fetchall()
    sql.execute("DROP TABLE named")
    restored = 0
    for (packed_id,) in orphans:
        body = read_packed(sql, packed_id)
        if body is not None:
            key = blake3(body).digest()
            restored += sql.execute(
                "INSERT OR IGNORE INTO chunks (digest, size_bytes, start_index, packed_id) VALUES (?, ?, ?, ?)",
                (key, len(body), start_indexes.get(key, 0), packed_id),
            ).rowcount
    return restored


def _lose(sql: sqlite3.Connection, key: bytes, start_index: int) -> int:
    return sql.execute(
        "INSERT OR IGNORE INTO lost (digest, start_index) SELECT ?1, ?2 "
        "WHERE NOT EXISTS (SELECT 1 FROM chunks WHERE digest = ?1)",
        (key, start_index),
    ).rowcount


def read_packed(sql: sqlite3.Connection, packed_id: int) -> bytes | None:
    """The body of a small chunk; None when it is not there. Of whatever type damage made it: its digest will tell."""
    found = sql.execute("SELECT CAST(body AS BLOB) FROM packed WHERE id = ?", (packed_id,)).fetchone()
    return None if found is None or found[0] is None else bytes(found[0])
