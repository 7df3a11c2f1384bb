"""The rows of the present: reading and writing buckets, files, versions, requests, nodes and members.

What was and is not yet forgotten, what is garbage, what is kept of older versions, what buckets are set to, who may do what, who
changed what and what files are made of have modules of their own (`history`, `garbage`, `older_versions`, `bucket_records`,
`access_records`, `audit`, `manifests`, `upload_records`); these and `database` are the only ones that speak SQL.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from services.consensus.metadata.audit import read_ends
from services.consensus.metadata.database import (
    Database,
    RowDamagedError,
    UnknownTablesError,
    checked,
    checked_all,
    row_checksum,
)
from services.consensus.metadata.rows import (
    NO_LATER_STATE,
    OWNED_HEAD_BYTES,
    RETENTIONS_S,
    BucketRow,
    FileRow,
    NodeRow,
    RequestRow,
    RunRow,
    State,
    VersionIdentity,
    decode_content,
    decode_details,
    decode_identity,
    decode_owner,
    decode_version,
    encode_version,
)
from services.consensus.metadata.schema import Row
from services.consensus.metadata.usage import UsageCounters
from shared.contracts.cluster import NodeState
from shared.contracts.files import FileContent, FileVersion
from shared.contracts.names import DIGEST_BYTES
from shared.errors import InvalidRequestError
from shared.units import MIB

WRITER_CACHE_BYTES: Final = 64 * MIB
READER_CACHE_BYTES: Final = 16 * MIB

_SIGN: Final = 1 << 63
# Whatever columns there are: tables of older versions have fewer, and are read by those who must not change them.
_STATE: Final = "SELECT * FROM state"
_WRITE_STATE: Final = "INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_STATE_CHECKSUM: Final = 11
"""Where its checksum stands; the columns behind it came later."""
_FILES: Final = (
    "SELECT incarnation, key, version, size_bytes, etag, content_type, modified_ns, stored_ns, s3_etag, storage_class, "
    "checksum FROM files WHERE incarnation=?"
)
# Bodies that have a page of their own, or many, are read by themselves where they are needed. The order of the joins is that of
# the text: without statistics the planner might walk over the bucket.
_IDENTIFIED_FILES: Final = (
    "WITH asked(key) AS (VALUES {values}) SELECT incarnation, files.key, version, size_bytes, etag, content_type, "
    "modified_ns, stored_ns, s3_etag, storage_class, files.checksum, CASE WHEN length(body)<=2048 THEN body END, "
    "versions.checksum FROM asked CROSS JOIN files ON incarnation=? AND files.key=asked.key "
    "LEFT JOIN versions USING (version)"
)
# Here and below one seek for each digest, however many versions refer to it.
_REFERENCED: Final = (
    "WITH asked(digest) AS (VALUES {values}) SELECT digest FROM asked "
    "WHERE EXISTS (SELECT 1 FROM chunk_refs WHERE chunk_refs.digest=asked.digest)"
)
_REFERENCED_CHUNKS: Final = (
    "WITH RECURSIVE found(digest) AS (SELECT min(digest) FROM chunk_refs WHERE digest>?1 UNION ALL "
    "SELECT (SELECT min(digest) FROM chunk_refs WHERE digest>found.digest) FROM found WHERE digest IS NOT NULL LIMIT ?2) "
    "SELECT digest, (SELECT size_bytes FROM chunk_refs WHERE chunk_refs.digest=found.digest LIMIT 1) FROM found "
    "WHERE digest IS NOT NULL"
)
_SHORT_BODIES: Final = (
    "SELECT version, body, checksum FROM versions WHERE version IN (VALUES {values}) AND length(body)<=2048"
)
_PATCHES: Final = "SELECT version, patch_index, body, checksum FROM patches WHERE version IN (VALUES {values})"
_REMEMBERED: Final = "SELECT log_index FROM requests WHERE log_index IN (VALUES {values}) AND retain_s=?"
_VERSIONS_BETWEEN: Final = (
    "SELECT version, body, versions.checksum, doomed.next_chunk, doomed.checksum, kept.version IS NOT NULL FROM versions "
    "LEFT JOIN doomed USING (version) LEFT JOIN kept USING (version) WHERE version>? AND version<=? ORDER BY version"
)


class Tables:
    """The rows of one connection."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.usage = UsageCounters(database)
        self._execute = database.execute
        self._one = database.one
        self._insert = database.insert
        self._remove = database.remove

    @classmethod
    def open(cls, path: Path, *, cache_bytes: int, converts: bool = True) -> Tables:
        """See `Database.open`."""
        tables = cls(Database.open(path, cache_bytes=cache_bytes, converts=converts))
        if not tables._one("SELECT 1 FROM state"):
            with tables.database.transaction(write=True):
                tables.write_state(State())
        return tables

    # --- state ----------------------------------------------------------------------------------------------------

    def read_state(self, *, with_trail: bool = True) -> State:
        """The row `state`, and the ends of the audit trail: without them its digest says nothing. Raises RowDamagedError."""
        row = self._one(_STATE)
        if row is None:
            raise UnknownTablesError("the table `state` is empty")
        _, *columns, checksum = row[: _STATE_CHECKSUM + 1]
        later = row[_STATE_CHECKSUM + 1 :]
        counted = () if later == NO_LATER_STATE else later
        checked("state", (*columns, *counted, checksum))
        last_applied, last_term, cluster_id, epoch, highest_hlc, *rest = columns
        state = State(last_applied, last_term, cluster_id, epoch, highest_hlc + _SIGN, *rest, *later)
        return replace(state, trail=read_ends(self.database)) if with_trail and self._has_trail() else state

    def _has_trail(self) -> bool:
        """Not in the tables of an earlier version, where they are only read."""
        return self._one("SELECT 1 FROM sqlite_master WHERE type='table' AND name='audit'") is not None

    def write_state(self, state: State) -> None:
        """Replace the row `state`. The audit trail is written by itself."""
        columns = (
            state.last_applied,
            state.last_term,
            state.cluster_id,
            state.epoch,
            state.highest_hlc - _SIGN,
            state.horizon,
            state.tombstone_horizon,
            state.lived_ms,
            state.entry_version,
            state.content_sum,
        )
        checksum = row_checksum("state", (*columns, *state.later()))
        self._execute(_WRITE_STATE, (*columns, checksum, state.access_index, state.realm))

    # --- buckets --------------------------------------------------------------------------------------------------

    def bucket(self, name: str, at_index: int | None = None) -> BucketRow | None:
        """The bucket of that name that exists now, or that existed at `at_index`."""
        select = "SELECT incarnation, name, created_ns, deleted_index, checksum FROM buckets WHERE name=? AND "
        if at_index is None:
            row = self._one(f"{select} deleted_index IS NULL", (name,))
        else:
            row = self._one(
                f"{select} incarnation<=? AND (deleted_index IS NULL OR deleted_index>?)", (name, at_index, at_index)
            )
        return None if row is None else BucketRow(*checked("buckets", row)[:3])

    def buckets(self, after: str, limit: int) -> list[BucketRow]:
        """The first `limit` buckets that exist and whose names come after `after`, by name."""
        rows = self._execute(
            "SELECT incarnation, name, created_ns, deleted_index, checksum FROM buckets "
            "WHERE deleted_index IS NULL AND name>? ORDER BY name LIMIT ?",
            (after, limit),
        )
        return [BucketRow(*checked("buckets", row)[:3]) for row in rows]

    def bucket_count(self) -> int:
        """How many buckets exist; a scan of them."""
        row = self._one("SELECT COUNT(*) FROM buckets WHERE deleted_index IS NULL")
        return 0 if row is None else int(row[0])

    def insert_bucket(self, bucket: BucketRow) -> None:
        """A new bucket."""
        self._insert("buckets", bucket.incarnation, bucket.name, bucket.created_ns, None)

    def end_bucket(self, bucket: BucketRow, deleted_index: int) -> None:
        """The bucket exists no longer; its row stays for lists pinned to an earlier index."""
        columns = bucket.incarnation, bucket.name, bucket.created_ns
        self._remove("buckets", *columns, None)
        self._insert("buckets", *columns, deleted_index)

    def has_files(self, incarnation: int) -> bool:
        """Whether any file exists in the bucket."""
        return self._one("SELECT 1 FROM files WHERE incarnation=? LIMIT 1", (incarnation,)) is not None

    # --- files ----------------------------------------------------------------------------------------------------

    def file(self, incarnation: int, key: bytes) -> FileRow | None:
        """The file that exists under `key` now."""
        row = self._one(f"{_FILES} AND key=?", (incarnation, key))
        return None if row is None else FileRow(*checked("files", row)[1:])

    def identified_files(
        self, incarnation: int, keys: Iterable[bytes], *, is_owner_enough: bool
    ) -> dict[bytes, tuple[FileRow, VersionIdentity]]:
        """`file` of many keys, with `identity`, or with `owner` alone; by key, and without those that are absent."""
        rows = list(self.database.matching(_IDENTIFIED_FILES, keys, incarnation))
        found: dict[bytes, tuple[FileRow, VersionIdentity]] = {}
        for columns, (*_, body, checksum) in zip(checked_all("files", [row[:-2] for row in rows]), rows, strict=True):
            file = FileRow._make(columns[1:])
            if is_owner_enough:
                owner = self.owner(file.version) if body is None else decode_owner(body)
                identity = VersionIdentity(None, True, None, owner)
            elif body is None:
                identity = self.identity(file.version)
            else:
                identity = decode_identity(checked("versions", (file.version, body, checksum))[1])
            found[file.key] = file, identity
        return found

    def scan_files(self, incarnation: int, lower: bytes, upper: bytes) -> Iterator[FileRow]:
        """Files with lower <= key < upper by key; rows are fetched as they are taken."""
        rows = self._execute(f"{_FILES} AND key>=? AND key<? ORDER BY key", (incarnation, lower, upper))
        try:
            for columns in checked_all("files", rows):
                yield FileRow._make(columns[1:])
        finally:
            rows.close()

    def version(self, version: int) -> FileVersion:
        """Everything about one version. Raises RowDamagedError."""
        return decode_version(self.version_body(version))

    def details(self, version: int) -> tuple[str | None, dict[str, str]] | None:
        """Its digest and its user metadata; None once it is gone."""
        row = self._one("SELECT version, body, checksum FROM versions WHERE version=?", (version,))
        return None if row is None else decode_details(checked("versions", row)[1])

    def identity(self, version: int) -> VersionIdentity:
        """What it is among the versions of its key. Raises RowDamagedError."""
        return decode_identity(self.version_body(version))

    def owner(self, version: int) -> bytes | None:
        """The identity that it belongs to. Only the head of its body is read, and not checked: that may be a long chunk list."""
        with self.database.connection.blobopen("versions", "body", version, readonly=True) as body:
            return decode_owner(body.read(OWNED_HEAD_BYTES))

    def version_body(self, version: int) -> bytes:
        """The stored form. Raises RowDamagedError: it is not there, although a row says so, or not what was written."""
        row = self._one("SELECT version, body, checksum FROM versions WHERE version=?", (version,))
        if row is None:
            raise RowDamagedError(f"version {version} is not in the table `versions`")
        body: bytes = checked("versions", row)[1]
        return body

    def readable_content(self, version: int) -> FileContent | None:
        """What a version refers to as long as it keeps all of its references; None from when it began to drop them."""
        row = self._one(
            "SELECT version, body, checksum FROM versions WHERE version=?1 AND NOT EXISTS (SELECT 1 FROM doomed WHERE "
            "version=?1) AND NOT EXISTS (SELECT 1 FROM kept WHERE version=?1)",
            (version,),
        )
        return None if row is None else decode_content(checked("versions", row)[1])

    def insert_version(self, incarnation: int, version: FileVersion, *, has_stored_ns: bool) -> None:
        """Make `version` the present one of its key. One that it supersedes has been moved away before."""
        content = version.content
        self._insert("versions", version.version, encode_version(version))
        self._insert("files", incarnation, *FileRow.of(version, has_stored_ns=has_stored_ns))
        self.usage.add_version(incarnation, owner_of(version), content.size_bytes)
        if content.composition is None:
            self.insert_refs(version.version, distinct_chunks(content))
        else:
            self._insert("composition_refs", content.composition, version.version)

    def insert_refs(self, chunk_list: int, refs: list[tuple[bytes, int]]) -> None:
        """The chunk list that was logged at that index, of a version or a manifest, refers to these chunks."""
        self._execute_many(
            "INSERT INTO chunk_refs VALUES (?, ?, ?)", ((digest, chunk_list, size) for digest, size in refs)
        )
        self.database.content_sum += refs_sum(chunk_list, refs)

    def _execute_many(self, statement: str, rows: Iterable[Row]) -> None:
        self.database.connection.executemany(statement, rows)

    def short_bodies(self, versions: Iterable[int]) -> dict[int, bytes]:
        """`version_body` of those that have one of a few dozen chunks at most, and of no other."""
        rows = self.database.matching(_SHORT_BODIES, versions)
        return dict(checked_all("versions", rows))

    def remove_versions(self, bodies: Mapping[int, bytes]) -> None:
        """Forget everything about these versions but their chunk references."""
        patches = [checked("patches", row) for row in self.database.matching(_PATCHES, bodies)]
        self.database.remove_many("patches", patches)
        self.database.remove_many("versions", list(bodies.items()))

    def remove_refs(self, *dropped: tuple[int, list[tuple[bytes, int]]]) -> None:
        """Drop some of the chunk references of versions or manifests, each with those of its own."""
        self._execute_many(
            "DELETE FROM chunk_refs WHERE digest=? AND version=?",
            [(digest, chunk_list) for chunk_list, refs in dropped for digest, _ in refs],
        )
        self.database.content_sum -= sum(refs_sum(chunk_list, refs) for chunk_list, refs in dropped)

    def remove_file(self, incarnation: int, file: FileRow, owner: bytes | None) -> None:
        """The present row of a key, whose version belongs to `owner`; `history` keeps it."""
        self._remove("files", incarnation, *file)
        self.usage.remove_version(incarnation, owner, file.size_bytes)

    def remove_files(self, incarnation: int, owned: Sequence[tuple[FileRow, bytes | None]]) -> None:
        """`remove_file` of many, each with the owner of its version."""
        self.database.remove_many("files", [(incarnation, *file) for file, _ in owned])
        self.usage.remove_versions(incarnation, ((owner, file.size_bytes) for file, owner in owned))

    def chunks(self) -> Iterator[tuple[bytes, int]]:
        """(digest, size in bytes) of every reference, in the order of the digests; rows are fetched as they are taken."""
        yield from self._execute("SELECT digest, size_bytes FROM chunk_refs ORDER BY digest, version")

    def referenced(self, digests: Iterable[bytes]) -> set[bytes]:
        """Those of the chunks that any version refers to."""
        return {digest for (digest,) in self.database.matching(_REFERENCED, digests)}

    def referenced_chunks(self, after: bytes, limit: int) -> list[tuple[bytes, int]]:
        """(digest, size in bytes) of the first `limit` chunks after `after`, each once, in the order of the digests."""
        found: list[tuple[bytes, int]] = self._execute(_REFERENCED_CHUNKS, (after, limit)).fetchall()
        return found

    def versions_between(
        self, after_index: int, end: int
    ) -> Generator[tuple[int, FileContent | None, int], None, None]:
        """(version, content, number of its chunk references dropped already) of those after the one and up to the other index.

        Content is None where no reference is left. Rows are fetched as they are taken.
        """
        rows = self._execute(_VERSIONS_BETWEEN, (after_index, end))
        try:
            for version, body, checksum, dropped, doomed_checksum, is_kept in rows:
                if is_kept:
                    yield version, None, 0
                    continue
                content = decode_content(checked("versions", (version, body, checksum))[1])
                if dropped is not None:
                    checked("doomed", (version, dropped, doomed_checksum))
                yield version, content, dropped or 0
        finally:
            rows.close()

    # --- requests -------------------------------------------------------------------------------------------------

    def request(self, request_id: str) -> RequestRow | None:
        """The stored result of a proposal."""
        row = self._one(
            "SELECT request_id, log_index, term, retain_s, outcome, checksum FROM requests WHERE request_id=?",
            (request_id,),
        )
        return None if row is None else RequestRow(*checked("requests", row))

    def insert_request(self, row: RequestRow) -> None:
        """Remember a result."""
        self._insert("requests", row.request_id, row.log_index, row.term, row.retain_s, row.outcome)

    def oldest_requests(self, retain_s: int, up_to_index: int, limit: int) -> list[RequestRow]:
        """Results of that retention, none above `up_to_index`."""
        rows = self._execute(
            "SELECT request_id, log_index, term, retain_s, outcome, checksum FROM requests "
            "WHERE retain_s=? AND log_index<=? ORDER BY log_index LIMIT ?",
            (retain_s, up_to_index, limit),
        )
        return list(map(RequestRow._make, checked_all("requests", rows.fetchall())))

    def remove_requests(self, rows: Sequence[RequestRow]) -> None:
        """Forget these results."""
        self.database.remove_many("requests", rows)

    def remembered(self, log_indexes: Collection[int]) -> set[int]:
        """Those of the entries whose results are remembered."""
        return {
            log_index
            for retain_s in RETENTIONS_S
            for (log_index,) in self.database.matching(_REMEMBERED, log_indexes, retain_s)
        }

    # --- nodes and members ----------------------------------------------------------------------------------------

    def nodes(self) -> list[NodeRow]:
        """All storage nodes, by id."""
        rows = self._execute(
            "SELECT node_id, url, zone, state, capacity_bytes, admitted_epoch, checksum FROM nodes ORDER BY node_id"
        )
        found = (checked("nodes", row) for row in rows)
        return [NodeRow(row[0], row[1], row[2], NodeState(row[3]), row[4], row[5]) for row in found]

    def insert_node(self, node: NodeRow) -> None:
        """A node that is not there."""
        self._insert("nodes", *node.columns())

    def remove_node(self, node: NodeRow) -> None:
        """Take a node out."""
        self._remove("nodes", *node.columns())

    def runs(self) -> dict[str, RunRow]:
        """The run of each storage node that was recorded last."""
        rows = self._execute(
            "SELECT node_id, disk_id, counter, boot_id, redis_id, fence, superseded, has_rival, checksum FROM runs "
            "ORDER BY node_id"
        )
        found = (checked("runs", row) for row in rows)
        return {row[0]: RunRow.of(row) for row in found}

    def insert_run(self, run: RunRow) -> None:
        """One of a node that has none."""
        self._insert("runs", *run.columns())

    def remove_run(self, run: RunRow) -> None:
        """Take a run out."""
        self._remove("runs", *run.columns())

    def drains(self) -> dict[str, int]:
        """Since which log index each draining node drains, where that is known."""
        rows = self._execute("SELECT node_id, log_index, checksum FROM drains ORDER BY node_id")
        return dict(checked("drains", row) for row in rows)

    def set_drain(self, node_id: str, log_index: int | None) -> None:
        """Since when a node drains; None when it does not."""
        row = self._one("SELECT node_id, log_index, checksum FROM drains WHERE node_id=?", (node_id,))
        if row is not None:
            self._remove("drains", *checked("drains", row))
        if log_index is not None:
            self._insert("drains", node_id, log_index)

    def members(self) -> dict[str, int]:
        """The newest entry version that each consensus member said it can apply."""
        rows = self._execute("SELECT member_id, entry_version, checksum FROM members ORDER BY member_id")
        return dict(checked("members", row) for row in rows)

    def set_member(self, member_id: str, entry_version: int | None) -> None:
        """What a member announced; None when it left."""
        row = self._one("SELECT member_id, entry_version, checksum FROM members WHERE member_id=?", (member_id,))
        if row is not None:
            self._remove("members", *checked("members", row))
        if entry_version is not None:
            self._insert("members", member_id, entry_version)


