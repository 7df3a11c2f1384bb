"""The rows of the tables as values, and the bytes of a version's body.

Stored bytes outlive the process that wrote them, so a body begins with the version of its form.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, Final, NamedTuple

import msgpack
from blake3 import blake3

from services.consensus.metadata.schema import Row
from shared.audit_chain import NO_LINK
from shared.contracts.cluster import NodeRun, NodeState, StorageNode
from shared.contracts.files import FileContent, FileVersion
from shared.contracts.s3 import S3Attributes

_PLAIN_BODY: Final = 1
_BODY: Final = 2
"""With what a version got with entries of version 4. Without any of that the older form is written: members that do not know
those must come to the same bytes."""
_OWNED_BODY: Final = 3
"""The identity that the version belongs to, `OWNER_BYTES` of it, and then as before. It stands in front, so that it can be read
without the chunk list."""

OWNER_BYTES: Final = 32
OWNED_HEAD_BYTES: Final = 1 + OWNER_BYTES

_NO_LATER_FIELDS: Final = (None, True, None, None, None, None)
_S3_FIELD: Final = 18
"""Where `s3` stands in a body that has it."""
STATE_HASH_BYTES: Final = 16
_FIRST_STATE_FIELDS: Final = 10
NO_LATER_STATE: Final = (0, None)
"""The fields of `State` that came with entries of version 4, while they are empty."""
RETENTIONS_S: Final = (600, 3600, 86_400, 7 * 86_400)
"""For how long results can be remembered; what was asked for is rounded up. Few, because each is forgotten by itself."""


class TrailEnd(NamedTuple):
    """A row of the audit trail: its link, and the bytes of all rows up to it since the trail began."""

    log_index: int = 0
    end_bytes: int = 0
    link: bytes = NO_LINK


class TrailEnds(NamedTuple):
    """The audit trail: the kept part follows the `anchor`, and `head` is the last row. See `audit`."""

    anchor: TrailEnd = TrailEnd()
    head: TrailEnd = TrailEnd()


NO_TRAIL: Final = TrailEnds()


@dataclass(frozen=True, slots=True)
class State:
    """What the state machine knows besides its rows.

    Attributes:
        highest_hlc: of every stamp applied; the next one is greater.
        horizon: the index below which lists cannot be pinned.
        tombstone_horizon: the index below which deletions are forgotten.
        lived_ms: for how long leaders have led, in all; never more than has passed (`retention`).
        entry_version: the newest version of entries that may be proposed (`entries`).
        content_sum: the sum of the checksums of all rows (`database`).
        access_index: the index of the newest change of who may do what.
        realm: what secrets are sealed for; None before InitAccess.
        trail: the ends of the audit trail, which is no part of that sum.
    """

    last_applied: int = 0
    last_term: int = 0
    cluster_id: str | None = None
    epoch: int = 0
    highest_hlc: int = 0
    horizon: int = 0
    tombstone_horizon: int = 0
    lived_ms: int = 0
    entry_version: int = 1
    content_sum: int = 0
    access_index: int = 0
    realm: str | None = None
    trail: TrailEnds = NO_TRAIL

    def digest(self) -> str:
        """The state hash: equal on members that have applied the same entries, different otherwise, but for 2^-64."""
        fields = astuple(self)[:_FIRST_STATE_FIELDS] + self.later()
        packed = msgpack.packb(fields if self.trail == NO_TRAIL else (*fields, self.trail))
        return blake3(packed).hexdigest(length=STATE_HASH_BYTES)

    def later(self) -> Row:
        """What counts of the fields that came with entries of version 4: nothing as long as all of them are empty.

        Members that do not know these fields must come to the same state hash.
        """
        later = (self.access_index, self.realm)
        return () if later == NO_LATER_STATE else later


@dataclass(frozen=True, slots=True)
class BucketRow:
    """A bucket that exists."""

    incarnation: int
    name: str
    created_ns: int


class FileRow(NamedTuple):
    """What a list shows of one version of a file. `stored_ns` is None where it is `modified_ns`."""

    key: bytes
    version: int
    size_bytes: int
    etag: str
    content_type: str
    modified_ns: int
    stored_ns: int | None = None
    s3_etag: str | None = None
    storage_class: str | None = None

    @classmethod
    def of(cls, version: FileVersion, *, has_stored_ns: bool) -> FileRow:
        """Of the current version of a key. Before entries of version 4 rows have no `stored_ns`."""
        stored_ns = version.stored_ns if has_stored_ns else version.modified_ns
        s3 = version.s3
        return cls(
            version.key.encode(),
            version.version,
            version.content.size_bytes,
            version.etag,
            version.content_type,
            version.modified_ns,
            None if stored_ns == version.modified_ns else stored_ns,
            None if s3 is None else s3.etag,
            None if s3 is None else s3.storage_class,
        )


class PastRow(NamedTuple):
    """A version that was superseded or deleted by `deleted_index`."""

    incarnation: int
    key: bytes
    version: int
    deleted_index: int
    size_bytes: int
    etag: str
    content_type: str
    modified_ns: int
    stored_ns: int | None
    s3_etag: str | None
    storage_class: str | None


class TombstoneRow(NamedTuple):
    """The last trace of a key that is absent: when it was deleted and what its Last-Modified was."""

    bucket: str
    key: bytes
    deleted_index: int
    modified_ns: int


class BackupRow(NamedTuple):
    """A backup under way: `expires_ms` is an age of the log's own clock."""

    backup_id: str
    log_index: int
    owner: str
    expires_ms: int

    def is_living(self, lived_ms: int) -> bool:
        """Whether its lease goes on."""
        return self.expires_ms > lived_ms


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A storage node. `admitted_epoch`: its incarnation, the first epoch of its present admission with its present disk."""

    node_id: str
    url: str
    zone: str
    state: NodeState
    capacity_bytes: int
    admitted_epoch: int

    def columns(self) -> Row:
        """As the table has it."""
        return self.node_id, self.url, self.zone, self.state.value, self.capacity_bytes, self.admitted_epoch

    def to_wire(self, draining_since: int | None) -> StorageNode:
        """As the node map shows it; what is used is known to the leader from heartbeats, not to the log."""
        return StorageNode(
            id=self.node_id,
            url=self.url,
            zone=self.zone,
            state=self.state,
            capacity_bytes=self.capacity_bytes,
            incarnation=self.admitted_epoch,
            draining_since=draining_since,
        )


@dataclass(frozen=True, slots=True)
class RunRow:
    """The run of a storage node that was recorded last; see `shared.contracts.cluster.NodeRun`.

    Attributes:
        redis_id: the last that was known.
        fence: the epoch in which the node's Redis was replaced last; 0 when it never was.
        superseded: boot ids of earlier runs, the latest first, `decisions.MAX_SUPERSEDED` at most.
        has_rival: one of them was heard of since this run was recorded.
    """

    node_id: str
    disk_id: str
    counter: int
    boot_id: str
    redis_id: str | None
    fence: int
    superseded: tuple[str, ...]
    has_rival: bool = False

    @classmethod
    def of(cls, columns: Row) -> RunRow:
        """The inverse of `columns`."""
        node_id, disk_id, counter, boot_id, redis_id, fence, superseded, has_rival = columns
        return cls(node_id, disk_id, counter, boot_id, redis_id, fence, tuple(superseded.split()), bool(has_rival))

    def describes(self, run: NodeRun) -> bool:
        """Whether `run` says nothing that is not recorded."""
        return (self.disk_id, self.counter, self.boot_id, run.redis_id or self.redis_id) == (
            run.disk_id,
            run.counter,
            run.boot_id,
            self.redis_id,
        )

    def columns(self) -> Row:
        """As the table has it."""
        return (*astuple(self)[:-2], " ".join(self.superseded), int(self.has_rival))


class RequestRow(NamedTuple):
    """The stored result of a proposal. `outcome` is what `outcomes` made of it."""

    request_id: str
    log_index: int
    term: int
    retain_s: int
    outcome: bytes


def encode_version(version: FileVersion) -> bytes:
    """The body of a row of `versions`: form, then the fields by position (names would double a small row).

    Tags are not part of it: they change, and stand in `patches`.
    """
    content, durability, stamp = version.content, version.durability, version.stamp
    later = (
        version.version_id,
        version.is_null,
        version.created_ns,
        None if version.content_id is None else bytes.fromhex(version.content_id),
        content.composition,
        content.composed_chunks,
    )
    is_plain = later == _NO_LATER_FIELDS and content.digest is not None and version.owner is None and version.s3 is None
    digest = None if content.digest is None else bytes.fromhex(content.digest)
    packed: bytes = msgpack.packb(
        (
            version.bucket,
            version.key,
            version.version,
            version.term,
            version.etag,
            (content.size_bytes, content.chunk_size_bytes, content.chunk_digests, digest),
            version.content_type,
            version.user_metadata,
            version.epoch,
            (durability.target, durability.acknowledged, durability.nodes),
            (stamp.earliest_ns, stamp.latest_ns, stamp.hlc, stamp.state.value),
            version.modified_ns,
            *(() if is_plain else later),
            *(() if version.s3 is None else (s3_fields(version.s3),)),
        )
    )
    if version.owner is not None:
        return bytes((_OWNED_BODY,)) + bytes.fromhex(version.owner) + packed
    return bytes((_PLAIN_BODY if is_plain else _BODY,)) + packed


def decode_owner(head: bytes) -> bytes | None:
    """The identity that a version belongs to, out of the first `OWNED_HEAD_BYTES` of its body."""
    return head[1:OWNED_HEAD_BYTES] if head[0] == _OWNED_BODY else None


def decode_content(body: bytes) -> FileContent:
    """Only the content of `decode_version`, at a fraction of what the whole costs."""
    # Checked when it was published.
    return FileContent.model_construct(**_content_of(_fields_of(body)))


def decode_details(body: bytes) -> tuple[str | None, dict[str, str]]:
    """Only digest and user metadata of `decode_version`."""
    fields = _fields_of(body)
    digest = fields[5][3]
    return None if digest is None else digest.hex(), fields[7]


class VersionIdentity(NamedTuple):
    """What a version is among those of its key, and whose it is; see `FileVersion`."""

    version_id: int | None
    is_null: bool
    created_ns: int | None
    owner: bytes | None = None


def decode_identity(body: bytes) -> VersionIdentity:
    """Only the identity of `decode_version`."""
    if body[0] == _PLAIN_BODY:
        return VersionIdentity(*_NO_LATER_FIELDS[:3])
    version_id, is_null, created_ns = _fields_of(body)[12:15]
    return VersionIdentity(version_id, is_null, created_ns, decode_owner(body))


def decode_version(body: bytes) -> FileVersion:
    """The inverse of `encode_version`; without tags."""
    fields = _fields_of(body)
    target, acknowledged, nodes = fields[9]
    earliest_ns, latest_ns, hlc, state = fields[10]
    version_id, is_null, created_ns, content_id = fields[12:16] or _NO_LATER_FIELDS[:4]
    # Validated in one step: a model for each part by itself takes twice as long.
    return FileVersion.model_validate(
        {
            "bucket": fields[0],
            "key": fields[1],
            "version": fields[2],
            "term": fields[3],
            "etag": fields[4],
            "content": _content_of(fields),
            "content_type": fields[6],
            "user_metadata": fields[7],
            "epoch": fields[8],
            "durability": {"target": target, "acknowledged": acknowledged, "nodes": nodes},
            "stamp": {"earliest_ns": earliest_ns, "latest_ns": latest_ns, "hlc": hlc, "state": state},
            "modified_ns": fields[11],
            "version_id": version_id,
            "is_null": is_null,
            "created_ns": created_ns,
            "content_id": None if content_id is None else content_id.hex(),
            "owner": None if (owner := decode_owner(body)) is None else owner.hex(),
            "s3": None if len(fields) <= _S3_FIELD else s3_of(fields[_S3_FIELD]),
        }
    )


def s3_fields(s3: S3Attributes) -> Row:
    """By position, as bodies have them."""
    return s3.etag, s3.checksums, s3.checksum_type, s3.headers, s3.storage_class, s3.part_sizes


def s3_of(fields: Row) -> dict[str, Any]:
    """The inverse of `s3_fields`, to be validated."""
    return dict(zip(S3Attributes.model_fields, fields, strict=True))


def _content_of(fields: Any) -> dict[str, Any]:
    size_bytes, chunk_size_bytes, chunk_digests, digest = fields[5]
    composition, composed_chunks = fields[16:18] or _NO_LATER_FIELDS[4:]
    return {
        "size_bytes": size_bytes,
        "chunk_size_bytes": chunk_size_bytes,
        "chunk_digests": chunk_digests,
        "digest": None if digest is None else digest.hex(),
        "composition": composition,
        "composed_chunks": composed_chunks,
    }


def _fields_of(body: bytes) -> Any:
    assert body[0] in {_PLAIN_BODY, _BODY, _OWNED_BODY}, "the version of the tables says which forms they hold"
    return msgpack.unpackb(memoryview(body)[OWNED_HEAD_BYTES if body[0] == _OWNED_BODY else 1 :])
