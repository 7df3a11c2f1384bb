"""The other storage nodes over HTTP: who should be asked for a chunk, what they hold of it, and whether they keep it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from blake3 import blake3

from services.storage.placement_view import PlacementView
from shared.contracts.chunk_batches import (
    BATCH_PATH,
    BatchAnswer,
    BatchRequest,
    Failed,
    Found,
    GetItem,
    cut_bodies,
    encode_head,
    split_frame,
)
from shared.contracts.chunks import (
    PULL_HEADER,
    START_INDEX_HEADER,
    WITH_START_INDEX_QUERY,
    ConfirmRequest,
    ConfirmResponse,
    SurplusChunk,
)
from shared.contracts.cluster import StorageNode
from shared.errors import NotReadyError, PeerUnreachableError, TrivetError, error_from_problem
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient, invalid_answer, proved_by_name
from shared.peer_calls.http_connection import Body
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER
from shared.roles import Role

_GET_DEADLINE_S: Final = 10.0
_CONFIRM_DEADLINE_S: Final = 30.0
"""The peer may have to read what it confirms."""
_MAX_INDEX: Final = 2**63 - 1

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class PeerReplica:
    """What a peer sent under the name of a chunk, unchecked, and the start index that it has recorded; 0 when it did not say."""

    body: bytes
    start_index: int


class Peers:
    """Calls other nodes; the node map is the one that this node decides by."""

    def __init__(self, view: PlacementView, client: PeerClient) -> None:
        self._view = view
        self._client = client

    async def holders(self, digest: str) -> list[StorageNode]:
        """The other nodes, those that should hold the chunk first. Raises NotReadyError before the node map was read."""
        if self._view.epoch is None:
            raise NotReadyError("The node map was not read yet.")
        return self._view.sources(bytes.fromhex(digest))

    async def get_chunk(self, node: StorageNode, digest: str) -> bytes:
        """What `node` keeps under `digest`, unchecked. Raises the node's own error, or PeerUnreachableError."""
        return (await self.get_replica(node, digest)).body

    async def get_replica(self, node: StorageNode, digest: str) -> PeerReplica:
        """As `get_chunk`, with the start index."""
        target = f"/v1/chunks/{digest}?{WITH_START_INDEX_QUERY}=true"
        request = self._client.request(
            _peer(node),
            "GET",
            target,
            timeout_s=_GET_DEADLINE_S,
            headers={PULL_HEADER: "1"},
            covered=proved_by_name,
        )
        answer = await _in_time(node, request, _GET_DEADLINE_S)
        return PeerReplica(bytes(answer.content), _parse_index(answer.headers.get(START_INDEX_HEADER, "")))

    async def get_replicas(self, node: StorageNode, digests: Sequence[bytes]) -> list[PeerReplica | TrivetError]:
        """Small chunks in one request, raw digests; see `shared.contracts.chunk_batches` for how many and how large.

        What concerns one stands in its place. Raises PeerUnreachableError, PeerAnswerInvalidError.
        """
        head = encode_head(BatchRequest([GetItem(digest, with_start_index=True) for digest in digests]))
        frame: list[tuple[BatchAnswer, memoryview]] = []

        def digest_of_head(content: Body) -> str:
            signed, answer, bodies = split_frame(memoryview(content), BatchAnswer)
            frame.append((answer, bodies))
            return blake3(signed).hexdigest()

        request = self._client.request(
            _peer(node),
            "POST",
            BATCH_PATH,
            timeout_s=_GET_DEADLINE_S,
            content=[head],
            headers={
                BODY_DIGEST_HEADER: blake3(head).hexdigest(),
                "content-type": "application/octet-stream",
                PULL_HEADER: "1",
            },
            is_idempotent=True,
            covered=digest_of_head,
        )
        await _in_time(node, request, _GET_DEADLINE_S)
        answer, bodies = frame[-1]
        try:
            return _read_replicas(answer, bodies, len(digests))
        except (ValueError, TypeError, AttributeError) as error:
            raise invalid_answer(_peer(node), f"a frame that does not fit: {error}") from error

    async def confirm(self, node: StorageNode, epoch: int, start_indexes: dict[str, int]) -> ConfirmResponse:
        """Those of the chunks that `node` holds for good; it has recorded the start indexes by then.

        Raises the node's own error, or PeerUnreachableError.
        """
        chunks = [SurplusChunk(digest=digest, start_index=index) for digest, index in start_indexes.items()]
        call = self._client.call(
            _peer(node),
            "POST",
            "/v1/chunks/confirm",
            ConfirmResponse,
            body=ConfirmRequest(epoch=epoch, chunks=chunks),
            timeout_s=_CONFIRM_DEADLINE_S,
        )
        return await _in_time(node, call, _CONFIRM_DEADLINE_S)


def _read_replicas(answer: BatchAnswer, bodies: memoryview, count: int) -> list[PeerReplica | TrivetError]:
    """Raises ValueError, TypeError or AttributeError for an answer that does not fit."""
    if len(answer.results) != count:
        raise ValueError("another number of results")
    pieces = iter(cut_bodies(bodies, [found.size_bytes for found in answer.results if isinstance(found, Found)]))
    replicas: list[PeerReplica | TrivetError] = []
    for result in answer.results:
        if isinstance(result, Found):
            replicas.append(PeerReplica(bytes(next(pieces)), result.start_index or 0))
        elif isinstance(result, Failed):
            replicas.append(error_from_problem(result.problem))
        else:
            raise TypeError("no answer to a get")
    return replicas


async def _in_time(node: StorageNode, call: Awaitable[ResultT], deadline_s: float) -> ResultT:
    try:
        async with asyncio.timeout(deadline_s):
            return await call
    except TimeoutError as error:
        raise PeerUnreachableError(f"{node.id} did not answer in time.", peer=node.id) from error


def _parse_index(value: str) -> int:
    return min(int(value), _MAX_INDEX) if value.isascii() and value.isdigit() and len(value) <= 19 else 0


def _peer(node: StorageNode) -> PeerAddress:
    return PeerAddress(node.id, node.url, Role.STORAGE)
