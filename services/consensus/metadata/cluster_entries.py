"""The cluster's own entries: its making, its clock, and which entries its members know."""

from __future__ import annotations

from dataclasses import replace

from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.buckets import insert_bucket
from services.consensus.metadata.decisions import check_stored_integer
from services.consensus.metadata.nodes import admit
from services.consensus.metadata.retention import Sweep, forget
from shared.contracts.calls import NoResult
from shared.contracts.metadata import (
    AnnounceMember,
    Created,
    InitCluster,
    PassedTime,
    PassTime,
    RaisedEntryVersion,
    RaiseEntryVersion,
)
from shared.contracts.names import DEFAULT_BUCKET, check_member_id
from shared.errors import ClusterMismatchError, InvalidRequestError


def init_cluster(context: ApplyContext, command: InitCluster) -> Created:
    """The bucket `default` and the first nodes. Raises ClusterMismatchError."""
    if context.state.cluster_id is not None:
        if context.state.cluster_id != command.cluster_id:
            raise ClusterMismatchError(
                "This cluster was initialised under another id.", cluster_id=context.state.cluster_id
            )
        return Created(created=False)
    node_ids = sorted({check_member_id(node_id) for node_id in command.admitted_nodes})
    context.state = replace(context.state, cluster_id=command.cluster_id)
    insert_bucket(context, DEFAULT_BUCKET)
    for node_id in node_ids:
        admit(context, node_id)
    return Created(created=True)


def pass_time(context: ApplyContext, command: PassTime) -> PassedTime:
    """The log's clock goes on, and some of what is old is forgotten."""
    sweep = Sweep(
        context.tables, context.history, context.garbage, context.index, context.trail, limit=command.forgotten_max
    )
    context.state, result = forget(command, context.index, context.state, context.history, sweep)
    return result


def announce_member(context: ApplyContext, command: AnnounceMember) -> NoResult:
    """What a member can apply, or that it has left."""
    member_id = check_member_id(command.member_id)
    if command.entry_version is not None:
        check_stored_integer("entry_version", command.entry_version)
    context.tables.set_member(member_id, command.entry_version)
    # Replaced and not changed: the store shows the one from before until this batch is committed.
    others = {known: version for known, version in context.announced.items() if known != member_id}
    context.announced = others if command.entry_version is None else others | {member_id: command.entry_version}
    return NoResult()


def raise_entry_version(context: ApplyContext, command: RaiseEntryVersion) -> RaisedEntryVersion:
    """Entries up to it may be proposed. Raises InvalidRequestError."""
    if command.entry_version > max(context.announced.values(), default=0):
        raise InvalidRequestError("No member announced that it knows entries of that version.", name="entry_version")
    context.state = replace(context.state, entry_version=max(context.state.entry_version, command.entry_version))
    return RaisedEntryVersion(entry_version=context.state.entry_version)
