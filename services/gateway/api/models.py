"""The JSON bodies of the public API."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final, Self

import msgspec
from pydantic import ConfigDict, Field

from services.gateway.backups import DEFAULT_LEASE_S
from services.gateway.cluster_verify import Verification
from services.gateway.listings import BucketPage, Page
from services.gateway.transfers.uploads import UploadResult
from shared.cluster_summary import ClusterSummary
from shared.consensus_calls.client import ReadContext
from shared.contracts.backups import LEASE_MAX_S, Backup
from shared.contracts.base import WireModel
from shared.contracts.cluster import ConsensusMember, NodeState, StorageNode
from shared.contracts.etags import content_id_of
from shared.contracts.files import Durability
from shared.contracts.metadata import Bucket, ClusterAnswer
from shared.contracts.names import is_path_safe
from shared.contracts.reconcile import VerifyReport, VerifyState
from shared.contracts.time import Stamp, Timestamp, rfc3339, timestamp_fields
from shared.contracts.usage import UsageOf

_TIMESTAMP: Final[dict[str, Any]] = {
    "earliest": "2026-11-25T16:35:12.104417Z",
    "latest": "2026-11-25T16:35:12.109003Z",
    "hlc": "6b070e4025630000",
    "state": "SYNCED",
}
ETAG_EXAMPLE: Final = "60c0e811737deb00f76b3479be928656"
RECEIPT_EXAMPLE: Final[dict[str, Any]] = {
    "bucket": "default",
    "key": "hello.txt",
    "version": 17,
    "etag": ETAG_EXAMPLE,
    "size_bytes": 10,
    "digest": "53b63a6fc8605d0c0ce559317a00177d72adb24d669235e4c914f443a8831ca1",
    "content_id": "a4c1f32ff02a1d0c3a4e8e4f1ab5e3a5a3d3c3bb9e1d6f0e7c6bd0b1a7f4b922",
    "chunk_count": 1,
    "log_index": 17,
    "term": 2,
    "timestamp": _TIMESTAMP,
    "durability": {"target": 3, "acknowledged": 2, "nodes": ["storage-1", "storage-3"]},
}
PATH_UNSAFE: Final = (
    "The key was put by S3, and no path can name it: it is reached by the calls that carry keys in JSON."
)
_JSON: Final = msgspec.json.Encoder()


def example(**fields: Any) -> ConfigDict:
    """The configuration of a model that has one example."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Receipt(WireModel):
    """What was stored, how durable it was when this was sent, and where it stands in the order of all changes."""

    model_config = example(**RECEIPT_EXAMPLE)

    bucket: str
    key: str
    version: int = Field(description="Log index of this version.")
    etag: str = Field(description="Strong entity tag, without quotes.")
    size_bytes: int
    digest: str | None = Field(
        description="BLAKE3-256 of the whole body, hex; null of a file that was made of parts or ranges of others."
    )
    content_id: str = Field(description="Names the content by its pieces; a file without a digest is known by it.")
    chunk_count: int
    log_index: int
    term: int
    timestamp: Timestamp
    durability: Durability


def receipt_json(uploaded: UploadResult) -> bytes:
    """The `Receipt` of one upload. Encoded without a model: this is in the path of every put."""
    return _JSON.encode(receipt_fields(uploaded))


def receipt_fields(uploaded: UploadResult) -> dict[str, Any]:
    """What a `Receipt` says."""
    version = uploaded.version
    content, stamp, durability = version.content, version.stamp, version.durability
    return {
        "bucket": version.bucket,
        "key": version.key,
        "version": version.version,
        "etag": version.etag,
        "size_bytes": content.size_bytes,
        "digest": content.digest,
        "content_id": content_id_of(version),
        "chunk_count": content.chunk_count,
        "log_index": uploaded.log_index,
        "term": uploaded.term,
        "timestamp": timestamp_fields(stamp),
        "durability": {
            "target": durability.target,
            "acknowledged": durability.acknowledged,
            "nodes": durability.nodes,
        },
    }


class UsageInfo(WireModel):
    """How much there is: all versions that have bytes, and the bytes of parts of uploads under way."""

    size_bytes: int
    files: int

    @classmethod
    def of(cls, usage: UsageOf) -> Self:
        """As the log counts it."""
        return cls(size_bytes=usage.size_bytes, files=usage.files)


