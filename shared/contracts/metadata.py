"""What goes into the Raft log, and what can be asked of the state machine.

Routes of a consensus member (all signed, leader only: 421 NotLeaderError with `leader_url` elsewhere):

    POST /v1/proposals   ProposalBatch -> ProposalResults; answered when every proposal is committed and applied
    POST /v1/reads       ReadBatch -> ReadResults; linearizable: one ReadIndex barrier serves the whole batch

A proposal happens once per `request_id`: sending it again returns the stored result, and sending another one under the
same id, which its `fingerprint` shows, is rejected. Times in commands are stamped by the proposer; `apply` itself knows no
clock.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from shared.contracts.access import (
    AccessChanges,
    CreateIdentity,
    CreateKey,
    DeleteIdentity,
    DeleteKey,
    GetIdentity,
    GetKey,
    IdentitiesPage,
    IdentityAnswer,
    InitAccess,
    KeyAnswer,
    ListAccessChanges,
    ListIdentities,
    RecordKeyUse,
    Requester,
    UpdateIdentity,
    UpdateKey,
)
from shared.contracts.audit import AuditPage, ListAudit
from shared.contracts.backups import BackupsAnswer, BeginBackup, EndBackup, ListBackups, RenewBackup
from shared.contracts.base import WireModel, WireRow
from shared.contracts.calls import Command, NoResult, Query
from shared.contracts.cluster import ConsensusMember, NodeMap, NodeRun, NodeState
from shared.contracts.files import Durability, FileContent, FileVersion, Preconditions, Published
from shared.contracts.objects import (
    BucketDocumentAnswer,
    BucketSettingsAnswer,
    CopyFile,
    CountObjects,
    DeleteBucketDocument,
    DeletedFile,
    DeleteFiles,
    GetBucketDocument,
    GetBucketSettings,
    ListVersions,
    ObjectCounts,
    PutBucketDocument,
    PutBucketSettings,
    SetTags,
    VersionNumber,
    VersionPage,
)
from shared.contracts.references import (
    CheckedReferences,
    CheckReferences,
    CondemnChunks,
    ListReferenceChanges,
    ListReferences,
    ReferenceChanges,
    ReferencePage,
)
from shared.contracts.s3 import S3Attributes
from shared.contracts.time import Stamp
from shared.contracts.uploads import (
    AbortUpload,
    BeginUpload,
    CompleteUpload,
    CopyPart,
    GetUpload,
    ListPieces,
    ListUploads,
    PiecePage,
    PutPart,
    UploadAnswer,
    UploadPage,
)
from shared.contracts.usage import GetUsage, UsageAnswer

MAX_BATCH: Final = 512
"""Most proposals or queries in one request."""

LIST_LIMIT_MAX: Final = 1000
DETAILS_LIMIT_MAX: Final = 250
"""Of a list with details, which reads the record of every file that it shows."""


# --- commands -----------------------------------------------------------------------------------------------------


class CreatedBucket(WireModel):
    """`incarnation`: the log index that made the bucket, just now (`created`) or before."""

    created: bool
    incarnation: int


class CreateBucket(Command[CreatedBucket]):
    """Rejected: too_many_buckets.

    Attributes:
        limit: buckets that may exist; None for no limit. The leader sets it from its settings, whatever the proposer says.
    """

    kind: Literal["create_bucket"] = "create_bucket"
    bucket: str
    limit: int | None = Field(default=None, ge=1)
    stamp: Stamp


class DeleteBucket(Command[NoResult]):
    """Rejected: bucket_not_found, bucket_not_empty, bucket_protected.

    Attributes:
        aborts_uploads: uploads under way end with the bucket, unless they are too many for one entry; None: they keep it.
    """

    kind: Literal["delete_bucket"] = "delete_bucket"
    bucket: str
    aborts_uploads: bool | None = None
    stamp: Stamp


class PublishFile(Command[Published]):
    """Make a new version visible.

    Rejected: bucket_not_found, bucket_recreated, precondition_failed, node_removed, node_replaced, node_draining,
    chunk_condemned.

    Attributes:
        incarnation: of the bucket, as read when the upload began.
        start_index: the log index read when the upload began. Every node that is counted has recorded it, or a later one,
            on every chunk that it acknowledged; a chunk that was condemned since may be deleted, so it is refused.
        epoch: the node map's epoch that placement used.
        fences: by node, the fence that came with its acknowledgements, the lowest where they differ (`FENCE_HEADER`). A
            node that sent none counts if it has the disk and Redis that it had in `epoch`. None in entries of version 1.
        tags: of the version. None in entries before version 4.
        s3: what only S3 shows of the version. None in entries before version 4, and of what `/v1` puts.
    """

    kind: Literal["publish_file"] = "publish_file"
    bucket: str
    incarnation: int
    key: str
    content: FileContent
    content_type: str
    user_metadata: dict[str, str] = Field(default_factory=dict)
    etag: str
    start_index: int
    epoch: int
    durability: Durability
    fences: dict[str, int] | None = None
    tags: dict[str, str] | None = None
    s3: S3Attributes | None = None
    preconditions: Preconditions = Preconditions()
    stamp: Stamp


class DeleteFile(Command[DeletedFile]):
    """The file is absent from now on; in a bucket that keeps versions, a marker says so.

    Rejected: bucket_not_found and file_not_found, with the fact `version` that X-Trivet-Version shows; version_not_found;
    precondition_failed.

    Attributes:
        version: remove this version, or this marker, for good, and leave the others as they are; the preconditions are held
            against it. None in entries before version 4.
    """

    kind: Literal["delete_file"] = "delete_file"
    bucket: str
    key: str
    version: VersionNumber | None = None
    preconditions: Preconditions = Preconditions()
    stamp: Stamp


class Created(WireModel):
    """Whether it was made just now; it may have been there before."""

    created: bool


class EpochResult(WireModel):
    """The epoch of the node map after the change."""

    epoch: int


class InitCluster(Command[Created]):
    """The first command of a cluster's life. Rejected: cluster_mismatch."""

    kind: Literal["init_cluster"] = "init_cluster"
    cluster_id: str
    admitted_nodes: list[str]
    stamp: Stamp


