"""Storage nodes and consensus members as the log knows them, and how nodes announce themselves.

Routes of a consensus member (all signed):

    POST /v1/nodes/{id}/heartbeat   Heartbeat -> HeartbeatResponse; leader only (421 with leader_url elsewhere)
    POST /v1/members                AddMemberRequest -> MembersResponse; a learner, which votes when it has caught up
    DELETE /v1/members/{id}         MembersResponse; its id is never used again
    GET /v1/backup                  the metadata of that member as one SQLite file, with the two headers below
    POST /v1/cluster/init           InitRequest -> InitResponse; idempotent for the same cluster id, 409 otherwise
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from shared.contracts.base import WireModel
from shared.contracts.reconcile import ReconcileReport

LOG_INDEX_HEADER: Final = "x-trivet-log-index"
DIGEST_HEADER: Final = "x-trivet-digest"

MAX_CAPACITY_BYTES: Final = 1 << 50
"""Of one storage node, 1 PiB. A node that says more is refused: it would get every chunk."""

_RANDOM_ID: Final = re.compile("[0-9a-f]{32}")


class NodeState(StrEnum):
    """A storage node's place in the cluster.

    JOINING ones are admitted and have not dialled in yet. ACTIVE ones are written to; so are SUSPECT ones, which are slow,
    failing or late with a heartbeat, after all others. INACTIVE ones have been silent beyond the grace period. DRAINING
    ones are read from only. A removed node is not in the map at all.
    """

    JOINING = "joining"
    ACTIVE = "active"
    SUSPECT = "suspect"
    INACTIVE = "inactive"
    DRAINING = "draining"


class StorageNode(WireModel):
    """One storage node in the node map.

    Attributes:
        id: stable name; never reused for another disk.
        url: base URL inside the cluster, e.g. `http://127.0.0.1:8101`; empty until the node has dialled in.
        zone: failure domain; placement spreads over zones first.
        capacity_bytes: weight in placement.
        used_bytes, is_full, reconcile: as the leader last heard from the node; None when it has not, or when the node does
            not know. They are not in the log and not part of the epoch.
        reason: why the leader does not think well of the node, in words; None when it does.
        incarnation: the epoch in which it was admitted with the disk that it has; a replaced disk begins another one.
        draining_since: the log index from which on no publish may count it; None while it does not drain, and where that
            was decided before entries of version 3.
    """

    id: str
    url: str
    zone: str
    state: NodeState
    capacity_bytes: int = Field(ge=0)
    used_bytes: int | None = Field(default=None, ge=0)
    is_full: bool | None = None
    reason: str | None = None
    reconcile: ReconcileReport | None = None
    incarnation: int = Field(default=0, ge=0)
    draining_since: int | None = Field(default=None, ge=1)


class NodeMap(WireModel):
    """All storage nodes at one epoch. The epoch grows with every change that placement can see.

    Nodes are in the order of their ids.
    """

    epoch: int
    nodes: list[StorageNode]


class NodeRun(WireModel):
    """One run of a storage node's process, and what its acknowledgements rest on.

    Attributes:
        disk_id: random, made with the data folder.
        counter: of the data folder; raised durably at every start and every few minutes.
        boot_id: random, of this run.
        redis_id: random, in the node's Redis; None while that is not known, and in mode `disk`.
        is_redis_record: Redis is the store of record, so another Redis is as good as another disk.
    """

    disk_id: str
    counter: int
    boot_id: str
    redis_id: str | None = None
    is_redis_record: bool = False


class HealthReport(WireModel):
    """How a storage node finds itself.

    Attributes:
        is_failing: it refuses writes, and not for want of room: durability cannot be promised.
        is_slow: its disk takes far longer for a commit than it should.
    """

    is_failing: bool
    is_slow: bool


class Heartbeat(WireModel):
    """A storage node says that it lives, every `heartbeat_interval`, and when what matters of the rest changes.

    What it does not know is None. `is_full`: a chunk of typical size would be refused for want of room.
    `health` and `reconcile` are left out until an answer has said that they are understood (`takes_reports`).
    """

    cluster_id: str
    run: NodeRun
    url: str
    zone: str
    capacity_bytes: int = Field(ge=0, le=MAX_CAPACITY_BYTES)
    used_bytes: int | None = Field(ge=0, lt=2**63)
    chunk_count: int | None = Field(ge=0, lt=2**63)
    is_full: bool | None = None
    health: HealthReport | None = None
    reconcile: ReconcileReport | None = None

    @model_serializer(mode="wrap")
    def _leave_out_reports(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A member of an older version refuses fields that it does not know, null or not.
        fields: dict[str, Any] = write(self)
        return {name: value for name, value in fields.items() if name not in _REPORTS or value is not None}

    def without_reports(self) -> Heartbeat:
        """For a leader that does not understand them."""
        return self.model_copy(update=dict.fromkeys(_REPORTS))

    @field_validator("run")
    @classmethod
    def _check_run(cls, value: NodeRun) -> NodeRun:
        # Here and not in NodeRun: what stands in a log is read as it is.
        ids = (value.disk_id, value.boot_id, *((value.redis_id,) if value.redis_id is not None else ()))
        if not all(_RANDOM_ID.fullmatch(random_id) for random_id in ids):
            raise ValueError("disk, boot and Redis ids are 32 hex digits")
        return value


_REPORTS: Final = ("health", "reconcile")


class HeartbeatResponse(WireModel):
    """What the leader makes of it. `is_admitted` is false while an operator has not admitted the node.

    Attributes:
        fence: what the node sends with its acknowledgements: the epoch since which those of its disk and Redis count. A
            publish that counts one with another fence is refused. None while it is not admitted: it acknowledges nothing.
        is_run_recorded: false while some consensus member is too old to record which disk a node has; ask again soon.
        takes_reports: the leader understands `health` and `reconcile`.
    """

    is_admitted: bool
    cluster_id: str
    epoch: int
    fence: int | None = None
    is_run_recorded: bool = False
    takes_reports: bool = False


class ConsensusMember(WireModel):
    """One consensus member: `peer_address` (host:port) is for Raft frames, `url` for HTTP."""

    id: str
    url: str
    peer_address: str
    is_voter: bool = True


class AddMemberRequest(WireModel):
    """A new consensus member, running with an empty folder. It joins as a learner and votes once it has caught up."""

    id: str
    url: str
    peer_address: str

    @field_validator("peer_address")
    @classmethod
    def _check_peer_address(cls, value: str) -> str:
        # Here and not in ConsensusMember: what stands in a log is read as it is.
        host, _, port = value.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
            raise ValueError("a peer address is host:port")
        return value


class MembersResponse(WireModel):
    """The membership in force, by id, and the log index since when."""

    members: list[ConsensusMember]
    log_index: int


MEMBERS_HEADER: Final = "x-trivet-members"
"""In a leader's answers to proposals and reads: the members in force, as `id=url,id=url`."""


