"""What commands change in storage nodes: admission, announcements, runs, states, drains, removal.

Every check comes before the first write.
"""

from __future__ import annotations

from dataclasses import replace

from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.decisions import (
    check_may_drain,
    check_removal,
    check_stored_integer,
    fence_of,
    next_run,
)
from services.consensus.metadata.rows import NodeRow, RunRow
from shared.contracts.cluster import NodeState
from shared.contracts.metadata import (
    AdmitNode,
    Created,
    DrainingNode,
    DrainNode,
    EpochResult,
    RecordedRun,
    RecordRun,
    RemoveNode,
    SetNodeState,
    UpdateNode,
)
from shared.contracts.names import check_member_id
from shared.errors import InvalidRequestError, NodeNotFoundError


def admit_node(context: ApplyContext, command: AdmitNode) -> Created:
    """Let it in, unless it is."""
    node_id = check_member_id(command.node_id)
    if node_id in context.nodes:
        return Created(created=False)
    admit(context, node_id)
    return Created(created=True)


def admit(context: ApplyContext, node_id: str) -> None:
    """A node that has not dialled in is away: it becomes active with its first announcement."""
    context.state = replace(context.state, epoch=context.state.epoch + 1)
    state = NodeState.JOINING if context.knows_garbage else NodeState.INACTIVE
    node = NodeRow(node_id, "", "", state, 0, context.state.epoch)
    context.nodes[node_id] = node
    context.tables.insert_node(node)


def update_node(context: ApplyContext, command: UpdateNode) -> EpochResult:
    """It announced other facts. Raises NodeNotFoundError."""
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


def record_run(context: ApplyContext, command: RecordRun) -> RecordedRun:
    """Decide which run counts. Raises NodeNotFoundError."""
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
    return RecordedRun(
        incarnation=incarnation,
        fence=fence_of(incarnation, run),
        epoch=context.state.epoch,
        is_superseded=command.run.boot_id != run.boot_id,
    )


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


def set_node_state(context: ApplyContext, command: SetNodeState) -> EpochResult:
    """As the failure detector or an operator says. Raises NodeNotFoundError, InvalidRequestError."""
    node = _node(context, command.node_id)
    if command.state == NodeState.JOINING:
        raise InvalidRequestError("A node joins by being admitted.", name="state")
    if command.seen is not None and command.seen != node.state:
        return EpochResult(epoch=context.state.epoch)
    if context.knows_garbage:
        return _set_state(context, node, command.state)
    return _replace_node(context, replace(node, state=command.state))


def drain_node(context: ApplyContext, command: DrainNode) -> DrainingNode:
    """No publish counts it from this entry on. Raises the rejections of `DrainNode`."""
    node = _node(context, command.node_id)
    drains = context.tables.drains()
    if node.node_id not in drains:
        if command.min_left is not None:
            check_may_drain(node, command.min_left, context.nodes.values())
        _set_state(context, node, NodeState.DRAINING)
        drains[node.node_id] = context.index
    return DrainingNode(epoch=context.state.epoch, log_index=drains[node.node_id])


def _set_state(context: ApplyContext, node: NodeRow, state: NodeState) -> EpochResult:
    """The node has that state, and drains from this entry on if that is it and it did not drain before."""
    since = context.tables.drains().get(node.node_id)
    is_draining = state == NodeState.DRAINING
    if is_draining != (since is not None):
        context.tables.set_drain(node.node_id, context.index if is_draining else None)
        # In the node map, which is read anew with every epoch; the row of the node may stay as it is.
        context.state = replace(context.state, epoch=context.state.epoch + 1)
        _put_node(context, replace(node, state=state))
        return EpochResult(epoch=context.state.epoch)
    return _replace_node(context, replace(node, state=state))


def remove_node(context: ApplyContext, command: RemoveNode) -> EpochResult:
    """Take it out of the map. Raises NodeNotFoundError, RemovalNotProvedError."""
    node = _node(context, command.node_id)
    if context.knows_garbage and not command.is_forced:
        since = context.tables.drains().get(node.node_id)
        check_removal(node, command.proof, draining_since=since, epoch=context.state.epoch)
    context.state = replace(context.state, epoch=context.state.epoch + 1)
    del context.nodes[node.node_id]
    context.tables.remove_node(node)
    context.tables.set_drain(node.node_id, None)
    _put_run(context, node.node_id, None)
    return EpochResult(epoch=context.state.epoch)


def _replace_node(context: ApplyContext, node: NodeRow) -> EpochResult:
    """Every column is one that placement can see, so the epoch grows exactly when the row changes."""
    if node != context.nodes[node.node_id]:
        context.state = replace(context.state, epoch=context.state.epoch + 1)
        _put_node(context, node)
    return EpochResult(epoch=context.state.epoch)


def _put_node(context: ApplyContext, node: NodeRow) -> None:
    context.tables.remove_node(context.nodes[node.node_id])
    context.tables.insert_node(node)
    context.nodes[node.node_id] = node


def _node(context: ApplyContext, node_id: str) -> NodeRow:
    node = context.nodes.get(check_member_id(node_id))
    if node is None:
        raise NodeNotFoundError("There is no such storage node.", node_id=node_id)
    return node
