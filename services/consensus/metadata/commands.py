"""What each command changes. One function per command; every check comes before the first write.

A command returns its result as `shared.contracts.metadata` documents it, or raises a typed rejection and has changed
nothing. Times come from the applied stamp, identities from the log index; there is no other input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from services.consensus.metadata.decisions import (
    check_acknowledging_nodes,
    check_content,
    check_may_drain,
    check_no_node_drains,
    check_preconditions,
    check_removal,
    check_start_index,
    check_stored_integer,
    fence_of,
    lease_end_ms,
    next_modified_ns,
    next_run,
)
from services.consensus.metadata.entries import GARBAGE_VERSION
from services.consensus.metadata.garbage import Garbage, check_not_condemned
from services.consensus.metadata.history import History
from services.consensus.metadata.retention import Sweep, pass_time
from services.consensus.metadata.rows import BackupRow, BucketRow, NodeRow, RunRow, State, TombstoneRow
from services.consensus.metadata.tables import Tables, split_digests
from shared.contracts.backups import BeginBackup, EndBackup, RenewBackup
from shared.contracts.cluster import NodeState
from shared.contracts.files import FileVersion
from shared.contracts.metadata import (
    AdmitNode,
    AnnounceMember,
    Command,
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    DrainNode,
    InitCluster,
    PassTime,
    PublishFile,
    RaiseEntryVersion,
    RecordRun,
    RemoveNode,
    SetNodeState,
    UpdateNode,
)
from shared.contracts.names import DEFAULT_BUCKET, check_bucket_name, check_key, check_member_id
from shared.contracts.references import CondemnChunks
from shared.contracts.time import ClockState, Stamp
from shared.errors import (
    BackupNotFoundError,
    BucketNotEmptyError,
    BucketNotFoundError,
    BucketProtectedError,
    BucketRecreatedError,
    ClusterMismatchError,
    ConflictError,
    FileNotFoundInBucketError,
    InvalidRequestError,
    NodeNotFoundError,
    NotReadyError,
    TooManyBucketsError,
)


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The result of a publish; the version itself is kept once, in its table."""

    created: bool
    version: FileVersion

    def to_result(self) -> dict[str, object]:
        """As the contract documents it."""
        return {"created": self.created, "version": self.version.model_dump(mode="json")}


Result = dict[str, object] | PublishResult


@dataclass(slots=True)
class ApplyContext:
    """The apply context of one entry: its place in the log, its applied stamp, the tables, and the state that it may replace.

    Invariant: `nodes`, `runs` and `announced` equal the tables of nodes, runs and members, and `buckets` what the table of
    buckets says of some names.
    """

    index: int
    term: int
    stamp: Stamp
    tables: Tables
    history: History
    garbage: Garbage
    state: State
    nodes: dict[str, NodeRow]
    runs: dict[str, RunRow]
    buckets: dict[str, BucketRow | None]
    announced: dict[str, int]

    @property
    def knows_garbage(self) -> bool:
        """Whether the rules of entries of version 3 hold here, for entries of earlier versions, too."""
        return self.state.entry_version >= GARBAGE_VERSION

    def bucket(self, name: str) -> BucketRow | None:
        """The bucket of that name that exists now."""
        if name not in self.buckets:
            self.buckets[name] = self.tables.bucket(name)
        return self.buckets[name]


BACKUPS_MAX: Final = 100
"""Under way at once."""

NO_STAMP: Final = Stamp(hlc=0, state=ClockState.INIT)
"""Before the first entry of a batch."""


def run(context: ApplyContext, command: Command) -> Result:
    """Apply one command.

    Raises:
        TrivetError: the rejection; nothing was changed.
    """
    if isinstance(command, InitCluster):
        return _init_cluster(context, command)
    if context.state.cluster_id is None:
        raise NotReadyError("The cluster is not initialised yet.")
    return _HANDLERS[type(command)](context, command)


def _init_cluster(context: ApplyContext, command: InitCluster) -> Result:
    if context.state.cluster_id is not None:
        if context.state.cluster_id != command.cluster_id:
            raise ClusterMismatchError(
                "This cluster was initialised under another id.", cluster_id=context.state.cluster_id
            )
        return {"created": False}
    node_ids = sorted({check_member_id(node_id) for node_id in command.admitted_nodes})
    context.state = replace(context.state, cluster_id=command.cluster_id)
    _insert_bucket(context, DEFAULT_BUCKET)
    for node_id in node_ids:
        _admit(context, node_id)
    return {"created": True}


# --- buckets ------------------------------------------------------------------------------------------------------