class ListedFile(WireModel):
    """One file of a list."""

    key: str
    path_unsafe: bool = Field(description=PATH_UNSAFE)
    size_bytes: int
    etag: str
    version: int
    content_type: str
    modified: str
    digest: str | None = Field(
        default=None,
        description="BLAKE3 of the whole body, of a list with details; null where no request carried all of it.",
    )
    user_metadata: dict[str, str] | None = Field(
        default=None, description="Of a list with details; null, as the digest, where the version is gone by now."
    )


class FileList(WireModel):
    """One page of a list; `cursor` is null on the last one. All pages of one cursor come from one log index."""

    model_config = example(
        files=[
            {
                "key": "hello.txt",
                "path_unsafe": False,
                "size_bytes": 10,
                "etag": ETAG_EXAMPLE,
                "version": 17,
                "content_type": "text/plain",
                "modified": "2026-11-25T16:35:12.106710Z",
            }
        ],
        prefixes=["2026/"],
        cursor=None,
        log_index=18,
    )

    files: list[ListedFile]
    prefixes: list[str]
    cursor: str | None
    log_index: int


class _Row(msgspec.Struct):
    """A `ListedFile`: a thousand of these are made and encoded in a fifth of the time that the models take."""

    key: str
    path_unsafe: bool
    size_bytes: int
    etag: str
    version: int
    content_type: str
    modified: str
    digest: str | msgspec.UnsetType | None = msgspec.UNSET
    user_metadata: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET


def file_list_json(page: Page) -> bytes:
    """The `FileList` of one page."""
    rows = [
        _Row(
            row.key,
            not is_path_safe(row.key),
            row.size_bytes,
            row.etag,
            row.version,
            row.content_type,
            rfc3339(row.modified_ns),
            *((row.digest, row.user_metadata) if page.has_details else ()),
        )
        for row in page.rows.files
    ]
    return _JSON.encode(
        {"files": rows, "prefixes": page.rows.prefixes, "cursor": page.cursor, "log_index": page.log_index}
    )


class BucketInfo(WireModel):
    """A bucket; `incarnation` is the log index that created it."""

    name: str
    incarnation: int
    created: str

    @classmethod
    def of(cls, bucket: Bucket) -> BucketInfo:
        """One bucket."""
        return cls(name=bucket.name, incarnation=bucket.incarnation, created=rfc3339(bucket.created_ns))


class BucketList(WireModel):
    """One page of buckets, by name, as they are at `log_index`; `cursor` is null on the last one."""

    model_config = example(
        buckets=[{"name": "default", "incarnation": 3, "created": "2026-11-25T16:30:00.000000Z"}],
        cursor=None,
        log_index=18,
    )

    buckets: list[BucketInfo]
    cursor: str | None
    log_index: int

    @classmethod
    def of(cls, page: BucketPage) -> BucketList:
        """One page."""
        return cls(
            buckets=[BucketInfo.of(bucket) for bucket in page.buckets], cursor=page.cursor, log_index=page.log_index
        )


class BucketCreated(WireModel):
    """The bucket exists; `created` is false when it did before."""

    model_config = example(name="photos", incarnation=19, created=True)

    name: str
    incarnation: int
    created: bool


class NodeAdmission(WireModel):
    """Which storage node to let in."""

    model_config = example(id="storage-4")

    id: str = Field(description="The id under which the node dials in, e.g. `storage-4`.")


class NodeAdmitted(WireModel):
    """The node may join; `created` is false when it might before."""

    model_config = example(id="storage-4", created=True)

    id: str
    created: bool


class NodeDraining(WireModel):
    """The node takes no more chunks, and is removed once the others hold what it held; `GET /v1/cluster` says how far it is."""

    model_config = example(id="storage-4", state="draining", draining_since=311, chunks_left=120)

    id: str
    state: NodeState
    draining_since: int = Field(description="Log index since when no write counts this node.")
    chunks_left: int | None = Field(
        description="Chunks of files that it still holds, as it reported last; null while it has not reported."
    )


