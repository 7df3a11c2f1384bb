"""What each command changes. One function per command; every check comes before the first write.

A command returns its result as `shared.contracts.metadata` documents it, or raises a typed rejection and has changed
nothing. Times come from the applied stamp, identities from the log index; there is no other input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from services.consensus.metadata.decisions import (
    HLC_MAX,
    check_acknowledging_nodes,
    check_content,
    check_preconditions,
    check_stored_integer,
    next_modified_ns,
)
from services.consensus.metadata.rows import BucketRow, NodeRow, State
from services.consensus.metadata.tables import Tables
from shared.contracts.cluster import NodeState
from shared.contracts.metadata import (
    AdmitNode,
    Command,
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    ExpireRequests,
    FileVersion,
    InitCluster,
    PublishFile,
    RemoveNode,
    SetNodeState,
    UpdateNode,
)
from shared.contracts.names import DEFAULT_BUCKET, check_bucket_name, check_key, check_member_id
from shared.contracts.time import Stamp
from shared.errors import (
    BucketNotEmptyError,
    BucketNotFoundError,
    BucketProtectedError,
    BucketRecreatedError,
    ClusterMismatchError,
    FileNotFoundInBucketError,
    NodeNotFoundError,
    NotReadyError,
)

EXPIRE_LIMIT: Final = 1000
"""Most results that one ExpireRequests forgets, so that no entry stops the member for long. Propose it again while
`expired` is this many."""


@dataclass(frozen=True, slots=True)
class Published:
    """The result of a publish; the version itself is kept once, in its table."""

    created: bool
    version: FileVersion

    def to_result(self) -> dict[str, Any]:
        """As the contract documents it."""
        return {"created": self.created, "version": self.version.model_dump(mode="json")}


Result = dict[str, Any] | Published


@dataclass(slots=True)
class Turn:
    """One entry's turn: where in the log it stands, its applied stamp, the tables, and the state that it may replace.

    Invariant: `nodes` equals the table of nodes; it is read once per batch, because every publish looks at it.
    """

    index: int
    term: int
    stamp: Stamp
    tables: Tables
    state: State
    nodes: dict[str, NodeRow]


def run(turn: Turn, command: Command) -> Result:
    """Apply one command.

    Raises:
        TrivetError: the rejection; nothing was changed.
    """
    if isinstance(command, InitCluster):
        return _init_cluster(turn, command)
    if turn.state.cluster_id is None:
        raise NotReadyError("The cluster is not initialised yet.")
    return _HANDLERS[type(command)](turn, command)


def _init_cluster(turn: Turn, command: InitCluster) -> Result:
    if turn.state.cluster_id is not None:
        if turn.state.cluster_id != command.cluster_id:
            raise ClusterMismatchError(
                "This cluster was initialised under another id.", cluster_id=turn.state.cluster_id
            )
        return {"created": False}
    node_ids = sorted({check_member_id(node_id) for node_id in command.admitted_nodes})
    turn.state = replace(turn.state, cluster_id=command.cluster_id)
    turn.tables.insert_bucket(BucketRow(DEFAULT_BUCKET, turn.index, turn.stamp.approximate_ns))
    for node_id in node_ids:
        _admit(turn, node_id)
    return {"created": True}


# --- buckets ------------------------------------------------------------------------------------------------------


def _create_bucket(turn: Turn, command: CreateBucket) -> Result:
    name = check_bucket_name(command.bucket)
    if (bucket := turn.tables.bucket(name)) is not None:
        return {"created": False, "incarnation": bucket.incarnation}
    turn.tables.insert_bucket(BucketRow(name, turn.index, turn.stamp.approximate_ns))
    return {"created": True, "incarnation": turn.index}


def _delete_bucket(turn: Turn, command: DeleteBucket) -> Result:
    if command.bucket == DEFAULT_BUCKET:
        raise BucketProtectedError(f"The bucket {DEFAULT_BUCKET!r} always exists.", bucket=DEFAULT_BUCKET)
    bucket = _bucket(turn, command.bucket)
    if turn.tables.has_files(bucket.incarnation):
        raise BucketNotEmptyError("The bucket still holds files; delete them first.", bucket=bucket.name)
    turn.tables.end_bucket(bucket.incarnation, turn.index)
    return {}


def _bucket(turn: Turn, name: str) -> BucketRow:
    bucket = turn.tables.bucket(check_bucket_name(name))
    if bucket is None:
        raise BucketNotFoundError("There is no such bucket.", bucket=name)
    return bucket


# --- files --------------------------------------------------------------------------------------------------------


def _publish_file(turn: Turn, command: PublishFile) -> Result:
    key = check_key(command.key).encode()
    check_content(command.content)
    bucket = _bucket(turn, command.bucket)
    if bucket.incarnation != command.incarnation:
        raise BucketRecreatedError(
            "The bucket was deleted and made again while this upload was under way; start it again.",
            bucket=bucket.name,
            incarnation=bucket.incarnation,
        )
    check_acknowledging_nodes(command.durability.nodes, command.epoch, turn.nodes)
    file = turn.tables.file(bucket.incarnation, key)
    check_preconditions(command.preconditions, file)
    before = turn.tables.tombstone(bucket.name, key) if file is None else file
    version = FileVersion(
        bucket=bucket.name,
        key=command.key,
        version=turn.index,
        term=turn.term,
        etag=command.etag,
        content=command.content,
        content_type=command.content_type,
        user_metadata=command.user_metadata,
        epoch=command.epoch,
        durability=command.durability,
        stamp=turn.stamp,
        modified_ns=next_modified_ns(before, turn.stamp),
    )
    if file is not None:
        turn.tables.end_file(bucket.incarnation, file, turn.index)
    turn.tables.insert_version(bucket.incarnation, version)
    return Published(file is None, version)


def _delete_file(turn: Turn, command: DeleteFile) -> Result:
    key = check_key(command.key).encode()
    bucket = _bucket(turn, command.bucket)
    file = turn.tables.file(bucket.incarnation, key)
    if file is None:
        # Before the preconditions: they count only where the answer would otherwise be a success (RFC 9110, 13.2.1).
        tombstone = turn.tables.tombstone(bucket.name, key)
        raise FileNotFoundInBucketError(
            "There is no such file.",
            bucket=bucket.name,
            key=command.key,
            version=0 if tombstone is None else tombstone.deleted_index,
        )
    check_preconditions(command.preconditions, file)
    turn.tables.end_file(bucket.incarnation, file, turn.index)
    return {"version": turn.index}


# --- nodes --------------------------------------------------------------------------------------------------------


def _admit_node(turn: Turn, command: AdmitNode) -> Result:
    node_id = check_member_id(command.node_id)
    if node_id in turn.nodes:
        return {"created": False}
    _admit(turn, node_id)
    return {"created": True}


def _admit(turn: Turn, node_id: str) -> None:
    """A node that has not dialled in is away: it becomes active with its first announcement."""
    turn.state = replace(turn.state, epoch=turn.state.epoch + 1)
    node = NodeRow(node_id, "", "", NodeState.INACTIVE, 0, turn.state.epoch)
    turn.nodes[node_id] = node
    turn.tables.put_node(node)


def _update_node(turn: Turn, command: UpdateNode) -> Result:
    node = _node(turn, command.node_id)
    check_stored_integer("capacity_bytes", command.capacity_bytes)
    is_first = not node.url and node.state == NodeState.INACTIVE
    return _replace_node(
        turn,
        replace(
            node,
            url=command.url,
            zone=command.zone,
            capacity_bytes=command.capacity_bytes,
            state=NodeState.ACTIVE if is_first else node.state,
        ),
    )


def _set_node_state(turn: Turn, command: SetNodeState) -> Result:
    return _replace_node(turn, replace(_node(turn, command.node_id), state=command.state))


def _remove_node(turn: Turn, command: RemoveNode) -> Result:
    node = _node(turn, command.node_id)
    turn.state = replace(turn.state, epoch=turn.state.epoch + 1)
    del turn.nodes[node.node_id]
    turn.tables.delete_node(node.node_id)
    return {"epoch": turn.state.epoch}


def _replace_node(turn: Turn, node: NodeRow) -> Result:
    """Every column is one that placement can see, so the epoch grows exactly when the row changes."""
    if node != turn.nodes[node.node_id]:
        turn.state = replace(turn.state, epoch=turn.state.epoch + 1)
        turn.nodes[node.node_id] = node
        turn.tables.put_node(node)
    return {"epoch": turn.state.epoch}


def _node(turn: Turn, node_id: str) -> NodeRow:
    node = turn.nodes.get(check_member_id(node_id))
    if node is None:
        raise NodeNotFoundError("There is no such storage node.", node_id=node_id)
    return node


# --- upkeep -------------------------------------------------------------------------------------------------------


def _expire_requests(turn: Turn, command: ExpireRequests) -> Result:
    before_hlc = min(max(command.before_hlc, 0), HLC_MAX)
    return {"expired": turn.tables.expire_requests(before_hlc, command.up_to_index, EXPIRE_LIMIT)}


_HANDLERS: Final[dict[type[Any], Callable[[Turn, Any], Result]]] = {
    CreateBucket: _create_bucket,
    DeleteBucket: _delete_bucket,
    PublishFile: _publish_file,
    DeleteFile: _delete_file,
    AdmitNode: _admit_node,
    UpdateNode: _update_node,
    SetNodeState: _set_node_state,
    RemoveNode: _remove_node,
    ExpireRequests: _expire_requests,
}
