"""The one module that speaks SQL: opening the file, and every read and write of a row.

WAL, so that readers never wait for the writer; `synchronous=NORMAL`, because a transaction that a power cut takes away
is replayed from the Raft log, which is what was fsynced before the acknowledgement. Each connection is used by one
thread at a time; who holds it is the caller's business (`store`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgpack
from blake3 import blake3

from services.consensus.metadata.rows import (
    BucketRow,
    FileRow,
    NodeRow,
    RequestRow,
    State,
    TombstoneRow,
    decode_version,
    encode_version,
)
from services.consensus.metadata.schema import HASHED_TABLES, STATEMENTS, TABLE_VERSION
from shared.contracts.cluster import NodeState
from shared.contracts.metadata import FileVersion
from shared.contracts.names import DIGEST_BYTES
from shared.units import KIB, MIB

WRITER_CACHE_BYTES: Final = 64 * MIB
READER_CACHE_BYTES: Final = 16 * MIB
HASHING_CACHE_BYTES: Final = 2 * MIB

_SIGN: Final = 1 << 63
_FILES: Final = (
    "SELECT key, version, size_bytes, etag, content_type, modified_ns FROM files "
    "WHERE incarnation=? AND key>=? AND key<?"
)
_PAST: Final = (
    "SELECT key, version, size_bytes, etag, content_type, modified_ns FROM past "
    "WHERE incarnation=? AND key>=? AND key<?"
)
# Both halves are in key order already, so SQLite merges them without sorting.
_FILES_AS_OF: Final = f"{_FILES} AND version<=? UNION ALL {_PAST} AND version<=? AND deleted_index>? ORDER BY key"
_HASH_PAGE: Final = 1000


class UnknownTablesError(Exception):
    """The file was written by a version whose tables are not known here. Never crosses the wire."""


class Tables:
    """One connection to the state machine's file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute

    @classmethod
    def open(cls, path: Path, *, cache_bytes: int) -> Tables:
        """Open the file, and make the tables when it is new.

        Raises:
            UnknownTablesError: it was written by another version.
            sqlite3.DatabaseError: it is damaged or cannot be opened.
        """
        # Transactions are begun and ended by hand; threads take turns under the store's rules.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute(f"PRAGMA cache_size=-{cache_bytes // KIB}")
            tables = cls(connection)
            tables._create_if_new()
        except BaseException:
            connection.close()
            raise
        return tables

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[None]:
        """All or nothing; every read inside sees one state."""
        self._execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            # A full disk may have ended the transaction already; rolling back again would hide the reason.
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            raise

    # --- state ----------------------------------------------------------------------------------------------------

    def read_state(self) -> State:
        """The row `state`."""
        row = self._one("SELECT last_applied, last_term, cluster_id, epoch, highest_hlc, horizon FROM state", ())
        if row is None:
            raise UnknownTablesError("the table `state` is empty")
        last_applied, last_term, cluster_id, epoch, highest_hlc, horizon = row
        return State(last_applied, last_term, cluster_id, epoch, highest_hlc + _SIGN, horizon)

    def write_state(self, state: State) -> None:
        """Replace the row `state`."""
        self._execute(
            "UPDATE state SET last_applied=?, last_term=?, cluster_id=?, epoch=?, highest_hlc=?, horizon=?",
            (
                state.last_applied,
                state.last_term,
                state.cluster_id,
                state.epoch,
                state.highest_hlc - _SIGN,
                state.horizon,
            ),
        )

    # --- buckets --------------------------------------------------------------------------------------------------

    def bucket(self, name: str, at_index: int | None = None) -> BucketRow | None:
        """The bucket of that name that exists now, or that existed at `at_index`."""
        if at_index is None:
            row = self._one(
                "SELECT name, incarnation, created_ns FROM buckets WHERE name=? AND deleted_index IS NULL", (name,)
            )
        else:
            row = self._one(
                "SELECT name, incarnation, created_ns FROM buckets "
                "WHERE name=? AND incarnation<=? AND (deleted_index IS NULL OR deleted_index>?)",
                (name, at_index, at_index),
            )
        return None if row is None else BucketRow(*row)

    def buckets(self) -> list[BucketRow]:
        """All buckets that exist, by name."""
        rows = self._execute(
            "SELECT name, incarnation, created_ns FROM buckets WHERE deleted_index IS NULL ORDER BY name"
        )
        return [BucketRow(*row) for row in rows]

    def insert_bucket(self, bucket: BucketRow) -> None:
        """A new bucket."""
        self._execute(
            "INSERT INTO buckets VALUES (?, ?, ?, NULL)", (bucket.incarnation, bucket.name, bucket.created_ns)
        )

    def end_bucket(self, incarnation: int, deleted_index: int) -> None:
        """The bucket exists no longer; its row stays for lists pinned to an earlier index."""
        self._execute("UPDATE buckets SET deleted_index=? WHERE incarnation=?", (deleted_index, incarnation))

    def has_files(self, incarnation: int) -> bool:
        """Whether any file exists in the bucket."""
        return self._one("SELECT 1 FROM files WHERE incarnation=? LIMIT 1", (incarnation,)) is not None

    # --- files ----------------------------------------------------------------------------------------------------

    def file(self, incarnation: int, key: bytes) -> FileRow | None:
        """The file that exists under `key` now."""
        row = self._one(
            "SELECT key, version, size_bytes, etag, content_type, modified_ns FROM files WHERE incarnation=? AND key=?",
            (incarnation, key),
        )
        return None if row is None else FileRow(*row)

    def tombstone(self, bucket_name: str, key: bytes) -> TombstoneRow | None:
        """The last deletion of an absent key, in this bucket or in an earlier one of the same name."""
        row = self._one(
            "SELECT past.deleted_index, past.modified_ns FROM buckets JOIN past "
            "ON past.incarnation=buckets.incarnation AND past.key=? WHERE buckets.name=? "
            "ORDER BY past.deleted_index DESC LIMIT 1",
            (key, bucket_name),
        )
        return None if row is None else TombstoneRow(*row)

    def version(self, version: int) -> FileVersion:
        """Everything about one version. Raises RowDamagedError."""
        row = self._one("SELECT body FROM versions WHERE version=?", (version,))
        if row is None:
            raise LookupError(f"version {version} is not in the table `versions`")
        return decode_version(row[0])

    def insert_version(self, incarnation: int, version: FileVersion) -> None:
        """Make `version` the present one of its key. One that it supersedes has been moved away before."""
        key = version.key.encode()
        content = version.content
        self._execute("INSERT INTO versions VALUES (?, ?)", (version.version, encode_version(version)))
        self._execute(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                incarnation,
                key,
                version.version,
                content.size_bytes,
                version.etag,
                version.content_type,
                version.modified_ns,
            ),
        )
        self._connection.executemany(
            "INSERT OR IGNORE INTO chunk_refs VALUES (?, ?)",
            ((digest, version.version) for digest in _split(content.chunk_digests)),
        )

    def end_file(self, incarnation: int, file: FileRow, deleted_index: int) -> None:
        """The present version is superseded or deleted by `deleted_index`; its chunks stay referenced."""
        self._execute("DELETE FROM files WHERE incarnation=? AND key=?", (incarnation, file.key))
        self._execute(
            "INSERT INTO past VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                incarnation,
                file.key,
                file.version,
                deleted_index,
                file.size_bytes,
                file.etag,
                file.content_type,
                file.modified_ns,
            ),
        )

    def scan_files(self, incarnation: int, lower: bytes, upper: bytes, at_index: int | None) -> Iterator[FileRow]:
        """Files with lower <= key < upper by key, now or as of `at_index`; rows are fetched as they are taken."""
        bounds = (incarnation, lower, upper)
        if at_index is None:
            rows = self._execute(f"{_FILES} ORDER BY key", bounds)
        else:
            rows = self._execute(_FILES_AS_OF, (*bounds, at_index, *bounds, at_index, at_index))
        try:
            for row in rows:
                yield FileRow(*row)
        finally:
            rows.close()

    def referring_versions(self, digest: bytes) -> list[int]:
        """The versions that refer to a chunk, superseded ones included."""
        return [row[0] for row in self._execute("SELECT version FROM chunk_refs WHERE digest=?", (digest,))]

    # --- requests -------------------------------------------------------------------------------------------------

    def request(self, request_id: str) -> RequestRow | None:
        """The stored result of a proposal."""
        row = self._one("SELECT log_index, term, outcome FROM requests WHERE request_id=?", (request_id,))
        return None if row is None else RequestRow(*row)

    def insert_request(self, request_id: str, row: RequestRow, expires_hlc: int) -> None:
        """Remember a result."""
        self._execute(
            "INSERT INTO requests VALUES (?, ?, ?, ?, ?)",
            (row.log_index, request_id, row.term, expires_hlc - _SIGN, row.outcome),
        )

    def expire_requests(self, before_hlc: int, up_to_index: int, limit: int) -> int:
        """Forget up to `limit` results that expired before `before_hlc`, none above `up_to_index`; how many there were."""
        return self._execute(
            "DELETE FROM requests WHERE log_index IN (SELECT log_index FROM requests WHERE expires_hlc<? "
            "AND log_index<=? ORDER BY expires_hlc, log_index LIMIT ?)",
            (before_hlc - _SIGN, up_to_index, limit),
        ).rowcount

    # --- nodes ----------------------------------------------------------------------------------------------------

    def nodes(self) -> list[NodeRow]:
        """All storage nodes, by id."""
        rows = self._execute(
            "SELECT node_id, url, zone, state, capacity_bytes, admitted_epoch FROM nodes ORDER BY node_id"
        )
        return [NodeRow(row[0], row[1], row[2], NodeState(row[3]), row[4], row[5]) for row in rows]

    def put_node(self, node: NodeRow) -> None:
        """Insert or replace a node."""
        self._execute(
            "INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?, ?)",
            (node.node_id, node.url, node.zone, node.state.value, node.capacity_bytes, node.admitted_epoch),
        )

    def delete_node(self, node_id: str) -> None:
        """Take a node out."""
        self._execute("DELETE FROM nodes WHERE node_id=?", (node_id,))

    # --- all of it ------------------------------------------------------------------------------------------------

    def hash_rows(self) -> str:
        """A digest over every row of every table, in an order that does not depend on how the file was written."""
        hasher = blake3()
        for table, order in HASHED_TABLES:
            hasher.update(msgpack.packb(table))
            rows = self._execute(f"SELECT * FROM {table} ORDER BY {order}")  # noqa: S608 (our own constants)
            while page := rows.fetchmany(_HASH_PAGE):
                hasher.update(msgpack.packb(page))
        return hasher.hexdigest()

    def _create_if_new(self) -> None:
        found = self._one("PRAGMA user_version", ())
        if found == (0,):
            with self.transaction(write=True):
                for statement in STATEMENTS:
                    self._execute(statement)
                self._execute(f"PRAGMA user_version={TABLE_VERSION}")
        elif found != (TABLE_VERSION,):
            raise UnknownTablesError(f"the metadata file has tables of version {found}, this is {TABLE_VERSION}")

    def _one(self, statement: str, parameters: tuple[Any, ...]) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._execute(statement, parameters).fetchone()
        return row


def _split(chunk_digests: bytes) -> Iterable[bytes]:
    return (chunk_digests[at : at + DIGEST_BYTES] for at in range(0, len(chunk_digests), DIGEST_BYTES))