def _create_bucket(context: ApplyContext, command: CreateBucket) -> Result:
    name = check_bucket_name(command.bucket)
    if (bucket := context.bucket(name)) is not None:
        return {"created": False, "incarnation": bucket.incarnation}
    if command.limit is not None and context.tables.bucket_count() >= command.limit:
        raise TooManyBucketsError("There are as many buckets as there may be; delete one first.", limit=command.limit)
    _insert_bucket(context, name)
    return {"created": True, "incarnation": context.index}


def _delete_bucket(context: ApplyContext, command: DeleteBucket) -> Result:
    if command.bucket == DEFAULT_BUCKET:
        raise BucketProtectedError(f"The bucket {DEFAULT_BUCKET!r} always exists.", bucket=DEFAULT_BUCKET)
    bucket = _bucket(context, command.bucket)
    if context.tables.has_files(bucket.incarnation):
        raise BucketNotEmptyError("The bucket still holds files; delete them first.", bucket=bucket.name)
    context.tables.end_bucket(bucket, context.index)
    context.buckets[bucket.name] = None
    return {}


def _insert_bucket(context: ApplyContext, name: str) -> None:
    context.buckets[name] = bucket = BucketRow(context.index, name, context.stamp.approximate_ns)
    context.tables.insert_bucket(bucket)


def _bucket(context: ApplyContext, name: str) -> BucketRow:
    bucket = context.bucket(check_bucket_name(name))
    if bucket is None:
        raise BucketNotFoundError("There is no such bucket.", bucket=name)
    return bucket


# --- files --------------------------------------------------------------------------------------------------------


def _publish_file(context: ApplyContext, command: PublishFile) -> Result:
    key = check_key(command.key).encode()
    check_content(command.content)
    bucket = _bucket_of_file(context, command.bucket, key)
    if bucket.incarnation != command.incarnation:
        raise BucketRecreatedError(
            "The bucket was deleted and made again while this upload was under way; start it again.",
            bucket=bucket.name,
            incarnation=bucket.incarnation,
        )
    check_acknowledging_nodes(command, context.nodes, context.runs)
    if context.knows_garbage:
        check_start_index(command, context.index)
        check_no_node_drains(command, context.nodes)
        check_not_condemned(command, context.garbage)
    file = context.tables.file(bucket.incarnation, key)
    tombstone = context.history.tombstone(bucket.name, key) if file is None else None
    check_preconditions(command.preconditions, file, tombstone)
    version = FileVersion(
        bucket=bucket.name,
        key=command.key,
        version=context.index,
        term=context.term,
        etag=command.etag,
        content=command.content,
        content_type=command.content_type,
        user_metadata=command.user_metadata,
        epoch=command.epoch,
        durability=command.durability,
        stamp=context.stamp,
        modified_ns=next_modified_ns(tombstone or file, context.stamp),
    )
    if file is not None:
        context.tables.remove_file(bucket.incarnation, file)
        context.history.add(bucket.incarnation, file, context.index)
    if tombstone is not None:
        context.history.remove_tombstone(tombstone)
    context.tables.insert_version(bucket.incarnation, version)
    return PublishResult(file is None, version)


def _delete_file(context: ApplyContext, command: DeleteFile) -> Result:
    key = check_key(command.key).encode()
    bucket = _bucket_of_file(context, command.bucket, key)
    file = context.tables.file(bucket.incarnation, key)
    if file is None:
        # Before the preconditions: they count only where the answer would otherwise be a success (RFC 9110, 13.2.1).
        raise FileNotFoundInBucketError(
            "There is no such file.",
            bucket=bucket.name,
            key=command.key,
            version=_deleted_index(context, bucket.name, key),
        )
    check_preconditions(command.preconditions, file, None)
    context.tables.remove_file(bucket.incarnation, file)
    context.history.add(bucket.incarnation, file, context.index)
    context.history.insert_tombstone(TombstoneRow(bucket.name, key, context.index, file.modified_ns))
    return {"version": context.index}


def _bucket_of_file(context: ApplyContext, name: str, key: bytes) -> BucketRow:
    """The bucket; a rejection says when `key` was last changed, in an earlier bucket of that name."""
    try:
        return _bucket(context, name)
    except BucketNotFoundError as error:
        error.facts["version"] = _deleted_index(context, name, key)
        raise


def _deleted_index(context: ApplyContext, bucket_name: str, key: bytes) -> int:
    tombstone = context.history.tombstone(bucket_name, key)
    return 0 if tombstone is None else tombstone.deleted_index


# --- nodes --------------------------------------------------------------------------------------------------------


def _admit_node(context: ApplyContext, command: AdmitNode) -> Result:
    node_id = check_member_id(command.node_id)
    if node_id in context.nodes:
        return {"created": False}
    _admit(context, node_id)
    return {"created": True}


