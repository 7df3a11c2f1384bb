"""The tables of the state machine, and why they are cut this way.

- `files` has one row per key that exists now, in the order of keys, with just what a list shows: a list of the present
  never walks over deleted rows, however many keys come and go. `past` has the rows that were superseded or deleted, with
  the index that did it; lists pinned to an index merge both. It is forgotten after minutes.
- `tombstones` has the last deletion of every absent key, and is forgotten after a day. It goes by the bucket's name, so
  that it outlives the bucket.
- `versions` has everything about one version under its log index, so a publish appends at the end of that tree, and
  bodies that are large (32 bytes per chunk) do not widen the rows that lists walk over.
- `chunk_refs` says which versions refer to a chunk. It is keyed by digest, so "is this chunk referenced?" is one seek and
  the nodes' reconcile pages are range scans. It costs one random insert of about 45 bytes per chunk and version; a
  count per digest would cost the same seek and could not be repaired when it is wrong.
- `requests` makes proposals happen once. The result of a publish is not stored twice: it is rebuilt from `versions`.
- `moments` is the log's own clock: how long leaders had led, in all, when an entry was applied (`retention`).
- `doomed` has the versions that nothing shows any more and whose chunk references are being dropped, a few at a time;
  `kept` those that wait only for a remembered request to be forgotten.
- `runs` has the run of each storage node that was recorded last: whose disk and Redis its acknowledgements rest on.
- `members` says which entries each consensus member can apply.
- `released` has the versions that no list shows any more and that a slow reader or a backup may still need: their chunk
  references are kept until they are `doomed`. By the index that superseded or deleted them.
- `condemned` has the chunks that lost their last reference, or never had one, with the index of the entry that found it.
  `horizons` says up to which index such rows are forgotten.
- `backups` has those under way, and `drains` since when a storage node drains.

With entries of version 4 came:

- `older_versions` has the versions of a versioned bucket that are kept beside the current one, and its delete markers; a
  marker that is current has no `superseded_index`. `version_id` is NULL where it is the version itself.
- `bucket_settings` and `bucket_documents` go by the bucket's incarnation; `patches` has what may change about a version that
  stays the same: its tags.
- `manifests` has chunk lists that versions share piece by piece: one for each part of an upload. `chunk_refs` refer to
  the manifest, under its log index, and not to every version that shows some of it.
- `compositions` has the pieces of manifests that a file is made of, under the number of the upload that joined them, and
  `composition_refs` the versions that show them.
- `manifest_refs` says which uploads, and later their compositions, refer to a manifest. Both have one number, so that
  completing an upload moves no rows.
- `uploads` has those under way, and for some time what became of the others; `parts` what they consist of so far.
- `identities` and `access_keys` say who may do what, with the index of the last change of each, by which gateways follow.
  Deleted ones stay for as long as tombstones do, without their secrets; `horizons` says up to which index they are
  forgotten. `bucket_access` has the index of the last change of the documents by which a bucket says who may do what.
- `audit` has who changed what, under the index of the entry (`audit`): rows that are chained, with the bytes of all rows up to
  each, so that how long the kept part is needs no count. The first row is the anchor, an empty one, once rows were cut.
- `files` and `past` got what only S3 shows in a list: `stored_ns`, NULL where it is `modified_ns`, `s3_etag` and
  `storage_class`. A row in which all three are NULL has the checksum that it had without them (`LATER_COLUMNS`).
- `usage` says how much there is in a bucket, of an identity, and in the parts of an upload: sums of what other tables have, which
  quotas are held against (`usage`). `size_bytes` is decimal digits: copies cost nothing, and pass what an integer holds.

A bucket is known by its incarnation, the log index that made it: rows of a bucket that was deleted and made again are
never mixed up. Keys are BLOBs of UTF-8: compared byte by byte. Hybrid timestamps are unsigned 64-bit numbers, stored
with an offset of -2^63 because SQLite's integers are signed, and theirs passes 2^63 in 2038.

Every row ends with a checksum (`database`); in `chunk_refs` it is left out, because the key is a digest and the sum over
all rows says when one is missing, and in `audit`, whose rows are chained. Rows of `usage` do not count in that sum, because they
follow from others: members whose tables were made by different versions must come to the same.
"""

from __future__ import annotations

from typing import Any, Final

Row = tuple[Any, ...]
"""Columns as SQLite gives and takes them; whoever unpacks a row gives them their types."""

TABLE_VERSION: Final = 5
"""Kept in SQLite's `user_version`; 0 is an empty file. Version 1 had no checksums and was never released."""

OLDEST_TABLE_VERSION: Final = 2
"""The oldest that is read, and brought up to date when it is opened to be written."""