class NodeRemoved(WireModel):
    """The node is gone from the cluster. A node that is lost cannot prove that the others hold what it held."""

    model_config = example(id="storage-4", chunks_at_risk=0)

    id: str
    chunks_at_risk: int | None = Field(
        description="At most so many chunks may have had no other verified holder; null when that is not known."
    )


class ClusterInfo(WireModel):
    """Who leads, who votes, where chunks live, and how far the cluster is from holding all it should."""

    model_config = example(
        cluster_id="c-5d41402abc4b2a76",
        leader="consensus-2",
        term=2,
        members=[{"id": "consensus-2", "url": "http://127.0.0.1:8202", "peer_address": "127.0.0.1:8252"}],
        nodes=[
            {
                "id": "storage-1",
                "url": "http://127.0.0.1:8101",
                "zone": "zone-1",
                "state": "suspect",
                "reason": "silent for 51 s",
                "capacity_bytes": 1 << 40,
                "used_bytes": 1 << 30,
                "is_full": False,
                "reconcile": {
                    "epoch": 7,
                    "log_index": 18,
                    "expected_chunks": 1024,
                    "expected_bytes": 1 << 30,
                    "missing_chunks": 4,
                    "missing_bytes": 1 << 22,
                    "surplus_chunks": 0,
                    "orphan_chunks": 0,
                    "bytes_per_s": 1 << 20,
                    "eta_s": 4,
                    "is_listing": False,
                },
            }
        ],
        under_replicated_chunks=4,
        remaining_bytes=1 << 22,
        eta_s=4,
        degraded=["storage-1 is suspect: silent for 51 s", "4 replicas are missing and being restored"],
        epoch=7,
        log_index=18,
    )

    cluster_id: str | None
    leader: str | None
    term: int
    members: list[ConsensusMember]
    nodes: list[StorageNode]
    under_replicated_chunks: int | None = Field(
        description="Replicas that are missing, over all live nodes; all chunks while fewer nodes are live than a chunk should "
        "have replicas. null until every live node has reported to the leader of this term, by the node map of this epoch."
    )
    remaining_bytes: int | None = Field(description="Of the replicas that live nodes have to fetch; null as above.")
    eta_s: int | None = Field(description="Until they have; null also while nothing is missing.")
    degraded: list[str] = Field(description="What the cluster has to do without, in sentences; empty when nothing.")
    epoch: int
    log_index: int

    @classmethod
    def of(cls, answer: ClusterAnswer, context: ReadContext, summary: ClusterSummary) -> ClusterInfo:
        """The cluster at one log index."""
        return cls(
            cluster_id=answer.cluster_id,
            leader=answer.leader_id,
            term=context.term,
            members=answer.members,
            nodes=answer.node_map.nodes,
            under_replicated_chunks=summary.under_replicated_chunks,
            remaining_bytes=summary.remaining_bytes,
            eta_s=summary.eta_s,
            degraded=summary.degraded,
            epoch=answer.node_map.epoch,
            log_index=context.log_index,
        )


_VERIFY_REPORT: Final[dict[str, Any]] = {
    "state": "running",
    "epoch": 7,
    "log_index": 18,
    "expected_chunks": 1024,
    "checked_chunks": 512,
    "checked_bytes": 1 << 29,
    "missing_chunks": 0,
    "bad_chunks": 1,
    "surplus_chunks": 0,
    "orphaned_chunks": 3,
    "progress": 0.5,
    "eta_s": 27,
}


class NodeVerification(WireModel):
    """What one storage node found; `report` is null, with the reason in `problem`, while it does not answer."""

    id: str
    report: VerifyReport | None
    problem: str | None


class CountedObjects(WireModel):
    """What the chunks belong to, by the log."""

    versions: int = Field(description="Of files, current and older ones.")
    markers: int = Field(description="Delete markers.")
    uploads: int = Field(description="Uploads by parts that are under way.")
    parts: int = Field(description="Of those uploads.")
    manifests: int = Field(description="Chunk lists of parts, of uploads and of files.")