def _admit(context: ApplyContext, node_id: str) -> None:
    """A node that has not dialled in is away: it becomes active with its first announcement."""
    context.state = replace(context.state, epoch=context.state.epoch + 1)
    state = NodeState.JOINING if context.knows_garbage else NodeState.INACTIVE
    node = NodeRow(node_id, "", "", state, 0, context.state.epoch)
    context.nodes[node_id] = node
    context.tables.insert_node(node)


def _update_node(context: ApplyContext, command: UpdateNode) -> Result:
    node = _node(context, command.node_id)
    check_stored_integer("capacity_bytes", command.capacity_bytes)
    is_first = not node.url and node.state in {NodeState.INACTIVE, NodeState.JOINING}
    return _replace_node(
        context,
        replace(
            node,
            url=command.url,
            zone=command.zone,
            capacity_bytes=command.capacity_bytes,
            state=NodeState.ACTIVE if is_first else node.state,
        ),
    )


def _record_run(context: ApplyContext, command: RecordRun) -> Result:
    node, before = _node(context, command.node_id), context.runs.get(command.node_id)
    change = next_run(before, node.node_id, command.run)
    run = change.run
    if change.is_new_incarnation or change.has_other_redis:
        context.state = replace(context.state, epoch=context.state.epoch + 1)
    if change.has_other_redis:
        run = replace(run, fence=context.state.epoch)
    if change.is_new_incarnation:
        _put_node(context, replace(node, admitted_epoch=context.state.epoch))
    _put_run(context, node.node_id, run)
    incarnation = context.nodes[node.node_id].admitted_epoch
    return {
        "incarnation": incarnation,
        "fence": fence_of(incarnation, run),
        "epoch": context.state.epoch,
        "is_superseded": command.run.boot_id != run.boot_id,
    }


def _put_run(context: ApplyContext, node_id: str, run: RunRow | None) -> None:
    before = context.runs.get(node_id)
    if run == before:
        return
    if before is not None:
        context.tables.remove_run(before)
    # Replaced and not changed: the store shows the one from before until this batch is committed.
    others = {known: row for known, row in context.runs.items() if known != node_id}
    context.runs = others if run is None else others | {node_id: run}
    if run is not None:
        context.tables.insert_run(run)


def _set_node_state(context: ApplyContext, command: SetNodeState) -> Result:
    node = _node(context, command.node_id)
    if command.state == NodeState.JOINING:
        raise InvalidRequestError("A node joins by being admitted.", name="state")
    if command.seen is not None and command.seen != node.state:
        return {"epoch": context.state.epoch}
    if context.knows_garbage:
        return _set_state(context, node, command.state)
    return _replace_node(context, replace(node, state=command.state))


def _drain_node(context: ApplyContext, command: DrainNode) -> Result:
    node = _node(context, command.node_id)
    drains = context.tables.drains()
    if node.node_id not in drains:
        if command.min_left is not None:
            check_may_drain(node, command.min_left, context.nodes.values())
        _set_state(context, node, NodeState.DRAINING)
        drains[node.node_id] = context.index
    return {"epoch": context.state.epoch, "log_index": drains[node.node_id]}


def _set_state(context: ApplyContext, node: NodeRow, state: NodeState) -> Result:
    """The node has that state, and drains from this entry on if that is it and it did not drain before."""
    since = context.tables.drains().get(node.node_id)
    is_draining = state == NodeState.DRAINING
    if is_draining != (since is not None):
        context.tables.set_drain(node.node_id, context.index if is_draining else None)
        # In the node map, which is read anew with every epoch; the row of the node may stay as it is.
        context.state = replace(context.state, epoch=context.state.epoch + 1)
        _put_node(context, replace(node, state=state))
        return {"epoch": context.state.epoch}
    return _replace_node(context, replace(node, state=state))


def _remove_node(context: ApplyContext, command: RemoveNode) -> Result:
    node = _node(context, command.node_id)
    if context.knows_garbage and not command.is_forced:
        since = context.tables.drains().get(node.node_id)
        check_removal(node, command.proof, draining_since=since, epoch=context.state.epoch)
    context.state = replace(context.state, epoch=context.state.epoch + 1)
    del context.nodes[node.node_id]
    context.tables.remove_node(node)
    context.tables.set_drain(node.node_id, None)
    _put_run(context, node.node_id, None)
    return {"epoch": context.state.epoch}


def _replace_node(context: ApplyContext, node: NodeRow) -> Result:
    """Every column is one that placement can see, so the epoch grows exactly when the row changes."""
    if node != context.nodes[node.node_id]:
        context.state = replace(context.state, epoch=context.state.epoch + 1)
        _put_node(context, node)
    return {"epoch": context.state.epoch}


def _put_node(context: ApplyContext, node: NodeRow) -> None:
    context.tables.remove_node(context.nodes[node.node_id])
    context.tables.insert_node(node)
    context.nodes[node.node_id] = node


