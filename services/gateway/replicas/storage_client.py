"""Storage nodes over HTTP (`shared.contracts.chunks`, `shared.contracts.chunk_batches`), signed, on the shared client."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, ClassVar, Final, Generic, TypeVar

from blake3 import blake3

from services.gateway.ports import ChunkBytes, HeldChunks, ReadChunk
from services.gateway.replicas.chunk_batcher import ChunkBatcher
from shared.background_tasks import BackgroundTasks
from shared.contracts.chunk_batches import (
    BATCH_PATH,
    MAX_BATCHED_CHUNK_BYTES,
    BatchAnswer,
    BatchItem,
    BatchRequest,
    BatchResult,
    Failed,
    Found,
    GetItem,
    HasItem,
    Held,
    PutItem,
    Stored,
    cut_bodies,
    encode_head,
    split_frame,
)
from shared.contracts.chunks import (
    FENCE_HEADER,
    MAX_HAS_DIGESTS,
    START_INDEX_QUERY,
    ChunkStored,
    HasRequest,
    HasResponse,
)
from shared.contracts.cluster import StorageNode
from shared.contracts.reconcile import VerifyReport
from shared.errors import (
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    PayloadTooLargeError,
    PeerUnreachableError,
    TrivetError,
    error_from_problem,
)
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient, invalid_answer, parse_answer, proved_by_name
from shared.peer_calls.http_connection import Body, PeerAnswer
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER
from shared.request_trace import current_trace
from shared.roles import Role

_MAX_BATCHED_DIGESTS: Final = 16
"""Of one `has` that shares a request; a longer one is a request of its own."""

_REFUSED_AS_A_WHOLE: Final = (InvalidRequestError, NotFoundError, MethodNotAllowedError, PayloadTooLargeError)
"""Of a batch, not of an item: a node of the version before does not know the path."""

ResultT = TypeVar("ResultT")


class _ChunkCall(ABC, Generic[ResultT]):
    """One call to a node. It may go alone, or as some items of a frame."""

    kind: ClassVar[str]

    def __init__(self, items: Sequence[BatchItem], frame_bytes: int, body: ChunkBytes | None = None) -> None:
        """`body` is what it adds to the frame of the request; `frame_bytes` its length, or that of the expected answer."""
        self.items = items
        self.frame_bytes = frame_bytes
        self.body = body
        self.trace = current_trace.get()
        self.answered: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()

    @property
    def item_count(self) -> int:
        return len(self.items)

    @abstractmethod
    async def alone(self, client: PeerClient, peer: PeerAddress, timeout_s: float) -> ResultT:
        """The outcome of a request of its own."""

    @abstractmethod
    def take(self, results: Sequence[BatchResult], bodies: Iterator[memoryview], fence: int | None) -> ResultT:
        """The outcome in a frame: the results of its items, the bytes of those that were found. Raises TypeError."""


class _Put(_ChunkCall[int | None]):
    kind = "writes"

    def __init__(self, digest: str, data: ChunkBytes, start_index: int) -> None:
        super().__init__([PutItem(bytes.fromhex(digest), len(data), start_index)], len(data), data)
        self._digest, self._data, self._start_index = digest, data, start_index

    async def alone(self, client: PeerClient, peer: PeerAddress, timeout_s: float) -> int | None:
        headers = {BODY_DIGEST_HEADER: self._digest, "content-type": "application/octet-stream"}
        target = f"/v1/chunks/{self._digest}?{START_INDEX_QUERY}={self._start_index}"
        response = await client.request(peer, "PUT", target, timeout_s=timeout_s, content=self._data, headers=headers)
        # The client has checked that it is this node that answers; what it says must be about this chunk.
        stored = parse_answer(peer, ChunkStored, response.content)
        if stored.digest != self._digest or stored.size_bytes != len(self._data):
            raise invalid_answer(peer, "it acknowledged another chunk")
        return _fence_of(response)

    def take(self, results: Sequence[BatchResult], bodies: Iterator[memoryview], fence: int | None) -> int | None:  # noqa: ARG002
        if not isinstance(results[0], Stored):
            raise TypeError("no answer to a put")
        return fence


class _Get(_ChunkCall[ReadChunk]):
    kind = "reads"

    def __init__(self, digest: str, size_bytes: int) -> None:
        super().__init__([GetItem(bytes.fromhex(digest))], size_bytes)
        self._digest = digest

    async def alone(self, client: PeerClient, peer: PeerAddress, timeout_s: float) -> ReadChunk:
        response = await client.request(
            peer, "GET", f"/v1/chunks/{self._digest}", timeout_s=timeout_s, covered=proved_by_name
        )
        return ReadChunk(response.content, _fence_of(response))

    def take(self, results: Sequence[BatchResult], bodies: Iterator[memoryview], fence: int | None) -> ReadChunk:
        if not isinstance(results[0], Found):
            raise TypeError("no answer to a get")
        # A copy: one chunk must not keep the whole frame in memory.
        return ReadChunk(bytes(next(bodies)), fence)


class _Has(_ChunkCall[HeldChunks]):
    kind = "reads"

    def __init__(self, digests: Sequence[str]) -> None:
        super().__init__([HasItem(bytes.fromhex(digest)) for digest in digests], 0)
        self._digests = digests

    async def alone(self, client: PeerClient, peer: PeerAddress, timeout_s: float) -> HeldChunks:
        return await _ask_has(client, peer, HasRequest(digests=list(self._digests)), timeout_s)

    def take(self, results: Sequence[BatchResult], bodies: Iterator[memoryview], fence: int | None) -> HeldChunks:  # noqa: ARG002
        held = []
        for digest, result in zip(self._digests, results, strict=True):
            if not isinstance(result, Held):
                raise TypeError("no answer to a has")
            if result.present:
                held.append((digest, result.verified))
        return HeldChunks({digest for digest, _ in held}, {digest for digest, verified in held if verified}, fence)


class StorageClient:
    """`services.gateway.ports.ChunkNodes` over the network. Small calls to one node share requests (`chunk_batcher`).

    Reads and writes do not share any: an answer comes when its last item is done, and a read must not wait for an fsync.
    """

    def __init__(self, client: PeerClient, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._tasks = BackgroundTasks()
        self._batchers: dict[tuple[PeerAddress, str], ChunkBatcher[_ChunkCall[Any]]] = {}

    async def aclose(self) -> None:
        """Break off what is under way."""
        for batcher in self._batchers.values():
            batcher.close()
        await self._tasks.aclose()

    def put_chunk(self, node: StorageNode, digest: str, data: ChunkBytes, *, start_index: int) -> Awaitable[int | None]:
        """Store `data`; returns when it is durable on the node, with the fence of the acknowledgement."""
        call = _Put(digest, data, start_index)
        return self._alone(node, call) if len(data) > MAX_BATCHED_CHUNK_BYTES else self._together(node, call)

    def get_chunk(self, node: StorageNode, digest: str, size_bytes: int) -> Awaitable[ReadChunk]:
        """What the node keeps under `digest`."""
        call = _Get(digest, size_bytes)
        return self._alone(node, call) if size_bytes > MAX_BATCHED_CHUNK_BYTES else self._together(node, call)

    def has_chunks(self, node: StorageNode, digests: Sequence[str], *, verify: bool = False) -> Awaitable[HeldChunks]:
        """Which of `digests` the node holds; see `ports.ChunkNodes`."""
        if verify:
            return self._find_verified(_peer(node), digests)
        if len(digests) > _MAX_BATCHED_DIGESTS:
            return self._find(_peer(node), digests)
        return self._together(node, _Has(digests))

    async def start_verify(self, node: StorageNode) -> VerifyReport:
        """Begin a pass over everything the node holds."""
        return await self._verify(node, "POST")

    async def verify_report(self, node: StorageNode) -> VerifyReport:
        """Of the pass under way, else of the last one."""
        return await self._verify(node, "GET")

    async def cancel_verify(self, node: StorageNode) -> VerifyReport:
        """End the pass under way early."""
        return await self._verify(node, "DELETE")

    async def _verify(self, node: StorageNode, method: str) -> VerifyReport:
        return await self._client.call(_peer(node), method, "/v1/verify", VerifyReport, timeout_s=self._timeout_s)

    async def probe(self, node: StorageNode, *, timeout_s: float) -> None:
        """Ask the node's readiness, bounded by `timeout_s` in all. A stranger at its address is not ready: it cannot sign."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._client.request(_peer(node), "GET", "/readyz", timeout_s=timeout_s)
        except TimeoutError as error:
            raise PeerUnreachableError(f"{node.id} did not answer a probe in time.", peer=node.id) from error

    async def _find(self, peer: PeerAddress, digests: Sequence[str]) -> HeldChunks:
        """One request per `MAX_HAS_DIGESTS`."""
        present: set[str] = set()
        verified: set[str] = set()
        fences: set[int | None] = set()
        for start in range(0, len(digests), MAX_HAS_DIGESTS):
            question = HasRequest(digests=list(digests[start : start + MAX_HAS_DIGESTS]))
            held = await _ask_has(self._client, peer, question, self._timeout_s)
            present |= held.present
            verified |= held.verified
            fences.add(held.fence)
        return HeldChunks(present, verified, _only(fences))

    async def _find_verified(self, peer: PeerAddress, digests: Sequence[str]) -> HeldChunks:
        """As many requests as it takes: for one a node reads only so much, and merely lists the rest."""
        verified: set[str] = set()
        listed: set[str] = set()
        fences: set[int | None] = set()
        unknown = list(digests)
        while unknown:
            asked, later = unknown[:MAX_HAS_DIGESTS], unknown[MAX_HAS_DIGESTS:]
            held = await _ask_has(self._client, peer, HasRequest(digests=asked, verify=True), self._timeout_s)
            verified |= held.verified
            fences.add(held.fence)
            rest = [digest for digest in asked if digest in held.present and digest not in held.verified]
            if len(rest) == len(asked):
                # It reads none of them now; they stay what they are.
                listed.update(rest)
                rest = []
            unknown = rest + later
        return HeldChunks(verified | listed, verified, _only(fences))

    def _alone(self, node: StorageNode, call: _ChunkCall[ResultT]) -> Awaitable[ResultT]:
        return call.alone(self._client, _peer(node), self._timeout_s)

    def _together(self, node: StorageNode, call: _ChunkCall[ResultT]) -> asyncio.Future[ResultT]:
        peer = _peer(node)
        batcher = self._batchers.get((peer, call.kind))
        if batcher is None:
            # Of nodes that have left the cluster, or moved, nothing stays.
            self._batchers = {key: known for key, known in self._batchers.items() if not known.is_unused}
            batcher = ChunkBatcher(node.id, partial(self._send, peer), self._tasks)
            self._batchers[peer, call.kind] = batcher
        batcher.submit(call)
        return call.answered

    async def _send(self, peer: PeerAddress, calls: Sequence[_ChunkCall[Any]]) -> None:
        """Answer `calls` by one request."""
        if len(calls) == 1:
            await self._send_singly(peer, calls[0])
            return
        try:
            await self._send_frame(peer, calls)
        except _REFUSED_AS_A_WHOLE:
            async with asyncio.TaskGroup() as group:
                for call in calls:
                    group.create_task(self._send_singly(peer, call))

    async def _send_singly(self, peer: PeerAddress, call: _ChunkCall[ResultT]) -> None:
        try:
            result = await call.alone(self._client, peer, self._timeout_s)
        except TrivetError as error:
            _fail(call, error)
        else:
            if not call.answered.done():
                call.answered.set_result(result)

    async def _send_frame(self, peer: PeerAddress, calls: Sequence[_ChunkCall[Any]]) -> None:
        head = encode_head(BatchRequest([item for call in calls for item in call.items]))
        frame: list[tuple[BatchAnswer, memoryview]] = []

        def digest_of_head(content: Body) -> str:
            signed, answer, bodies = split_frame(memoryview(content), BatchAnswer)
            frame.append((answer, bodies))
            return blake3(signed).hexdigest()

        await self._client.request(
            peer,
            "POST",
            BATCH_PATH,
            timeout_s=self._timeout_s,
            content=[head, *(call.body for call in calls if call.body is not None)],
            headers={BODY_DIGEST_HEADER: blake3(head).hexdigest(), "content-type": "application/octet-stream"},
            # Every item is: a put or a has that is done twice is done.
            is_idempotent=True,
            covered=digest_of_head,
        )
        answer, bodies = frame[-1]
        try:
            _answer_all(calls, answer, bodies)
        except (ValueError, TypeError, AttributeError) as error:
            raise invalid_answer(peer, f"a frame that does not fit: {error}") from error