class AdmitNode(Command[Created]):
    """An operator lets a storage node in, by id."""

    kind: Literal["admit_node"] = "admit_node"
    node_id: str
    stamp: Stamp


class UpdateNode(Command[EpochResult]):
    """What a node announced differs from what the log knows. Rejected: node_not_found."""

    kind: Literal["update_node"] = "update_node"
    node_id: str
    url: str
    zone: str
    capacity_bytes: int
    stamp: Stamp


class RecordedRun(WireModel):
    """The run that counts now. `is_superseded`: it is another one than that of the command."""

    incarnation: int
    fence: int
    epoch: int
    is_superseded: bool


class RecordRun(Command[RecordedRun]):
    """Another run of a storage node, or the same with another counter or Redis; see `shared.contracts.cluster.NodeRun`.

    Rejected: node_not_found.
    """

    kind: Literal["record_run"] = "record_run"
    node_id: str
    run: NodeRun
    stamp: Stamp


class SetNodeState(Command[EpochResult]):
    """The failure detector or an operator changed a node's state. Rejected: node_not_found.

    Any state but `draining` ends a drain. `joining` cannot be set.

    Attributes:
        seen: the state that the proposer saw; if the node has another one by now, nothing changes. None for whatever it is.
    """

    kind: Literal["set_node_state"] = "set_node_state"
    node_id: str
    state: NodeState
    seen: NodeState | None = None
    stamp: Stamp


class DrainingNode(WireModel):
    """`log_index` is where the drain began; draining again changes nothing."""

    epoch: int
    log_index: int


class DrainNode(Command[DrainingNode]):
    """Take no more chunks to a node: no publish counts it from here on.

    Rejected: node_not_found; too_few_nodes and drain_in_progress, unless it is forced.

    Attributes:
        min_left: nodes that must be left: live, with an address, not draining. None forces it.
    """

    kind: Literal["drain_node"] = "drain_node"
    node_id: str
    min_left: int | None = Field(default=None, ge=1)
    stamp: Stamp


class RemovalProof(WireModel):
    """What was found of a draining node: no chunk that was referenced at `log_index` was left to it.

    Attributes:
        epoch: of the node map by which the others were found to hold everything.
        incarnation: of the node.
    """

    log_index: int = Field(ge=1)
    epoch: int = Field(ge=0)
    incarnation: int = Field(ge=0)


