"""The tables of the state machine, and why they are cut this way.

- `files` has one row per key that exists now, in the order of keys, with just what a list shows: a list of the present
  never walks over deleted rows, however many keys come and go. `past` has the rows that were superseded or deleted, with
  the index that did it; lists pinned to an index merge both, and the newest past row of an absent key is its tombstone.
- `versions` has everything about one version under its log index, so a publish appends at the end of that tree, and
  bodies that are large (32 bytes per chunk) do not widen the rows that lists walk over.
- `chunk_refs` says which versions refer to a chunk. It is keyed by digest, so "is this chunk referenced?" is one seek and
  the nodes' reconcile pages are range scans. It costs one random insert of about 45 bytes per chunk and version; a
  count per digest would cost the same seek and could not be repaired when it is wrong.
- `requests` makes proposals happen once. It is keyed by log index (appends again); the index on `request_id` is the
  one random insert. The result of a publish is not stored twice: it is rebuilt from `versions`.

A bucket is known by its incarnation, the log index that made it: rows of a bucket that was deleted and made again are
never mixed up. Keys are BLOBs of UTF-8: compared byte by byte. Hybrid timestamps are unsigned 64-bit numbers, stored
with an offset of -2^63 because SQLite's integers are signed, and theirs passes 2^63 in 2038.
"""

from __future__ import annotations

from typing import Final

TABLE_VERSION: Final = 1
"""Kept in SQLite's `user_version`; 0 is an empty file."""

STATEMENTS: Final = (
    """
    CREATE TABLE state (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        last_applied INTEGER NOT NULL,
        last_term INTEGER NOT NULL,
        cluster_id TEXT,
        epoch INTEGER NOT NULL,
        highest_hlc INTEGER NOT NULL,
        horizon INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE buckets (
        incarnation INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        created_ns INTEGER NOT NULL,
        deleted_index INTEGER
    )
    """,
    "CREATE INDEX buckets_by_name ON buckets (name, incarnation)",
    """
    CREATE TABLE files (
        incarnation INTEGER NOT NULL,
        key BLOB NOT NULL,
        version INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        etag TEXT NOT NULL,
        content_type TEXT NOT NULL,
        modified_ns INTEGER NOT NULL,
        PRIMARY KEY (incarnation, key)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE past (
        incarnation INTEGER NOT NULL,
        key BLOB NOT NULL,
        version INTEGER NOT NULL,
        deleted_index INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        etag TEXT NOT NULL,
        content_type TEXT NOT NULL,
        modified_ns INTEGER NOT NULL,
        PRIMARY KEY (incarnation, key, version)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE versions (version INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    """
    CREATE TABLE chunk_refs (
        digest BLOB NOT NULL,
        version INTEGER NOT NULL,
        PRIMARY KEY (digest, version)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE requests (
        log_index INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL,
        term INTEGER NOT NULL,
        expires_hlc INTEGER NOT NULL,
        outcome BLOB NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX requests_by_id ON requests (request_id)",
    "CREATE INDEX requests_by_expiry ON requests (expires_hlc)",
    """
    CREATE TABLE nodes (
        node_id TEXT PRIMARY KEY,
        url TEXT NOT NULL,
        zone TEXT NOT NULL,
        state TEXT NOT NULL,
        capacity_bytes INTEGER NOT NULL,
        admitted_epoch INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "INSERT INTO state VALUES (1, 0, 0, NULL, 0, -9223372036854775808, 0)",
)

HASHED_TABLES: Final = (
    ("state", "id"),
    ("buckets", "incarnation"),
    ("files", "incarnation, key"),
    ("past", "incarnation, key, version"),
    ("versions", "version"),
    ("chunk_refs", "digest, version"),
    ("requests", "log_index"),
    ("nodes", "node_id"),
)
"""Every table and the order of its rows that does not depend on how the file was written."""
