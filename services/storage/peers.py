"""The other storage nodes: the expected holders of a chunk by the current node map, and their replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from shared.consensus_calls.client import ConsensusClient
from shared.contracts.cluster import NodeMap, StorageNode
from shared.contracts.metadata import ClusterAnswer, GetCluster
from shared.errors import InternalError, PeerUnreachableError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.placement import read_order

_MAP_AGE_S: Final = 30.0
_GET_DEADLINE_S: Final = 10.0


class Peers:
    """Asks consensus for the node map, at most every `_MAP_AGE_S` seconds, and only when peers are needed."""

    def __init__(
        self,
        node_id: str,
        consensus: ConsensusClient,
        client: PeerClient,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node_id = node_id
        self._consensus = consensus
        self._client = client
        self._clock = clock
        self._map: NodeMap | None = None
        self._asked_at_s = 0.0

    async def holders(self, digest: str) -> list[StorageNode]:
        """The other nodes, those that should hold the chunk first. Raises what a read of consensus raises."""
        node_map = await self._node_map()
        return [node for node in read_order(digest, node_map) if node.id != self._node_id]

    async def get_chunk(self, node: StorageNode, digest: str) -> bytes:
        """What `node` keeps under `digest`, unchecked. Raises the node's own error, or PeerUnreachableError."""
        peer = PeerAddress(node.id, node.url)
        try:
            async with asyncio.timeout(_GET_DEADLINE_S):
                answer = await self._client.request(peer, "GET", f"/v1/chunks/{digest}", timeout_s=_GET_DEADLINE_S)
        except TimeoutError as error:
            raise PeerUnreachableError(f"{node.id} did not answer in time.", peer=node.id) from error
        return bytes(answer.content)

    async def _node_map(self) -> NodeMap:
        now_s = self._clock()
        if self._map is None or now_s - self._asked_at_s > _MAP_AGE_S:
            answer, _ = await self._consensus.read(GetCluster())
            if not isinstance(answer, ClusterAnswer):
                raise InternalError("Consensus answered another question than was asked.")
            self._map, self._asked_at_s = answer.node_map, now_s
        return self._map