class ClusterVerification(WireModel):
    """A pass over every chunk on every node against the log: the sums over the nodes that answer, and each node."""

    model_config = example(
        state="running",
        is_clean=False,
        progress=0.5,
        eta_s=27,
        checked_chunks=512,
        checked_bytes=1 << 29,
        missing_chunks=0,
        bad_chunks=1,
        surplus_chunks=0,
        orphaned_chunks=3,
        objects=None,
        nodes=[
            {"id": "storage-1", "report": _VERIFY_REPORT, "problem": None},
            {"id": "storage-2", "report": None, "problem": "storage-2 does not answer."},
        ],
    )

    state: VerifyState
    is_clean: bool | None = Field(
        description="Nothing is missing or bad anywhere; null until every storage node has finished and said so."
    )
    progress: float
    eta_s: int | None
    checked_chunks: int
    checked_bytes: int
    missing_chunks: int
    bad_chunks: int
    surplus_chunks: int
    orphaned_chunks: int
    objects: CountedObjects | None = Field(
        description="null while a pass is under way, and where the leader is of a version that does not count."
    )
    nodes: list[NodeVerification]

    @classmethod
    def of(cls, found: Verification) -> ClusterVerification:
        """The sums and the parts."""
        reports = found.reports
        return cls(
            state=found.state,
            is_clean=found.is_clean,
            progress=round(found.progress, 4),
            eta_s=found.eta_s,
            checked_chunks=sum(report.checked_chunks for report in reports),
            checked_bytes=sum(report.checked_bytes for report in reports),
            missing_chunks=sum(report.missing_chunks for report in reports),
            bad_chunks=sum(report.bad_chunks for report in reports),
            surplus_chunks=sum(report.surplus_chunks for report in reports),
            orphaned_chunks=sum(report.orphaned_chunks for report in reports),
            objects=None if found.objects is None else CountedObjects(**asdict(found.objects)),
            nodes=[NodeVerification(id=node.node_id, report=node.report, problem=node.problem) for node in found.nodes],
        )


class BackupBegin(WireModel):
    """Who copies, and for how long the chunks are to be kept unless that is renewed."""

    model_config = example(owner="nightly copy to tape", lease_s=86_400)

    owner: str = Field(
        min_length=1,
        max_length=256,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
        description="For people; no control characters.",
    )
    lease_s: int = Field(default=DEFAULT_LEASE_S, ge=1, le=LEASE_MAX_S, strict=True)


class BackupRenewal(WireModel):
    """For how long, from now on."""

    model_config = example(lease_s=86_400)

    lease_s: int = Field(default=DEFAULT_LEASE_S, ge=1, le=LEASE_MAX_S, strict=True)


class BackupInfo(WireModel):
    """A backup under way: no chunk that was referenced at `log_index` is deleted until it ends or its lease runs out."""

    model_config = example(id="0f3a9c5be1d27b48", owner="nightly copy to tape", log_index=311, expires_in_s=86_400)

    id: str
    owner: str | None = Field(description="null in the answer to a renewal.")
    log_index: int
    expires_in_s: int


class BackupList(WireModel):
    """Backups under way, by id."""

    model_config = example(
        backups=[{"id": "0f3a9c5be1d27b48", "owner": "nightly copy to tape", "log_index": 311, "expires_in_s": 86_120}]
    )

    backups: list[BackupInfo]

    @classmethod
    def of(cls, backups: Iterable[Backup]) -> BackupList:
        """As the log knows them."""
        return cls(
            backups=[
                BackupInfo(
                    id=backup.backup_id,
                    owner=backup.owner,
                    log_index=backup.log_index,
                    expires_in_s=backup.expires_in_s,
                )
                for backup in backups
            ]
        )


class TimeNow(WireModel):
    """The moment as this gateway knows it: an interval that contains true time, and a hybrid logical timestamp."""

    model_config = example(timestamp=_TIMESTAMP, uncertainty_us=4586)

    timestamp: Timestamp
    uncertainty_us: int | None = Field(description="Width of the interval in microseconds; null while LOGICAL.")

    @classmethod
    def of(cls, stamp: Stamp) -> TimeNow:
        """One reading."""
        width_us = None
        if stamp.earliest_ns is not None and stamp.latest_ns is not None:
            width_us = (stamp.latest_ns - stamp.earliest_ns) // 1000
        return cls(timestamp=Timestamp.from_stamp(stamp), uncertainty_us=width_us)
