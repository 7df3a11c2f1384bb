"""A running cluster, as an operator's keys let a backup see it: where chunks are, their bytes, and who proves them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from blake3 import blake3

from shared.consensus_calls.client import ConsensusClient
from shared.contracts.chunks import MAX_HAS_DIGESTS, START_INDEX_QUERY, HasRequest, HasResponse
from shared.contracts.cluster import NodeMap, StorageNode
from shared.contracts.metadata import GetCluster
from shared.errors import ChunkCorruptError, DataUnavailableError, TrivetError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient, proved_by_name
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER
from shared.placement import expected_holders, live_nodes, read_order
from shared.roles import Role

CALL_TIMEOUT_S: Final = 30.0


class ClusterChunks:
    """The chunks of a cluster. `look` first, and again from time to time: nodes come and go."""

    def __init__(self, log: ConsensusClient, client: PeerClient, replica_count: int) -> None:
        self._log = log
        self._client = client
        self._replica_count = replica_count
        self._map = NodeMap(epoch=0, nodes=[])
        self._log_index = 0

    async def look(self) -> None:
        """Learn which nodes there are. Raises TrivetError."""
        answer, context = await self._log.read(GetCluster())
        self._map, self._log_index = answer.node_map, context.log_index

    async def get(self, digest: str) -> bytes:
        """The bytes, from whichever node has them.

        Raises:
            DataUnavailableError: no node gave them; says why, node by node.
        """
        outcomes: dict[str, str] = {}
        for node in read_order(digest, self._map):
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    answer = await self._client.request(
                        _peer(node), "GET", f"/v1/chunks/{digest}", timeout_s=CALL_TIMEOUT_S, covered=proved_by_name
                    )
                body = bytes(answer.content)
                if blake3(body).hexdigest() == digest:
                    return body
                outcomes[node.id] = ChunkCorruptError.code
            except TrivetError as error:
                outcomes[node.id] = error.code
            except TimeoutError:
                outcomes[node.id] = "timeout"
        raise DataUnavailableError(f"no node gives chunk {digest}: {outcomes}", chunk=digest, outcomes=outcomes)

    def holders(self, digest: str) -> list[StorageNode]:
        """The live nodes that are to have it."""
        return expected_holders(digest, live_nodes(self._map), self._replica_count)

    async def put(self, node: StorageNode, digest: str, body: bytes) -> None:
        """Have `node` store it durably. Raises TrivetError."""
        await self._client.request(
            _peer(node),
            "PUT",
            f"/v1/chunks/{digest}?{START_INDEX_QUERY}={self._log_index}",
            timeout_s=CALL_TIMEOUT_S,
            content=body,
            headers={BODY_DIGEST_HEADER: digest, "content-type": "application/octet-stream"},
        )

    async def held(self, digests: Sequence[str], *, verify: bool) -> dict[str, set[str]]:
        """By digest the ids of its expected holders that have it; with `verify` only those that have read it just now."""
        asked: dict[str, list[str]] = {}
        nodes = {node.id: node for node in live_nodes(self._map)}
        for digest in digests:
            for node in self.holders(digest):
                asked.setdefault(node.id, []).append(digest)
        found: dict[str, set[str]] = {digest: set() for digest in digests}
        answers = await asyncio.gather(*[self._ask(nodes[name], wanted, verify) for name, wanted in asked.items()])
        for name, has in zip(asked, answers, strict=True):
            for digest in has:
                found[digest].add(name)
        return found

    async def _ask(self, node: StorageNode, digests: list[str], verify: bool) -> set[str]:
        has: set[str] = set()
        left = digests
        while left:
            now, later = left[:MAX_HAS_DIGESTS], left[MAX_HAS_DIGESTS:]
            question = HasRequest(digests=now, verify=verify)
            answer = await self._client.call(
                _peer(node), "POST", "/v1/chunks/has", HasResponse, body=question, timeout_s=CALL_TIMEOUT_S
            )
            new = set(answer.verified if verify else answer.present) & set(now)
            has |= new
            # A node reads only so much for one question, and merely lists the rest.
            listed = [digest for digest in answer.present if digest not in new] if verify and new else []
            left = [*listed, *later]
        return has


def _peer(node: StorageNode) -> PeerAddress:
    return PeerAddress(node.id, node.url, Role.STORAGE)