class RemoveNode(Command[EpochResult]):
    """Take a node out of the map for good. Rejected: node_not_found, removal_not_proved.

    Attributes:
        proof: counts if the node drains since before its index, and epoch and incarnation are still those.
        is_forced: the node is lost, or never held anything: no proof is needed. With neither this nor a proof it is
            removed as long as entries of version 3 may not be proposed, and refused afterwards.
    """

    kind: Literal["remove_node"] = "remove_node"
    node_id: str
    proof: RemovalProof | None = None
    is_forced: bool | None = None
    stamp: Stamp


class PassedTime(WireModel):
    """How many rows were forgotten, and how old the log's clock is now.

    `has_more` says that the same again, with `elapsed_ms` 0, would forget more.
    """

    forgotten: int
    has_more: bool
    lived_ms: int
    horizon: int


class PassTime(Command[PassedTime]):
    """Time has passed, and what is old enough is forgotten.

    Proposed by the leader only. `elapsed_ms` is what passed on its monotonic clock since its last PassTime was answered, 0 for
    the first one of its leadership: apply adds it up, so that no wall clock decides what is forgotten.

    Attributes:
        cursor_retention_s: for how long lists can go on, pinned to the index where they began.
        tombstone_retention_s: for how long an absent key's deletion is known.
        reference_retention_s: for how long a version that was superseded or deleted keeps its chunks; then they are
            condemned unless something else refers to them. None in entries before version 3: as long as lists show it,
            and nothing is condemned.
        condemned_retention_s: for how long it is known which chunks were condemned; uploads that began earlier are refused.
        audit_retention_s, audit_limit_bytes: for how long rows of the audit trail are kept, and how many bytes of them. None
            in entries before version 4: nothing is cut.
        forgotten_max: rows that it forgets at most, about, chunk references included; 10,000 at most. None in entries
            before version 5: 250.
    """

    kind: Literal["pass_time"] = "pass_time"
    elapsed_ms: int
    cursor_retention_s: int
    tombstone_retention_s: int
    reference_retention_s: int | None = None
    condemned_retention_s: int | None = None
    audit_retention_s: int | None = None
    audit_limit_bytes: int | None = None
    forgotten_max: int | None = None
    stamp: Stamp


class AnnounceMember(Command[NoResult]):
    """The newest version of log entries that a consensus member can apply; None when it has left."""

    kind: Literal["announce_member"] = "announce_member"
    member_id: str
    entry_version: int | None
    stamp: Stamp


class RaisedEntryVersion(WireModel):
    """The version up to which entries may be proposed."""

    entry_version: int


class RaiseEntryVersion(Command[RaisedEntryVersion]):
    """From here on, entries up to that version may be proposed.

    Proposed by the leader when every member has announced that it can apply them; never goes back. Rejected: invalid_request,
    when nobody has.
    """

    kind: Literal["raise_entry_version"] = "raise_entry_version"
    entry_version: int
    stamp: Stamp


AnyCommand = Annotated[
    CreateBucket
    | DeleteBucket
    | PublishFile
    | DeleteFile
    | InitCluster
    | AdmitNode
    | UpdateNode
    | RecordRun
    | SetNodeState
    | DrainNode
    | RemoveNode
    | CondemnChunks
    | PutBucketSettings
    | PutBucketDocument
    | DeleteBucketDocument
    | DeleteFiles
    | CopyFile
    | SetTags
    | BeginBackup
    | RenewBackup
    | EndBackup
    | BeginUpload
    | PutPart
    | CopyPart
    | CompleteUpload
    | AbortUpload
    | InitAccess
    | CreateIdentity
    | UpdateIdentity
    | DeleteIdentity
    | CreateKey
    | UpdateKey
    | DeleteKey
    | RecordKeyUse
    | PassTime
    | AnnounceMember
    | RaiseEntryVersion,
    Field(discriminator="kind"),
]


class Proposal(WireModel):
    """One command to be ordered. `request_id` makes it happen once; its result is kept for `retain_s` seconds.

    Attributes:
        fingerprint: what was asked for, where the id is not the proposer's own but a client's: the stored result is
            returned to an equal fingerprint only. Rejected: idempotency_key_reused.
        attempt_id: of one attempt of a client's request. A transient refusal is stored under it and not under
            `request_id`: this attempt never happens any more, and the next one may.
        requester: whom the change is made for. Rejected: access_changed, when something about that principal changed after its
            `access_index`. None in entries before version 4.
    """

    request_id: str = Field(min_length=1, max_length=128)
    retain_s: int = Field(default=600, ge=0, le=7 * 86400)
    fingerprint: str | None = Field(default=None, min_length=1, max_length=128)
    attempt_id: str | None = Field(default=None, min_length=1, max_length=128)
    requester: Requester | None = None
    command: AnyCommand