_RUNS: Final = """
    CREATE TABLE runs (
        node_id TEXT PRIMARY KEY,
        disk_id TEXT NOT NULL,
        counter INTEGER NOT NULL,
        boot_id TEXT NOT NULL,
        redis_id TEXT,
        fence INTEGER NOT NULL,
        superseded TEXT NOT NULL,
        has_rival INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID
    """

_GARBAGE: Final = (
    "CREATE TABLE released (version INTEGER PRIMARY KEY, log_index INTEGER NOT NULL, checksum INTEGER NOT NULL)",
    "CREATE INDEX released_by_index ON released (log_index)",
    """
    CREATE TABLE condemned (
        digest BLOB PRIMARY KEY,
        log_index INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX condemned_by_index ON condemned (log_index, digest)",
    """
    CREATE TABLE horizons (
        name TEXT PRIMARY KEY,
        log_index INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE backups (
        backup_id TEXT PRIMARY KEY,
        log_index INTEGER NOT NULL,
        owner TEXT NOT NULL,
        expires_ms INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE drains (
        node_id TEXT PRIMARY KEY,
        log_index INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
)

_OBJECTS: Final = (
    """
    CREATE TABLE older_versions (
        incarnation INTEGER NOT NULL,
        key BLOB NOT NULL,
        version INTEGER NOT NULL,
        version_id INTEGER,
        size_bytes INTEGER NOT NULL,
        etag TEXT NOT NULL,
        content_type TEXT NOT NULL,
        modified_ns INTEGER NOT NULL,
        stored_ns INTEGER,
        s3_etag TEXT,
        storage_class TEXT,
        is_marker INTEGER NOT NULL,
        is_null INTEGER NOT NULL,
        superseded_index INTEGER,
        superseded_ms INTEGER,
        owner BLOB,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (incarnation, key, version)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX older_nulls ON older_versions (incarnation, key) WHERE is_null = 1",
    "CREATE INDEX older_by_id ON older_versions (incarnation, key, version_id) WHERE version_id IS NOT NULL",
    "CREATE INDEX older_by_age ON older_versions (incarnation, superseded_ms) WHERE superseded_ms IS NOT NULL",
    """
    CREATE TABLE bucket_settings (
        incarnation INTEGER PRIMARY KEY,
        log_index INTEGER NOT NULL,
        body BLOB NOT NULL,
        checksum INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE bucket_documents (
        incarnation INTEGER NOT NULL,
        kind TEXT NOT NULL,
        log_index INTEGER NOT NULL,
        body BLOB NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (incarnation, kind)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE usage (
        kind TEXT NOT NULL,
        holder BLOB NOT NULL,
        size_bytes TEXT NOT NULL,
        files INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (kind, holder)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE patches (
        version INTEGER PRIMARY KEY,
        patch_index INTEGER NOT NULL,
        body BLOB NOT NULL,
        checksum INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE manifests (
        manifest INTEGER PRIMARY KEY,
        size_bytes INTEGER NOT NULL,
        chunk_size_bytes INTEGER NOT NULL,
        chunk_digests BLOB NOT NULL,
        checksum INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE manifest_refs (
        owner INTEGER NOT NULL,
        manifest INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (owner, manifest)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX manifest_refs_by_manifest ON manifest_refs (manifest, owner)",
    "CREATE TABLE compositions (composition INTEGER PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER NOT NULL)",
    """
    CREATE TABLE composition_refs (
        composition INTEGER NOT NULL,
        version INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (composition, version)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE uploads (
        upload INTEGER PRIMARY KEY,
        incarnation INTEGER NOT NULL,
        key BLOB NOT NULL,
        nonce TEXT NOT NULL,
        state TEXT NOT NULL,
        is_internal INTEGER NOT NULL,
        closed_index INTEGER,
        swept INTEGER NOT NULL,
        expires_ms INTEGER,
        result_version INTEGER,
        owner BLOB,
        body BLOB NOT NULL,
        checksum INTEGER NOT NULL
    )
    """,
    "CREATE INDEX uploads_by_key ON uploads (incarnation, key, upload) WHERE state = 'open' AND is_internal = 0",
    "CREATE INDEX uploads_by_closing ON uploads (closed_index) WHERE closed_index IS NOT NULL",
    "CREATE INDEX uploads_by_expiry ON uploads (expires_ms) WHERE expires_ms IS NOT NULL",
    """
    CREATE TABLE parts (
        upload INTEGER NOT NULL,
        number INTEGER NOT NULL,
        part INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        etag TEXT NOT NULL,
        body BLOB NOT NULL,
        s3 BLOB,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (upload, number)
    ) WITHOUT ROWID
    """,
    "ALTER TABLE state ADD COLUMN access_index INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE state ADD COLUMN realm TEXT",
    """
    CREATE TABLE identities (
        identity TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        is_root INTEGER NOT NULL,
        state TEXT NOT NULL,
        created_ns INTEGER NOT NULL,
        body BLOB NOT NULL,
        changed_index INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX identities_by_change ON identities (changed_index)",
    "CREATE INDEX identities_deleted ON identities (changed_index) WHERE state = 'deleted'",
    "CREATE INDEX root_identities ON identities (identity) WHERE is_root = 1 AND state = 'active'",
    """
    CREATE TABLE access_keys (
        key TEXT PRIMARY KEY,
        identity TEXT NOT NULL,
        slot INTEGER NOT NULL,
        state TEXT NOT NULL,
        created_ns INTEGER NOT NULL,
        expires_ns INTEGER,
        last_used_hour INTEGER,
        sealing_key TEXT NOT NULL,
        sealed BLOB NOT NULL,
        bearer_mac BLOB NOT NULL,
        changed_index INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX access_keys_by_change ON access_keys (changed_index)",
    "CREATE INDEX access_keys_deleted ON access_keys (changed_index) WHERE state = 'deleted'",
    "CREATE INDEX access_keys_by_identity ON access_keys (identity) WHERE state <> 'deleted'",
    """
    CREATE TABLE bucket_access (
        incarnation INTEGER PRIMARY KEY,
        changed_index INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE audit (
        log_index INTEGER PRIMARY KEY,
        end_bytes INTEGER NOT NULL,
        link BLOB NOT NULL,
        row BLOB NOT NULL
    )
    """,
    *(
        f"ALTER TABLE {table} ADD COLUMN {column}"
        for table in ("files", "past")
        for column in ("stored_ns INTEGER", "s3_etag TEXT", "storage_class TEXT")
    ),
)

_CONVERSIONS: Final = {2: (_RUNS,), 3: _GARBAGE, 4: _OBJECTS}
"""What makes tables of a version those of the next. They add no rows that count in the sum, which must be the same everywhere."""

_OLDEST_TABLES: Final = (
    """
    CREATE TABLE state (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        last_applied INTEGER NOT NULL,
        last_term INTEGER NOT NULL,
        cluster_id TEXT,
        epoch INTEGER NOT NULL,
        highest_hlc INTEGER NOT NULL,
        horizon INTEGER NOT NULL,
        tombstone_horizon INTEGER NOT NULL,
        lived_ms INTEGER NOT NULL,
        entry_version INTEGER NOT NULL,
        content_sum INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE buckets (
        incarnation INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        created_ns INTEGER NOT NULL,
        deleted_index INTEGER,
        checksum INTEGER NOT NULL
    )
    """,
    "CREATE INDEX buckets_by_name ON buckets (name, incarnation)",
    "CREATE INDEX buckets_by_deletion ON buckets (deleted_index) WHERE deleted_index IS NOT NULL",
    """
    CREATE TABLE files (
        incarnation INTEGER NOT NULL,
        key BLOB NOT NULL,
        version INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        etag TEXT NOT NULL,
        content_type TEXT NOT NULL,
        modified_ns INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
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
        checksum INTEGER NOT NULL,
        PRIMARY KEY (incarnation, key, version)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX past_by_deletion ON past (deleted_index)",
    """
    CREATE TABLE tombstones (
        bucket TEXT NOT NULL,
        key BLOB NOT NULL,
        deleted_index INTEGER NOT NULL,
        modified_ns INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (bucket, key)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX tombstones_by_deletion ON tombstones (deleted_index)",
    "CREATE TABLE versions (version INTEGER PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER NOT NULL)",
    """
    CREATE TABLE chunk_refs (
        digest BLOB NOT NULL,
        version INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        PRIMARY KEY (digest, version)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE requests (
        request_id TEXT PRIMARY KEY,
        log_index INTEGER NOT NULL,
        term INTEGER NOT NULL,
        retain_s INTEGER NOT NULL,
        outcome BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE UNIQUE INDEX requests_by_age ON requests (retain_s, log_index)",
    """
    CREATE TABLE nodes (
        node_id TEXT PRIMARY KEY,
        url TEXT NOT NULL,
        zone TEXT NOT NULL,
        state TEXT NOT NULL,
        capacity_bytes INTEGER NOT NULL,
        admitted_epoch INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE TABLE moments (lived_ms INTEGER PRIMARY KEY, log_index INTEGER NOT NULL, checksum INTEGER NOT NULL)",
    "CREATE TABLE doomed (version INTEGER PRIMARY KEY, next_chunk INTEGER NOT NULL, checksum INTEGER NOT NULL)",
    "CREATE TABLE kept (version INTEGER PRIMARY KEY, checksum INTEGER NOT NULL)",
    """
    CREATE TABLE members (
        member_id TEXT PRIMARY KEY,
        entry_version INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
)


def statements_of(before: int, version: int) -> list[str]:
    """What makes tables of `version` out of those of the version `before`; 0 is an empty file."""
    first = list(_OLDEST_TABLES) if before == 0 else []
    return first + [
        statement for step in range(before or OLDEST_TABLE_VERSION, version) for statement in _CONVERSIONS[step]
    ]


_S3_COLUMNS: Final = ("stored_ns", "s3_etag", "storage_class")
CHECKED_TABLES: Final = {
    "buckets": ("incarnation", "name", "created_ns", "deleted_index"),
    "files": ("incarnation", "key", "version", "size_bytes", "etag", "content_type", "modified_ns", *_S3_COLUMNS),
    "past": (
        "incarnation",
        "key",
        "version",
        "deleted_index",
        "size_bytes",
        "etag",
        "content_type",
        "modified_ns",
        *_S3_COLUMNS,
    ),
    "tombstones": ("bucket", "key", "deleted_index", "modified_ns"),
    "versions": ("version", "body"),
    "requests": ("request_id", "log_index", "term", "retain_s", "outcome"),
    "nodes": ("node_id", "url", "zone", "state", "capacity_bytes", "admitted_epoch"),
    "runs": ("node_id", "disk_id", "counter", "boot_id", "redis_id", "fence", "superseded", "has_rival"),
    "moments": ("lived_ms", "log_index"),
    "doomed": ("version", "next_chunk"),
    "kept": ("version",),
    "members": ("member_id", "entry_version"),
    "released": ("version", "log_index"),
    "condemned": ("digest", "log_index"),
    "horizons": ("name", "log_index"),
    "backups": ("backup_id", "log_index", "owner", "expires_ms"),
    "drains": ("node_id", "log_index"),
    "older_versions": (
        "incarnation",
        "key",
        "version",
        "version_id",
        "size_bytes",
        "etag",
        "content_type",
        "modified_ns",
        *_S3_COLUMNS,
        "is_marker",
        "is_null",
        "superseded_index",
        "superseded_ms",
        "owner",
    ),
    "bucket_settings": ("incarnation", "log_index", "body"),
    "bucket_documents": ("incarnation", "kind", "log_index", "body"),
    "patches": ("version", "patch_index", "body"),
    "manifests": ("manifest", "size_bytes", "chunk_size_bytes", "chunk_digests"),
    "manifest_refs": ("owner", "manifest"),
    "compositions": ("composition", "body"),
    "composition_refs": ("composition", "version"),
    "uploads": (
        "upload",
        "incarnation",
        "key",
        "nonce",
        "state",
        "is_internal",
        "closed_index",
        "swept",
        "expires_ms",
        "result_version",
        "owner",
        "body",
    ),
    "parts": ("upload", "number", "part", "size_bytes", "etag", "body", "s3"),
    "identities": ("identity", "name", "is_root", "state", "created_ns", "body", "changed_index"),
    "access_keys": (
        "key",
        "identity",
        "slot",
        "state",
        "created_ns",
        "expires_ns",
        "last_used_hour",
        "sealing_key",
        "sealed",
        "bearer_mac",
        "changed_index",
    ),
    "bucket_access": ("incarnation", "changed_index"),
}
"""The tables whose rows end with a checksum that counts in the state's sum: all but `state`, `chunk_refs`, `audit`, `usage`."""

LATER_COLUMNS: Final = {table: len(CHECKED_TABLES[table]) - len(_S3_COLUMNS) for table in ("files", "past")}
"""How many columns a table had before others came behind them, which count in the checksum only where one of them is not NULL:
members that do not know them must come to the same sum."""

USAGE: Final = "usage"
USAGE_COLUMNS: Final = ("kind", "holder", "size_bytes", "files")
BUCKET_USAGE: Final = "bucket"

KEY_LENGTHS: Final = {
    "files": 2,
    "past": 3,
    "tombstones": 2,
    "older_versions": 3,
    "bucket_documents": 2,
    "manifest_refs": 2,
    "composition_refs": 2,
    "parts": 2,
    USAGE: 2,
}
"""How many of a table's first columns are its primary key, where it is not one."""
