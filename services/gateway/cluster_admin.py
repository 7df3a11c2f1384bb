"""The cluster as operators see it, and the changes they may make: admit a storage node, drain it, remove it.

A node is never removed while it holds chunks, unless the operator says that it is lost: DELETE first drains, and removes
once the node itself reports that it is empty. So it can be repeated until it is done.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from services.gateway.ports import ChunkNodes, Metadata
from shared.consensus_calls.client import ReadContext
from shared.contracts.cluster import NodeState, StorageNode
from shared.contracts.metadata import AdmitNode, ClusterAnswer, GetCluster, RemoveNode, SetNodeState
from shared.contracts.names import check_member_id
from shared.contracts.time import TimeSource
from shared.errors import InternalError, NodeNotFoundError, TrivetError, UnavailableError

_STATUS_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """`chunks_left` is None while the node cannot be asked, or does not know."""

    node_id: str
    is_removed: bool
    chunks_left: int | None


class ClusterAdmin:
    """Reads are linearizable; changes are log entries."""

    def __init__(self, metadata: Metadata, nodes: ChunkNodes, clock: TimeSource) -> None:
        self._metadata = metadata
        self._nodes = nodes
        self._clock = clock

    async def cluster(self) -> tuple[ClusterAnswer, ReadContext]:
        """Members, nodes and who leads."""
        answer, context = await self._metadata.read(GetCluster())
        if not isinstance(answer, ClusterAnswer):
            raise InternalError("Consensus answered another question than was asked.")
        return answer, context

    async def admit(self, node_id: str) -> bool:
        """Let a storage node in; false when it had been admitted before.

        Raises:
            InvalidNameError: that is no node id; definite.
        """
        command = AdmitNode(node_id=check_member_id(node_id), stamp=self._clock.stamp())
        outcome = await self._metadata.propose(command)
        return bool((outcome.result or {}).get("created"))

    async def remove(self, node_id: str, *, is_lost: bool) -> DrainProgress:
        """Drain a node, and remove it once it is empty; at once when it never held anything or `is_lost`.

        Raises:
            InvalidNameError, NodeNotFoundError: definite.
            UnavailableError: it drains, and it is not known whether it is empty; it was not removed.
        """
        check_member_id(node_id)
        answer, _ = await self.cluster()
        node = next((node for node in answer.node_map.nodes if node.id == node_id), None)
        if node is None:
            raise NodeNotFoundError("There is no such storage node.", node=node_id)
        chunks_left = None if is_lost else await self._chunks_left(node)
        is_drained = node.state == NodeState.DRAINING and chunks_left == 0
        if is_lost or is_drained or not node.url:
            await self._metadata.propose(RemoveNode(node_id=node_id, is_forced=True, stamp=self._clock.stamp()))
            return DrainProgress(node_id, is_removed=True, chunks_left=chunks_left)
        if node.state != NodeState.DRAINING:
            await self._metadata.propose(
                SetNodeState(node_id=node_id, state=NodeState.DRAINING, stamp=self._clock.stamp())
            )
        elif chunks_left is None:
            raise UnavailableError(
                "The node does not say how many chunks it holds, so it was not removed; say lost=true if it is lost.",
                definite=True,
                node=node_id,
            )
        return DrainProgress(node_id, is_removed=False, chunks_left=chunks_left)

    async def _chunks_left(self, node: StorageNode) -> int | None:
        try:
            async with asyncio.timeout(_STATUS_TIMEOUT_S):
                return (await self._nodes.status(node)).chunk_count
        except (TrivetError, TimeoutError):
            return None