class ProposalBatch(WireModel):
    """Proposals that are independent of each other; each is applied or rejected by itself, in this order."""

    proposals: list[Proposal] = Field(min_length=1, max_length=MAX_BATCH)


class ProposalResult(WireModel):
    """What became of one proposal. Exactly one of `result` and `problem` is set.

    `problem` is a problem document (`shared.errors.error_from_problem`). `log_index` is the entry that decided; for a
    repeated request_id it is that of the first time. 0 when nothing was appended.
    """

    log_index: int
    term: int
    result: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None


class ProposalResults(WireModel):
    """In the order of the batch."""

    results: list[ProposalResult]


# --- answers ------------------------------------------------------------------------------------------------------


class FileAnswer(WireModel):
    """`file` is None when absent; `version` is then the index of the deletion, or 0 if the key was never seen.

    `has_bucket` is false when the bucket does not exist. `horizon` is the index below which deletions are forgotten.
    `is_unchanged`: `known_version` of the question is the current version, and `file` is left out. `is_marker`: what was asked
    for, the key or the version, is a delete marker; `file` is None. `marker_id` is its version id then, and `is_null` says that
    it is the null version; None from a member of an earlier version. `keeps_versions`: the bucket does or did.
    """

    kind: Literal["file"] = "file"
    has_bucket: bool
    incarnation: int = 0
    file: FileVersion | None = None
    version: int = 0
    horizon: int = 0
    is_unchanged: bool = False
    is_marker: bool = False
    marker_id: int | None = None
    is_null: bool = False
    keeps_versions: bool = False


class FileEntry(WireRow, frozen=True, gc=False, omit_defaults=True):
    """One row of a list.

    Attributes:
        stored_ns: S3's Last-Modified (`FileVersion.stored_ns`), for a version of before entries of version 4 that of `/v1`;
            0 from a member of an earlier version.
        s3_etag: None where only its own etag is known (`shared.contracts.s3.shown_etag`).
        storage_class: None for STANDARD.
        digest: BLAKE3 of the whole body, and `user_metadata`: only of a list with details. Both are None where the version is
            gone by now, the digest also where no request carried all of the body.
    """

    key: str
    size_bytes: int
    etag: str
    version: int
    content_type: str
    modified_ns: int
    stored_ns: int = 0
    s3_etag: str | None = None
    storage_class: str | None = None
    digest: str | None = None
    user_metadata: dict[str, str] | None = None


class FilePage(WireModel):
    """One page, keys in UTF-8 byte order. `has_more` is false on the last page.

    `last_key` or `last_prefix` is where the next page starts (ListFiles.after_key / after_prefix), the other is None.
    """

    kind: Literal["files"] = "files"
    has_bucket: bool
    files: list[FileEntry] = Field(default_factory=list)
    prefixes: list[str] = Field(default_factory=list)
    has_more: bool = False
    last_key: str | None = None
    last_prefix: str | None = None
    at_index: int = 0


class Bucket(WireModel):
    """A bucket. `incarnation` is the log index that created it."""

    name: str
    incarnation: int
    created_ns: int


class BucketAnswer(WireModel):
    """`bucket` is None when absent."""

    kind: Literal["bucket"] = "bucket"
    bucket: Bucket | None


class BucketsAnswer(WireModel):
    """One page of buckets, by name. The next page starts after the last name; `has_more` is false on the last page."""

    kind: Literal["buckets"] = "buckets"
    buckets: list[Bucket]
    has_more: bool = False


class ClusterAnswer(WireModel):
    """The node map, the consensus members and who leads them.

    `is_low_on_disk`: the leader is short of disk space and takes no new files; None where nobody has asked it.
    """

    kind: Literal["cluster"] = "cluster"
    cluster_id: str | None
    leader_id: str | None
    members: list[ConsensusMember]
    node_map: NodeMap
    is_low_on_disk: bool | None = None


class RequestAnswer(WireModel):
    """The stored result and the fingerprint it was proposed with; `result` is None when nothing is remembered."""

    kind: Literal["request"] = "request"
    result: ProposalResult | None = None
    fingerprint: str | None = None


