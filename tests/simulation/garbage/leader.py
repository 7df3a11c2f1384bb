"""The leader's duties and the operator's acts as far as storage nodes are concerned.

What the leader decides, it decides by what it heard; what becomes of it, the log decides when the proposal arrives there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from shared.contracts.cluster import NodeRun, NodeState, StorageNode
from shared.contracts.metadata import (
    AdmitNode,
    DrainNode,
    RecordRun,
    RemovalProof,
    RemoveNode,
    SetNodeState,
    UpdateNode,
)
from shared.errors import NodeNotFoundError
from shared.units import GIB
from tests.simulation.garbage.kernel import Call, Party, Steps
from tests.simulation.garbage.log import REPLICA_COUNT, STAMP

if TYPE_CHECKING:
    from tests.simulation.garbage.node import Node
    from tests.simulation.garbage.world import World

_AWAY: Final = (NodeState.INACTIVE, NodeState.SUSPECT)


class Leader:
    """The one that leads now; another one knows nothing of what this one heard."""

    def __init__(self, world: World) -> None:
        self.party = Party("leader")
        self._world = world

    def on_heartbeat(self, node: Node, run: NodeRun, drained: tuple[int, int] | None) -> Steps:
        """Record which disk the node has, and bring it back; its fence."""
        known = self._node(node.id)
        recorded = self._world.log.store.runs().get(node.id)
        if recorded is None or not recorded.describes(run):
            yield self._propose(RecordRun(node_id=node.id, run=run, stamp=STAMP))
        if not known.url:
            yield self._propose(
                UpdateNode(node_id=node.id, url=f"http://{node.id}", zone=node.zone, capacity_bytes=GIB, stamp=STAMP)
            )
        elif known.state in _AWAY:
            yield self._propose(SetNodeState(node_id=node.id, state=NodeState.ACTIVE, seen=known.state, stamp=STAMP))
        proof = self.proof_of(known, drained)
        if proof is not None:
            self._world.kernel.spawn(self.party, self._remove(node.id, proof))
        recorded = self._world.log.store.runs().get(node.id)
        if recorded is None or recorded.boot_id != run.boot_id:
            return None
        return self._world.log.store.fence(node.id)

    def proof_of(self, node: StorageNode, drained: tuple[int, int] | None) -> RemovalProof | None:
        """That a draining node holds nothing any more, by its own word: the log index and the epoch at which it looked."""
        if drained is None or node.state != NodeState.DRAINING:
            return None
        log_index, epoch = drained
        return RemovalProof(log_index=log_index, epoch=epoch, incarnation=node.incarnation)

    def _remove(self, node_id: str, proof: RemovalProof) -> Steps:
        yield self._propose(RemoveNode(node_id=node_id, proof=proof, stamp=STAMP))

    def set_state(self, node_id: str, state: NodeState) -> Steps:
        """The failure detector's verdict: right or wrong."""
        seen = self._node(node_id).state
        if seen != NodeState.DRAINING:
            yield self._propose(SetNodeState(node_id=node_id, state=state, seen=seen, stamp=STAMP))

    def drain(self, node_id: str, *, is_forced: bool) -> Steps:
        """An operator wants the node to leave."""
        min_left = None if is_forced else REPLICA_COUNT
        yield self._propose(DrainNode(node_id=node_id, min_left=min_left, stamp=STAMP))

    def cancel_drain(self, node_id: str) -> Steps:
        """An operator wants it to stay after all."""
        yield self._propose(SetNodeState(node_id=node_id, state=NodeState.ACTIVE, seen=NodeState.DRAINING, stamp=STAMP))

    def admit(self, node_id: str) -> Steps:
        """An operator lets a node in, or in again."""
        yield self._propose(AdmitNode(node_id=node_id, stamp=STAMP))

    def _node(self, node_id: str) -> StorageNode:
        for node in self._world.log.node_map.nodes:
            if node.id == node_id:
                return node
        raise NodeNotFoundError("There is no such storage node.", node_id=node_id)

    def _propose(self, command: Any) -> Call:
        return Call(self._world.log_party, lambda: self._world.log.propose(command))