async def _ask_has(client: PeerClient, peer: PeerAddress, question: HasRequest, timeout_s: float) -> HeldChunks:
    response = await client.request(
        peer,
        "POST",
        "/v1/chunks/has",
        timeout_s=timeout_s,
        content=question.model_dump_json().encode(),
        headers={"content-type": "application/json"},
    )
    answer = parse_answer(peer, HasResponse, response.content)
    held = HeldChunks(set(answer.present), set(answer.verified), _fence_of(response))
    if not held.verified <= held.present <= set(question.digests):
        raise invalid_answer(peer, "it confirmed a chunk that it was not asked about")
    return held


def _fence_of(response: PeerAnswer) -> int | None:
    fence = response.headers.get(FENCE_HEADER, "")
    return int(fence) if fence.isascii() and fence.isdigit() else None


def _only(fences: AbstractSet[int | None]) -> int | None:
    """The fence of several answers: none where they do not agree, because the disk changed between them."""
    return next(iter(fences)) if len(fences) == 1 else None


def _answer_all(calls: Sequence[_ChunkCall[Any]], answer: BatchAnswer, bodies: memoryview) -> None:
    """Give every call its outcome. Raises ValueError or TypeError for an answer that does not fit."""
    if len(answer.results) != sum(call.item_count for call in calls):
        raise ValueError("another number of results")
    found = iter(cut_bodies(bodies, [result.size_bytes for result in answer.results if isinstance(result, Found)]))
    at = 0
    for call in calls:
        results = answer.results[at : at + call.item_count]
        at += call.item_count
        failed = next((result for result in results if isinstance(result, Failed)), None)
        if failed is not None:
            _fail(call, error_from_problem(failed.problem))
            continue
        result = call.take(results, found, answer.fence)
        if not call.answered.done():
            call.answered.set_result(result)


def _fail(call: _ChunkCall[ResultT], error: TrivetError) -> None:
    if not call.answered.done():
        call.answered.set_exception(error)


def _peer(node: StorageNode) -> PeerAddress:
    return PeerAddress(node.id, node.url, Role.STORAGE)