Answer = Annotated[
    FileAnswer
    | FilePage
    | BucketAnswer
    | BucketsAnswer
    | ClusterAnswer
    | RequestAnswer
    | ReferencePage
    | ReferenceChanges
    | CheckedReferences
    | BackupsAnswer
    | BucketSettingsAnswer
    | BucketDocumentAnswer
    | VersionPage
    | ObjectCounts
    | PiecePage
    | UploadAnswer
    | UploadPage
    | AccessChanges
    | AuditPage
    | IdentityAnswer
    | KeyAnswer
    | IdentitiesPage
    | UsageAnswer,
    Field(discriminator="kind"),
]


# --- queries ------------------------------------------------------------------------------------------------------


class GetFile(Query[FileAnswer]):
    """Which version of a file is current.

    Attributes:
        known_version: what the asker holds of this key; while it is the current version, the answer does not repeat it. Only
            for members whose answers name their cluster (`ReadResults.cluster_id`): older ones refuse the field.
        known_patch_index: of what the asker holds; an answer is left out only where this one is the present one, too. None for
            an asker that knows no tags.
        version: that version of the file, by either of its numbers, and not the current one.
        pages: the asker reads long lists of chunks by `ListPieces`: the answer leaves them out.

    Members before entries of version 4 refuse the last three.
    """

    kind: Literal["get_file"] = "get_file"
    bucket: str
    key: str
    known_version: int | None = None
    known_patch_index: int | None = None
    version: VersionNumber | None = None
    pages: bool | None = None


class ListFiles(Query[FilePage]):
    """One page of a bucket. `after_key` is exclusive; `after_prefix` skips a whole common prefix already reported.

    `at_index` pins the page to a log index (rows created and deleted are kept with their indexes). With `details` rows say more
    (`FileEntry`), and a page has at most `DETAILS_LIMIT_MAX` of them; members before entries of version 4 refuse it.
    """

    kind: Literal["list_files"] = "list_files"
    bucket: str
    prefix: str = ""
    delimiter: str | None = None
    limit: int = Field(default=LIST_LIMIT_MAX, ge=1, le=LIST_LIMIT_MAX)
    after_key: str | None = None
    after_prefix: str | None = None
    at_index: int | None = None
    details: bool | None = None


class GetBucket(Query[BucketAnswer]):
    """Whether there is such a bucket."""

    kind: Literal["get_bucket"] = "get_bucket"
    bucket: str


class ListBuckets(Query[BucketsAnswer]):
    """The first `limit` buckets whose names come after `after` (exclusive; None for all)."""

    kind: Literal["list_buckets"] = "list_buckets"
    limit: int = Field(default=LIST_LIMIT_MAX, ge=1, le=LIST_LIMIT_MAX)
    after: str | None = None


class GetCluster(Query[ClusterAnswer]):
    """The nodes, the members and who leads them."""

    kind: Literal["get_cluster"] = "get_cluster"


class GetRequest(Query[RequestAnswer]):
    """What became of a proposal that may have been made before."""

    kind: Literal["get_request"] = "get_request"
    request_id: str = Field(min_length=1, max_length=128)


AnyQuery = Annotated[
    GetFile
    | ListFiles
    | GetBucket
    | ListBuckets
    | GetCluster
    | GetRequest
    | ListReferences
    | ListReferenceChanges
    | CheckReferences
    | ListBackups
    | GetBucketSettings
    | GetBucketDocument
    | ListVersions
    | CountObjects
    | ListPieces
    | GetUpload
    | ListUploads
    | ListAccessChanges
    | ListAudit
    | GetIdentity
    | GetKey
    | ListIdentities
    | GetUsage,
    Field(discriminator="kind"),
]


class ReadBatch(WireModel):
    """Queries that may share one ReadIndex barrier."""

    queries: list[AnyQuery] = Field(min_length=1, max_length=MAX_BATCH)


class ReadResult(WireModel):
    """Exactly one of `answer` and `problem` is set."""

    answer: Answer | None = None
    problem: dict[str, Any] | None = None


class ReadResults(WireModel):
    """In the order of the batch. `log_index` is the applied index that answered, `epoch` that of the node map there.

    `hlc` is a hybrid timestamp of the leader: not below any stamp in the log, nor below its own time. `cluster_id` is None
    from a member of an earlier version, and before the cluster was made. `access_index`: the index of the newest change of
    who may do what, in the state that answered; 0 before the first and from a member of an earlier version.
    """

    log_index: int
    term: int
    epoch: int
    hlc: int
    cluster_id: str | None = None
    access_index: int = 0
    results: list[ReadResult]