class MemberStatus(WireModel):
    """A consensus member about itself (GET /v1/status).

    Attributes:
        state_hash: over everything at `last_applied`: equal on all members that have applied the same entries.
        state_marks: the hash at the last few indexes that every member notes, so that members can be compared under load.
        differs_from: members that had another state at the same index; one of them must be rebuilt.
        first_log_index: where its log begins; what came before is in its state machine only.
        is_rebuilding: its state machine was lost, and it waits for a snapshot from the leader.
        entry_version: the newest version of log entries that may be proposed: every member can apply it.
        known_entry_version: the newest that this member can apply.
        stopped_applying: why it applies nothing any more, although it still keeps the log; None while it does.
        reaches_majority: false when it is not connected to enough voters for a majority, itself included.
    """

    id: str
    cluster_id: str | None
    role: str
    term: int
    leader_id: str | None
    leader_url: str | None
    commit_index: int
    last_applied: int
    last_log_index: int
    first_log_index: int
    is_rebuilding: bool
    state_hash: str | None = None
    state_marks: dict[int, str]
    differs_from: list[str]
    entry_version: int
    known_entry_version: int
    stopped_applying: str | None = None
    reaches_majority: bool
    members: list[ConsensusMember]


class InitRequest(WireModel):
    """The one act that makes a cluster: its id, its first voters and the storage nodes admitted from the start."""

    cluster_id: str
    members: list[ConsensusMember] = Field(min_length=1, max_length=7)
    admitted_nodes: list[str] = Field(default_factory=list)


class InitResponse(WireModel):
    """`created` is false when this cluster had been initialised before, with the same id."""

    cluster_id: str
    created: bool
