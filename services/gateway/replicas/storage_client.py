"""Storage nodes over HTTP (`shared.contracts.chunks`), signed, on the shared client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from shared.contracts.chunks import (
    FENCE_HEADER,
    MAX_HAS_DIGESTS,
    START_INDEX_QUERY,
    ChunkStored,
    HasRequest,
    HasResponse,
    NodeStatus,
)
from shared.contracts.cluster import StorageNode
from shared.errors import PeerUnreachableError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient, invalid_answer, parse_answer
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER


class StorageClient:
    """`services.gateway.ports.ChunkNodes` over the network."""

    def __init__(self, client: PeerClient, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def put_chunk(self, node: StorageNode, digest: str, data: bytes, *, start_index: int) -> int | None:
        """Store `data`; returns when it is durable on the node, with the fence of the acknowledgement."""
        headers = {BODY_DIGEST_HEADER: digest, "content-type": "application/octet-stream"}
        target = f"/v1/chunks/{digest}?{START_INDEX_QUERY}={start_index}"
        peer = _peer(node)
        response = await self._client.request(
            peer, "PUT", target, timeout_s=self._timeout_s, content=data, headers=headers
        )
        # The client has checked that it is this node that answers; what it says must be about this chunk.
        stored = parse_answer(peer, ChunkStored, response.content)
        if stored.digest != digest or stored.size_bytes != len(data):
            raise invalid_answer(peer, "it acknowledged another chunk")
        fence = response.headers.get(FENCE_HEADER, "")
        return int(fence) if fence.isascii() and fence.isdigit() else None

    async def get_chunk(self, node: StorageNode, digest: str) -> bytes:
        """What the node keeps under `digest`."""
        response = await self._client.request(_peer(node), "GET", f"/v1/chunks/{digest}", timeout_s=self._timeout_s)
        return bytes(response.content)

    async def has_chunks(self, node: StorageNode, digests: Sequence[str]) -> set[str]:
        """Those of `digests` that the node holds; one request per `MAX_HAS_DIGESTS`."""
        present: set[str] = set()
        for start in range(0, len(digests), MAX_HAS_DIGESTS):
            body = HasRequest(digests=list(digests[start : start + MAX_HAS_DIGESTS]))
            peer = _peer(node)
            answer = await self._client.call(
                peer, "POST", "/v1/chunks/has", HasResponse, body=body, timeout_s=self._timeout_s
            )
            if not set(body.digests).issuperset(answer.present):
                raise invalid_answer(peer, "it confirmed a chunk that it was not asked about")
            present.update(answer.present)
        return present

    async def status(self, node: StorageNode) -> NodeStatus:
        """The node about itself."""
        return await self._client.call(_peer(node), "GET", "/v1/status", NodeStatus, timeout_s=self._timeout_s)

    async def probe(self, node: StorageNode, *, timeout_s: float) -> None:
        """Ask the node's readiness, bounded by `timeout_s` in all. A stranger at its address is not ready: it cannot sign."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._client.request(_peer(node), "GET", "/readyz", timeout_s=timeout_s)
        except TimeoutError as error:
            raise PeerUnreachableError(f"{node.id} did not answer a probe in time.", peer=node.id) from error


def _peer(node: StorageNode) -> PeerAddress:
    return PeerAddress(node.id, node.url)
