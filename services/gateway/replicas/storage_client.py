"""Storage nodes over HTTP (`shared.contracts.chunks`), signed, on the shared client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from shared.contracts.chunks import (
    FENCE_HEADER,
    MAX_HAS_DIGESTS,
    START_INDEX_QUERY,
    HasRequest,
    HasResponse,
    NodeStatus,
)
from shared.contracts.cluster import StorageNode
from shared.errors import PeerUnreachableError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER


class StorageClient:
    """`services.gateway.ports.ChunkNodes` over the network."""

    def __init__(self, client: PeerClient, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def put_chunk(self, node: StorageNode, digest: str, data: bytes, *, start_index: int) -> int | None:
        """Store `data`; returns when it is durable on the node, with the fence of the acknowledgement."""
        headers = {
            BODY_DIGEST_HEADER: digest,
            "content-type": "application/octet-stream",
        }
        target = f"/v1/chunks/{digest}?{START_INDEX_QUERY}={start_index}"
        response = await self._client.request(
            _peer(node), "PUT", target, timeout_s=self._timeout_s, content=data, headers=headers
        )
        fence = response.headers.get(FENCE_HEADER, "")
        return int(fence) if fence.isascii() and fence.isdigit() else None

    async def get_chunk(self, node: StorageNode, digest: str) -> bytes:
        """What the node keeps under `digest`."""
        response = await self._client.request(_peer(node), "GET", f"/v1/chunks/{digest}", timeout_s=self._timeout_s)
        return response.content

    async def has_chunks(self, node: StorageNode, digests: Sequence[str]) -> set[str]:
        """Those of `digests` that the node holds; one request per `MAX_HAS_DIGESTS`."""
        present: set[str] = set()
        for start in range(0, len(digests), MAX_HAS_DIGESTS):
            body = HasRequest(digests=list(digests[start : start + MAX_HAS_DIGESTS]))
            answer = await self._client.call(
                _peer(node), "POST", "/v1/chunks/has", HasResponse, body=body, timeout_s=self._timeout_s
            )
            present.update(answer.present)
        return present

    async def status(self, node: StorageNode) -> NodeStatus:
        """The node about itself."""
        return await self._client.call(_peer(node), "GET", "/v1/status", NodeStatus, timeout_s=self._timeout_s)

    async def probe(self, node: StorageNode, *, timeout_s: float) -> None:
        """Ask the node's readiness, the whole question bounded by `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._client.request(_peer(node), "GET", "/readyz", timeout_s=timeout_s)
        except TimeoutError as error:
            raise PeerUnreachableError(f"{node.id} did not answer a probe in time.", peer=node.id) from error


def _peer(node: StorageNode) -> PeerAddress:
    return PeerAddress(node.id, node.url)
