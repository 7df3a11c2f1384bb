"""What the store says, typed. Fields that this version does not know are ignored, so that a newer store can be asked.

Sizes are in bytes, moments are aware datetimes, and an etag has no quotes. `None` stands for what is not known, or not there.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all."""


class Timestamp(Model, frozen=True, kw_only=True):
    """A moment as the cluster knows it: true time lies from `earliest` to `latest`; `hlc` is a hybrid logical timestamp.

    Attributes:
        state: SYNCED, HOLDOVER, LOGICAL (no interval) or INIT.
    """

    earliest: datetime | None = None
    latest: datetime | None = None
    hlc: str
    state: str


class TimeNow(Model, frozen=True, kw_only=True):
    """What time it is, and how surely: `uncertainty_us` is the width of the interval in microseconds."""

    timestamp: Timestamp
    uncertainty_us: int | None = None


class Durability(Model, frozen=True, kw_only=True):
    """Of `target` replicas, `acknowledged` were on disk, on `nodes`, when the receipt was written."""

    target: int
    acknowledged: int
    nodes: list[str]


class Receipt(Model, frozen=True, kw_only=True):
    """A version that was stored: durable, and in the order of all changes.

    Attributes:
        version: the place in the log; `version=` of other calls takes it.
        digest: BLAKE3 of all bytes, hex; None of a file that was made of parts.
        content_id: names the content by its pieces.
    """

    bucket: str
    key: str
    version: int
    etag: str
    size_bytes: int
    digest: str | None = None
    content_id: str
    chunk_count: int
    log_index: int
    term: int
    timestamp: Timestamp
    durability: Durability


class CopyReceipt(Receipt, frozen=True, kw_only=True):
    """A version that is a copy of `source_version`."""

    source_version: int


class Deleted(Model, frozen=True, kw_only=True):
    """A file or version that was deleted.

    Attributes:
        version: log index that last changed the key; of a marker that was written, its version.
        is_marker: a delete marker was written, or removed.
    """

    version: int
    is_marker: bool


class FileInfo(Model, frozen=True, kw_only=True):
    """What the store says about one version of a file.

    Attributes:
        size_bytes: of the whole file, whatever range was asked for.
        version: what `version=` of other calls takes.
        log_index: of the entry that made it the current version last.
        modified: None where an older store left it out, as it may for a second.
        replicas_confirmed: proved replicas of the weakest chunk; None where nobody asked.
        confirmation_age_s: age of the oldest confirmation that counts.
    """

    bucket: str
    key: str
    size_bytes: int
    etag: str
    digest: str | None = None
    content_id: str | None = None
    version: int
    log_index: int
    modified: datetime | None = None
    content_type: str
    user_metadata: dict[str, str]
    replicas_confirmed: int | None = None
    confirmation_age_s: int | None = None


class ListedFile(Model, frozen=True, kw_only=True):
    """One file of a list.

    Attributes:
        path_unsafe: S3 put this key, and no path can name it: copy, rename, restore and delete it (`delete_many`).
        digest, user_metadata: where the list was asked for details.
    """

    key: str
    size_bytes: int
    etag: str
    version: int
    content_type: str
    modified: datetime
    path_unsafe: bool = False
    digest: str | None = None
    user_metadata: dict[str, str] | None = None


class Prefix(Model, frozen=True, kw_only=True):
    """Keys that share everything up to a delimiter, as one row of a list."""

    prefix: str


class FilePage(Model, frozen=True, kw_only=True):
    """One page of a list; `cursor` is None on the last. All pages of one list show one log index."""

    files: list[ListedFile]
    prefixes: list[str]
    cursor: str | None = None
    log_index: int


class ListedVersion(Model, frozen=True, kw_only=True):
    """One version, or a delete marker, which has no bytes."""

    key: str
    version: int
    log_index: int
    is_current: bool
    is_marker: bool
    is_null: bool
    size_bytes: int
    etag: str | None = None
    content_type: str | None = None
    modified: datetime
    path_unsafe: bool = False


class VersionPage(Model, frozen=True, kw_only=True):
    """One page of versions; `cursor` is None on the last."""

    versions: list[ListedVersion]
    prefixes: list[str]
    cursor: str | None = None
    log_index: int


class Bucket(Model, frozen=True, kw_only=True):
    """A bucket; `incarnation` is the log index that made it."""

    name: str
    incarnation: int
    created: datetime


class BucketCreated(Model, frozen=True, kw_only=True):
    """The bucket exists; `created` is false when it did before."""

    name: str
    incarnation: int
    created: bool


class BucketPage(Model, frozen=True, kw_only=True):
    """One page of buckets, by name; `cursor` is None on the last."""

    buckets: list[Bucket]
    cursor: str | None = None
    log_index: int


class Usage(Model, frozen=True, kw_only=True):
    """How much there is: all versions that have bytes, and the bytes of parts of uploads under way."""

    size_bytes: int
    files: int