def owner_of(version: FileVersion) -> bytes | None:
    """The identity that it belongs to, as rows have it."""
    return None if version.owner is None else bytes.fromhex(version.owner)


def distinct_chunks(content: FileContent) -> list[tuple[bytes, int]]:
    """(digest, size in bytes) of every chunk of a file, each once, in file order."""
    raw, full = content.chunk_digests, content.chunk_size_bytes
    sizes = {raw[at : at + DIGEST_BYTES]: full for at in range(0, len(raw), DIGEST_BYTES)}
    if raw:
        last = raw[-DIGEST_BYTES:]
        sizes[last] = min(sizes[last], content.size_bytes - full * (content.chunk_count - 1))
    return list(sizes.items())


def split_digests(raw: bytes) -> list[bytes]:
    """The digests in a concatenation of them.

    Raises:
        InvalidRequestError: its length is none of whole digests.
    """
    if len(raw) % DIGEST_BYTES:
        raise InvalidRequestError("These are not digests of 32 bytes each.", length_bytes=len(raw))
    return [raw[at : at + DIGEST_BYTES] for at in range(0, len(raw), DIGEST_BYTES)]


def refs_sum(version: int, refs: Iterable[tuple[bytes, int]]) -> int:
    """What chunk references count in the state's sum. A digest is random enough to need no hash of its own."""
    factor = 2 * version + 1
    return sum((int.from_bytes(digest[:8], "little") + size) * factor for digest, size in refs)