def _node(context: ApplyContext, node_id: str) -> NodeRow:
    node = context.nodes.get(check_member_id(node_id))
    if node is None:
        raise NodeNotFoundError("There is no such storage node.", node_id=node_id)
    return node


# --- garbage ------------------------------------------------------------------------------------------------------


def _condemn_chunks(context: ApplyContext, command: CondemnChunks) -> Result:
    digests = split_digests(command.digests)
    if len(digests) != len(command.start_indexes):
        raise InvalidRequestError("Every digest needs its start index.", name="start_indexes")
    # A node that names one twice has recorded the higher.
    recorded: dict[bytes, int] = {}
    for digest, start_index in zip(digests, command.start_indexes, strict=True):
        recorded[digest] = max(start_index, recorded.get(digest, 0))
    condemned = context.garbage.condemned(recorded)
    stale = {digest for digest, start_index in recorded.items() if condemned.get(digest, 0) <= start_index}
    due = stale - context.tables.referenced(stale)
    context.garbage.condemn(due, context.index)
    return {"condemned": len(due)}


def _begin_backup(context: ApplyContext, command: BeginBackup) -> Result:
    rows = {row.backup_id: row for row in context.garbage.backups()}
    before = rows.get(command.backup_id)
    if before is not None and before.is_living(context.state.lived_ms):
        return _lease(before)
    if before is None and len(rows) >= BACKUPS_MAX:
        raise ConflictError("As many backups as there may be are under way; end one first.", limit=BACKUPS_MAX)
    expires_ms = lease_end_ms(context.state.lived_ms, command.lease_s)
    row = BackupRow(command.backup_id, context.index, command.owner, expires_ms)
    return _put_backup(context, before, row)


def _renew_backup(context: ApplyContext, command: RenewBackup) -> Result:
    before = context.garbage.backup(command.backup_id)
    if before is None or not before.is_living(context.state.lived_ms):
        raise BackupNotFoundError(
            "No such backup is under way, or its lease ran out; begin another one.", backup_id=command.backup_id
        )
    return _put_backup(
        context, before, before._replace(expires_ms=lease_end_ms(context.state.lived_ms, command.lease_s))
    )


def _end_backup(context: ApplyContext, command: EndBackup) -> Result:
    before = context.garbage.backup(command.backup_id)
    if before is not None:
        context.garbage.remove_backup(before)
    return {"ended": before is not None and before.is_living(context.state.lived_ms)}


def _put_backup(context: ApplyContext, before: BackupRow | None, row: BackupRow) -> Result:
    if before is not None:
        context.garbage.remove_backup(before)
    context.garbage.insert_backup(row)
    return _lease(row)


def _lease(row: BackupRow) -> Result:
    return {"log_index": row.log_index, "expires_ms": row.expires_ms}


# --- the cluster's own entries --------------------------------------------------------------------------------------


def _pass_time(context: ApplyContext, command: PassTime) -> Result:
    sweep = Sweep(context.tables, context.history, context.garbage, context.index)
    context.state, result = pass_time(command, context.index, context.state, context.history, sweep)
    return result


def _announce_member(context: ApplyContext, command: AnnounceMember) -> Result:
    member_id = check_member_id(command.member_id)
    if command.entry_version is not None:
        check_stored_integer("entry_version", command.entry_version)
    context.tables.set_member(member_id, command.entry_version)
    # Replaced and not changed: the store shows the one from before until this batch is committed.
    others = {known: version for known, version in context.announced.items() if known != member_id}
    context.announced = others if command.entry_version is None else others | {member_id: command.entry_version}
    return {}


def _raise_entry_version(context: ApplyContext, command: RaiseEntryVersion) -> Result:
    if command.entry_version > max(context.announced.values(), default=0):
        raise InvalidRequestError("No member announced that it knows entries of that version.", name="entry_version")
    context.state = replace(context.state, entry_version=max(context.state.entry_version, command.entry_version))
    return {"entry_version": context.state.entry_version}


_HANDLERS: Final[dict[type[Command], Callable[[ApplyContext, Any], Result]]] = {
    CreateBucket: _create_bucket,
    DeleteBucket: _delete_bucket,
    PublishFile: _publish_file,
    DeleteFile: _delete_file,
    AdmitNode: _admit_node,
    UpdateNode: _update_node,
    RecordRun: _record_run,
    SetNodeState: _set_node_state,
    DrainNode: _drain_node,
    RemoveNode: _remove_node,
    CondemnChunks: _condemn_chunks,
    BeginBackup: _begin_backup,
    RenewBackup: _renew_backup,
    EndBackup: _end_backup,
    PassTime: _pass_time,
    AnnounceMember: _announce_member,
    RaiseEntryVersion: _raise_entry_version,
}