class BucketSettings(Model, frozen=True, kw_only=True):
    """The settings of a bucket.

    Attributes:
        versioning: off, enabled or suspended.
        superseded_retention_s: how long a version is kept once it is not the current one; None for ever.
        quota_bytes, quota_files: None for no limit.
        usage: None in the answer to a change.
    """

    bucket: str
    log_index: int
    versioning: str = "off"
    superseded_retention_s: int | None = None
    quota_bytes: int | None = None
    quota_files: int | None = None
    usage: Usage | None = None


class Tags(Model, frozen=True, kw_only=True):
    """The tags of one version; `patch_index` is the log index that last changed them."""

    bucket: str
    key: str
    version: int
    tags: dict[str, str]
    patch_index: int


class UploadBegun(Model, frozen=True, kw_only=True):
    """An upload that takes parts."""

    upload_id: str
    bucket: str
    key: str


class PartReceipt(Model, frozen=True, kw_only=True):
    """A part that is durable. `etag` is the BLAKE3 of its bytes, hex, where they were sent and not copied."""

    number: int
    etag: str
    size_bytes: int
    part: int


class ListedPart(PartReceipt, frozen=True, kw_only=True):
    """One part of an upload under way."""

    modified: datetime


class UploadInfo(UploadBegun, frozen=True, kw_only=True):
    """An upload under way, as a list shows it."""

    content_type: str
    user_metadata: dict[str, str]
    tags: dict[str, str]
    created: datetime
    expires_in_s: int | None = None
    path_unsafe: bool = False


class Upload(UploadInfo, frozen=True, kw_only=True):
    """An upload under way, with a page of its parts; `next_after` is None on the last."""

    parts: list[ListedPart]
    next_after: int | None = None


class UploadPage(Model, frozen=True, kw_only=True):
    """One page of uploads under way; `cursor` is None on the last."""

    uploads: list[UploadInfo]
    prefixes: list[str]
    cursor: str | None = None


class DeletedRow(Model, frozen=True, kw_only=True):
    """What became of one file of `delete_many`; `problem` says why it was not deleted."""

    key: str
    version: int
    is_marker: bool
    removed_version: int | None = None
    problem: dict[str, Any] | None = None


class BatchDeleted(Model, frozen=True, kw_only=True):
    """In the order of the request."""

    results: list[DeletedRow]
    log_index: int


class Scope(Model, frozen=True, kw_only=True):
    """Actions on the files of a bucket, or of all (`*`), below a prefix.

    Attributes:
        actions: of read, write, delete, list, bucket-admin, cluster-admin.
        prefix: empty, or it ends with `/`.
        effect: allow, or deny, which wins.
    """

    actions: list[str]
    bucket: str
    prefix: str = ""
    effect: str = "allow"


class Limits(Model, frozen=True, kw_only=True):
    """Of an identity; None for no limit."""

    quota_bytes: int | None = None
    quota_files: int | None = None
    requests_per_s: int | None = None
    bytes_per_s: int | None = None


class Caller(Model, frozen=True, kw_only=True):
    """Who the key of the client stands for, and what that may do; `key` is the id of the key."""

    id: str
    name: str
    is_root: bool
    key: str | None = None
    scopes: list[Scope]
    limits: Limits


class Link(Model, frozen=True, kw_only=True):
    """A signed link: whoever has `url` may make that one request until `expires`, with `headers` where there are some."""

    method: str
    url: str
    headers: dict[str, str]
    expires: datetime


class ReconcileReport(Model, frozen=True, kw_only=True):
    """How far a storage node is from holding what it should."""

    log_index: int
    epoch: int
    expected_chunks: int | None = None
    expected_bytes: int | None = None
    missing_chunks: int | None = None
    missing_bytes: int | None = None
    surplus_chunks: int | None = None
    orphan_chunks: int | None = None
    bytes_per_s: int
    is_listing: bool
    eta_s: int | None = None
    drained_index: int | None = None


class StorageNode(Model, frozen=True, kw_only=True):
    """A storage node.

    Attributes:
        state: joining, active, suspect, inactive or draining; `reason` says why it is not well.
        incarnation: the epoch in which it was admitted with the disk that it has.
    """

    id: str
    url: str
    zone: str
    state: str
    capacity_bytes: int
    used_bytes: int | None = None
    is_full: bool | None = None
    reason: str | None = None
    reconcile: ReconcileReport | None = None
    incarnation: int = 0
    draining_since: int | None = None


class ConsensusMember(Model, frozen=True, kw_only=True):
    """A consensus member."""

    id: str
    url: str
    peer_address: str
    is_voter: bool = True


