"""The cluster as operators see it, and the changes they may make: admit a storage node, drain it, remove a lost one.

A drained node is removed by the consensus leader, once the node has proved that it holds nothing any more that a file refers
to: nobody has to wait for that with a request. A node that is lost proves nothing; it is removed when an operator says so, and
the answer says how much may be gone with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.gateway.ports import Metadata
from shared.cluster_summary import ClusterSummary, chunks_at_risk, summarise
from shared.consensus_calls.client import ReadContext
from shared.contracts.cluster import NodeMap, NodeState, StorageNode
from shared.contracts.metadata import AdmitNode, ClusterAnswer, DrainNode, GetCluster, RemoveNode, SetNodeState
from shared.contracts.names import check_member_id
from shared.contracts.time import TimeSource
from shared.errors import (
    ConflictError,
    LastHolderError,
    NodeNotFoundError,
    NodeNotLostError,
    TrivetError,
)
from shared.placement import live_nodes


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of a request to remove a node.

    Attributes:
        draining_since: the log index since when it drains; None where it is removed.
        chunks_left: what it holds that files refer to, as it said last; None while that is not known.
        chunks_at_risk: of a removed one: at most so many chunks may have had no other verified holder; None when not known.
    """

    node_id: str
    draining_since: int | None = None
    chunks_left: int | None = None
    chunks_at_risk: int | None = None

    @property
    def is_removed(self) -> bool:
        """Whether the node is gone from the node map."""
        return self.draining_since is None


class StorageHealth(Protocol):
    """What this gateway knows of storage nodes by itself."""

    async def unserved_s(self, nodes: Sequence[StorageNode]) -> dict[str, float]:
        """Those that are not ready now, and for how many seconds this gateway has had to do without them."""


class ClusterAdmin:
    """Reads are linearizable; changes are log entries."""

    def __init__(self, metadata: Metadata, clock: TimeSource, health: StorageHealth, *, replica_count: int) -> None:
        self._metadata = metadata
        self._clock = clock
        self._health = health
        self._replica_count = replica_count

    async def cluster(self) -> tuple[ClusterAnswer, ReadContext]:
        """Members, nodes and who leads."""
        return await self._metadata.read(GetCluster())

    async def summary(self, answer: ClusterAnswer) -> ClusterSummary:
        """How the cluster of `answer` is, and which live nodes this gateway misses already: the leader waits for longer."""
        found = summarise(answer.node_map, self._replica_count, is_low_on_disk=answer.is_low_on_disk)
        # What is said of a suspect by the leader is enough.
        live = [node for node in live_nodes(answer.node_map) if node.state != NodeState.SUSPECT]
        unserved_s = await self._health.unserved_s(live)
        missed = [
            f"{node_id} has not served this gateway for {int(for_s)} s"
            if for_s >= 1
            else f"{node_id} does not serve this gateway"
            for node_id, for_s in sorted(unserved_s.items())
        ]
        return replace(found, degraded=[*missed, *found.degraded])

    async def admit(self, node_id: str) -> bool:
        """Let a storage node in; false when it had been admitted before.

        Raises:
            InvalidNameError: that is no node id; definite.
        """
        command = AdmitNode(node_id=check_member_id(node_id), stamp=self._clock.stamp())
        outcome = await self._metadata.propose(command)
        return outcome.result.created

    async def drain(self, node_id: str) -> Removal:
        """Take nothing more to a node and have it removed when it is empty; one that never dialled in is removed at once.

        Repeating it changes nothing and says how far it is.

        Raises:
            InvalidNameError, NodeNotFoundError: definite.
            TooFewNodesError: fewer nodes would be left than a chunk has replicas; definite, nothing was changed.
            DrainInProgressError: another node drains; definite, nothing was changed.
        """
        node_map, node = await self._find(node_id)
        if not node.url:
            await self._remove(node)
            return Removal(node_id, chunks_at_risk=0)
        command = DrainNode(node_id=node_id, min_left=self._replica_count, stamp=self._clock.stamp())
        outcome = await self._metadata.propose(command)
        report = node.reconcile if node.state == NodeState.DRAINING else None
        return Removal(
            node_id,
            draining_since=outcome.result.log_index,
            chunks_left=report.surplus_chunks if report is not None and report.epoch == node_map.epoch else None,
        )

    async def cancel_drain(self, node_id: str) -> None:
        """Use a draining node again as any other; what it has given away comes back to it.

        Raises:
            InvalidNameError, NodeNotFoundError: definite.
            ConflictError: it does not drain; definite.
        """
        _, node = await self._find(node_id)
        if node.state != NodeState.DRAINING:
            raise ConflictError("The node does not drain.", node_id=node_id, state=node.state)
        command = SetNodeState(
            node_id=node_id, state=NodeState.ACTIVE, seen=NodeState.DRAINING, stamp=self._clock.stamp()
        )
        await self._metadata.propose(command)

    async def remove_lost(self, node_id: str) -> Removal:
        """Remove a node that will never come back; the others restore its replicas.

        Raises:
            InvalidNameError, NodeNotFoundError: definite.
            NodeNotLostError: it is heard of; definite.
            LastHolderError: no other node is live, so it may be the only one that holds anything; definite.
        """
        node, at_risk = await self._find_lost(node_id)
        await self._remove(node)
        return Removal(node_id, chunks_at_risk=at_risk)

    async def replace(self, node_id: str, by: str) -> Removal:
        """Admit `by`, and remove the lost `node_id`, whose chunks the others restore, on `by`, too, once it dials in.

        Raises:
            InvalidNameError, NodeNotFoundError, NodeNotLostError, LastHolderError: as `remove_lost`; nothing was changed.
            ConflictError: both are the same node; definite.
            TrivetError: of a removal that failed after `by` was admitted; not definite, and may be repeated.
        """
        if check_member_id(by) == node_id:
            raise ConflictError(
                "A node cannot replace itself: with an empty disk it may come back under its own id.", node_id=node_id
            )
        await self._find_lost(node_id)
        is_new = await self.admit(by)
        try:
            return await self.remove_lost(node_id)  # looks again: the node may have come back meanwhile
        except TrivetError as error:
            error.definite = error.definite and not is_new  # half of it is done, and a repetition does the rest
            raise

    async def _find_lost(self, node_id: str) -> tuple[StorageNode, int | None]:
        """The node, and how many chunks are at risk with it. Raises what `remove_lost` raises."""
        node_map, node = await self._find(node_id)
        if not node.url:
            return node, 0
        live_ids = {other.id for other in live_nodes(node_map)}
        if node_id in live_ids or (node.state == NodeState.DRAINING and node.reason is None):
            raise NodeNotLostError(
                "The cluster still hears of this node: drain it; or stop it, and ask again when it is inactive.",
                node_id=node_id,
                state=node.state,
            )
        if not live_ids:
            raise LastHolderError(
                "No other storage node is live, so this one may be the only holder of what is stored.", node_id=node_id
            )
        return node, chunks_at_risk(node_map, self._replica_count, node_id)

    async def _find(self, node_id: str) -> tuple[NodeMap, StorageNode]:
        check_member_id(node_id)
        answer, _ = await self.cluster()
        for node in answer.node_map.nodes:
            if node.id == node_id:
                return answer.node_map, node
        raise NodeNotFoundError("There is no such storage node.", node_id=node_id)

    async def _remove(self, node: StorageNode) -> None:
        await self._metadata.propose(RemoveNode(node_id=node.id, is_forced=True, stamp=self._clock.stamp()))