class Cluster(Model, frozen=True, kw_only=True):
    """Who leads, who votes, where chunks live, and how far the cluster is from holding all it should.

    Attributes:
        degraded: what the cluster has to do without, in sentences; empty when nothing.
    """

    cluster_id: str | None = None
    leader: str | None = None
    term: int
    members: list[ConsensusMember]
    nodes: list[StorageNode]
    under_replicated_chunks: int | None = None
    remaining_bytes: int | None = None
    eta_s: int | None = None
    degraded: list[str]
    epoch: int
    log_index: int


class NodeAdmitted(Model, frozen=True, kw_only=True):
    """The node may join; `created` is false when it might before."""

    id: str
    created: bool


class NodeDraining(Model, frozen=True, kw_only=True):
    """The node is being emptied; `chunks_left` is None while it has not reported."""

    id: str
    state: str
    draining_since: int
    chunks_left: int | None = None


class NodeRemoved(Model, frozen=True, kw_only=True):
    """The node is gone; at most `chunks_at_risk` chunks may have had no other verified holder, None when not known."""

    id: str
    chunks_at_risk: int | None = None


class NodeReport(Model, frozen=True, kw_only=True):
    """What a verify found on one storage node so far."""

    state: str
    epoch: int | None = None
    log_index: int | None = None
    expected_chunks: int | None = None
    checked_chunks: int = 0
    checked_bytes: int = 0
    missing_chunks: int = 0
    bad_chunks: int = 0
    surplus_chunks: int = 0
    orphaned_chunks: int = 0
    progress: float = 0.0
    eta_s: int | None = None


class NodeVerification(Model, frozen=True, kw_only=True):
    """One node of a verify; `report` is None, with the reason in `problem`, while it does not answer."""

    id: str
    report: NodeReport | None = None
    problem: str | None = None


class CountedObjects(Model, frozen=True, kw_only=True):
    """What the chunks belong to, by the log."""

    versions: int
    markers: int
    uploads: int
    parts: int
    manifests: int


class Verification(Model, frozen=True, kw_only=True):
    """A pass over every chunk on every node against the log.

    Attributes:
        state: never, running, finished or cancelled.
        is_clean: nothing is missing or bad anywhere; None until every node has finished and said so.
        progress: 0 to 1.
    """

    state: str
    is_clean: bool | None = None
    progress: float
    eta_s: int | None = None
    checked_chunks: int
    checked_bytes: int
    missing_chunks: int
    bad_chunks: int
    surplus_chunks: int
    orphaned_chunks: int
    nodes: list[NodeVerification]
    objects: CountedObjects | None = None


class Backup(Model, frozen=True, kw_only=True):
    """A backup under way: no chunk that was referenced at `log_index` is deleted until it ends or its lease runs out."""

    id: str
    owner: str | None = None
    log_index: int
    expires_in_s: int


class Identity(Model, frozen=True, kw_only=True):
    """A person or program; `state` is active or disabled."""

    id: str
    name: str
    is_root: bool
    state: str
    scopes: list[Scope]
    limits: Limits
    created: datetime


class KeyInfo(Model, frozen=True, kw_only=True):
    """An access key without its secret; `last_used_hour` is the hour in which it was last used, as far as recorded."""

    id: str
    identity: str
    state: str
    created: datetime
    expires: datetime | None = None
    last_used_hour: datetime | None = None
    sealing_key: str


class NewKey(KeyInfo, frozen=True, kw_only=True):
    """A new access key. No other answer ever shows the secret: keep `line`."""

    secret: str

    @property
    def line(self) -> str:
        """As `TRIVET_KEY` and a file of a key have it."""
        return f"{self.id}.{self.secret}"


class IdentityDetails(Identity, frozen=True, kw_only=True):
    """An identity with its keys; `usage` is None in the answer to a change."""

    keys: list[KeyInfo]
    usage: Usage | None = None


class IdentityPage(Model, frozen=True, kw_only=True):
    """One page of identities; `cursor` is None on the last."""

    identities: list[Identity]
    cursor: str | None = None


class TrailPoint(Model, frozen=True, kw_only=True):
    """A place in the audit trail, and what the chain is there."""

    index: int
    link: str


class TrailVerification(Model, frozen=True, kw_only=True):
    """A check of some rows of the audit trail; `next_after` is None at its end."""

    begin: TrailPoint
    end: TrailPoint
    head: TrailPoint
    rows: int
    is_whole: bool
    broken_index: int | None = None
    problem: str | None = None
    next_after: int | None = None


class Readiness(Model, frozen=True, kw_only=True):
    """Whether a gateway serves; `answer` says why not, and what it has to do without, as the operations port tells it."""

    is_ready: bool
    answer: dict[str, Any]


class Progress(Model, frozen=True, kw_only=True):
    """How far a transfer is: `resumed_bytes` of `done_bytes` were there before it began, `total_bytes` is None if unknown."""

    done_bytes: int
    total_bytes: int | None = None
    resumed_bytes: int = 0
