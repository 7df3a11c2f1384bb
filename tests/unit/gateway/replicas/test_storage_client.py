"""Storage nodes over HTTP when another program answers at their address, or an answer is about something else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from fastapi import FastAPI

from services.gateway.ports import FileChunk
from services.gateway.replicas.health import NodeHealth
from services.gateway.replicas.storage_client import StorageClient
from shared.background_tasks import BackgroundTasks
from shared.cluster_keys import derive_peer_keys
from shared.contracts.chunk_batches import (
    BATCH_PATH,
    MAX_BATCHED_CHUNK_BYTES,
    BatchAnswer,
    BatchItem,
    BatchRequest,
    Failed,
    Found,
    Held,
    PutItem,
    Stored,
    encode_head,
    join_frame,
    split_frame,
)
from shared.contracts.chunks import ChunkStored, HasRequest, HasResponse
from shared.contracts.cluster import NodeState, StorageNode
from shared.errors import (
    DiskFullError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    PeerAnswerInvalidError,
    TrivetError,
)
from shared.peer_calls.http_client import PeerClient
from shared.peer_calls.http_connection import PeerAnswer
from shared.peer_calls.request_signing import RequestVerifier
from shared.roles import Role
from shared.units import GIB
from shared.web.service_app import create_app
from tests.callers import anybody
from tests.waiting import wait_until

KEYS = derive_peer_keys("k" * 32, Role.GATEWAY)
CHUNK = FileChunk.of(b"some bytes")


def at(url: str) -> StorageNode:
    return StorageNode(id="storage-1", url=url, zone="z", state=NodeState.ACTIVE, capacity_bytes=GIB)


@asynccontextmanager
async def stranger(status: int, content_type: str, body: bytes) -> AsyncIterator[StorageNode]:
    """Another program on the node's port, which gives every request the same answer."""
    head = f"HTTP/1.1 {status} OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    handlers: list[asyncio.Task | None] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", request, re.IGNORECASE)
                await reader.readexactly(int(length[1]) if length else 0)
                writer.write(head + body)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await asyncio.gather(*handlers)


ACKNOWLEDGEMENT = ChunkStored(digest=CHUNK.digest, size_bytes=len(CHUNK.data), tier="disk", created=True)
STRANGERS = {
    "page": (200, "text/html", b"<html>It works!</html>"),
    "created": (201, "text/html", b""),
    "forged": (201, "application/json", ACKNOWLEDGEMENT.model_dump_json().encode()),
    "bytes": (200, "application/octet-stream", CHUNK.data),
}


@pytest.mark.parametrize("answer", STRANGERS.values(), ids=STRANGERS.keys())
async def test_a_stranger_on_the_port_of_a_node_acknowledges_nothing(answer) -> None:
    """No put, get, has, verify or probe succeeds, whatever of the 2xx it says."""
    async with stranger(*answer) as node, PeerClient(KEYS) as client:
        nodes = StorageClient(client, timeout_s=5)
        calls = [
            lambda: nodes.put_chunk(node, CHUNK.digest, CHUNK.data, start_index=1),
            lambda: nodes.get_chunk(node, CHUNK.digest, len(CHUNK.data)),
            lambda: nodes.has_chunks(node, [CHUNK.digest]),
            lambda: nodes.verify_report(node),
            lambda: nodes.probe(node, timeout_s=5),
        ]
        for call in calls:
            with pytest.raises(PeerAnswerInvalidError):
                await call()


async def test_the_circuit_of_a_node_replaced_by_a_stranger_opens_and_stays_open() -> None:
    """Its probes are answered 200 and never believed."""
    async with stranger(*STRANGERS["page"]) as node, PeerClient(KEYS) as client, BackgroundTasks() as tasks:
        nodes = StorageClient(client, timeout_s=5)
        probes = 0

        class CountedProbes:
            async def probe(self, node: StorageNode, *, timeout_s: float) -> None:
                nonlocal probes
                probes += 1
                await nodes.probe(node, timeout_s=timeout_s)

        health = NodeHealth(CountedProbes(), tasks, reconnect_base_s=0.001, reconnect_limit_s=0.002)
        for _ in range(2):
            with pytest.raises(PeerAnswerInvalidError) as caught:
                await nodes.put_chunk(node, CHUNK.digest, CHUNK.data, start_index=1)
            health.failed(node, caught.value)
        await wait_until(lambda: probes >= 5 or health.statistics() != {"storage-1": True}, "probes")
        assert health.statistics() == {"storage-1": True}


@asynccontextmanager
async def no_lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("wrong", [{"digest": "0" * 64}, {"size_bytes": 9}])
async def test_an_acknowledgement_of_another_chunk_does_not_count(serve_app, wrong) -> None:
    """The node itself answers, and its answer is about other bytes."""
    verifier = RequestVerifier(derive_peer_keys("k" * 32, Role.STORAGE), "storage-1")
    app = create_app(
        title="t", description="d", lifespan=no_lifespan, readiness=list, verifier=verifier, callers=anybody
    )

    @app.put("/v1/chunks/{digest}")
    async def put_chunk(digest: str) -> ChunkStored:
        return ACKNOWLEDGEMENT.model_copy(update=wrong)

    @app.post("/v1/chunks/has")
    async def has_chunks(question: HasRequest) -> HasResponse:
        return HasResponse(present=[*question.digests, "0" * 64])

    async with PeerClient(KEYS) as client:
        nodes, node = StorageClient(client, timeout_s=5), at(serve_app(app))
        with pytest.raises(PeerAnswerInvalidError):
            await nodes.put_chunk(node, CHUNK.digest, CHUNK.data, start_index=1)
        with pytest.raises(PeerAnswerInvalidError):
            await nodes.has_chunks(node, [CHUNK.digest])


class FramePeer:
    """In place of a `PeerClient`: answers frames with what it is told, and single calls one by one."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.items: list[BatchItem] = []
        self.answer: BaseException | BatchAnswer = BatchAnswer([])
        self.bodies: list[bytes] = []
        self.hold = asyncio.Event()

    async def request(self, peer, method, path, *, content=None, covered=None, **_) -> PeerAnswer:
        self.paths.append(f"{method} {path.partition('?')[0]}")
        await self.hold.wait()
        if path != BATCH_PATH:
            digest = path.split("/")[-1].partition("?")[0]
            stored = ChunkStored(digest=digest, size_bytes=len(content or b""), tier="disk", created=True)
            return PeerAnswer(201, {"x-trivet-fence": "7"}, stored.model_dump_json().encode())
        _, head, _ = split_frame(b"".join(content), BatchRequest)
        self.items = head.items
        if isinstance(self.answer, BaseException):
            raise self.answer
        frame = join_frame(encode_head(self.answer), self.bodies)
        covered(frame)
        return PeerAnswer(200, {}, frame)


@pytest.fixture
async def framed() -> AsyncIterator[tuple[FramePeer, StorageClient]]:
    peer = FramePeer()
    client = StorageClient(peer, timeout_s=5)
    yield peer, client
    await client.aclose()


NODE = at("http://127.0.0.1:1")
OTHERS = [FileChunk.of(b"%d" % number) for number in range(3)]


async def share_a_request(peer: FramePeer, nodes: StorageClient, chunks: list[FileChunk]) -> list[asyncio.Future]:
    """Puts of `chunks` that go together, behind one that went alone."""
    before = nodes.put_chunk(NODE, CHUNK.digest, CHUNK.data, start_index=1)
    puts = [nodes.put_chunk(NODE, chunk.digest, chunk.data, start_index=3) for chunk in chunks]
    peer.hold.set()
    await asyncio.gather(before, *puts, return_exceptions=True)
    return puts


async def test_puts_that_go_together_have_each_its_outcome(framed) -> None:
    """One bad item fails alone, with its own error; the fence is that of the answer."""
    peer, nodes = framed
    problem = DiskFullError("full").to_problem()
    peer.answer = BatchAnswer([Stored(created=True), Failed(problem), Stored(created=False)], fence=9)
    puts = await share_a_request(peer, nodes, OTHERS)
    assert peer.paths == [f"PUT /v1/chunks/{CHUNK.digest}", f"POST {BATCH_PATH}"]
    assert peer.items == [PutItem(bytes.fromhex(chunk.digest), len(chunk.data), 3) for chunk in OTHERS]
    assert (puts[0].result(), puts[2].result()) == (9, 9)
    assert isinstance(puts[1].exception(), DiskFullError)


@pytest.mark.parametrize(
    "answer",
    [
        BatchAnswer([]),
        BatchAnswer([Stored(created=True)] * 2),
        BatchAnswer([Stored(created=True)] * 4),
        BatchAnswer([Found(0)] * 3),
        BatchAnswer([Held(present=True, verified=True)] * 3),
        BatchAnswer([Found(10)] * 3),
        BatchAnswer([Found(-1)] * 3),
        BatchAnswer([Failed({"code": []})] * 3),
    ],
)
async def test_an_answer_that_does_not_fit_acknowledges_nothing(framed, answer: BatchAnswer) -> None:
    """Not definite: what the node did is not known."""
    peer, nodes = framed
    peer.answer = answer
    for put in await share_a_request(peer, nodes, OTHERS):
        error = put.exception()
        assert isinstance(error, TrivetError)
        assert not error.definite


@pytest.mark.parametrize("refusal", [MethodNotAllowedError("no"), NotFoundError("no"), InvalidRequestError("no")])
async def test_what_is_refused_as_a_whole_is_sent_singly(framed, refusal: TrivetError) -> None:
    """By a node of the version before; or one item is to blame for the refusal of its neighbours."""
    peer, nodes = framed
    peer.answer = refusal
    assert [put.result() for put in await share_a_request(peer, nodes, OTHERS)] == [7, 7, 7]


async def test_a_large_chunk_travels_alone(framed) -> None:
    """Beside what is under way, and not behind it."""
    peer, nodes = framed
    small = [nodes.put_chunk(NODE, CHUNK.digest, CHUNK.data, start_index=1) for _ in range(3)]
    large = FileChunk.of(b"x" * (MAX_BATCHED_CHUNK_BYTES + 1))
    put = asyncio.ensure_future(nodes.put_chunk(NODE, large.digest, large.data, start_index=1))
    for _ in range(3):
        await asyncio.sleep(0)
    assert f"PUT /v1/chunks/{large.digest}" in peer.paths
    peer.answer = BatchAnswer([Stored(created=True)] * 2, fence=1)
    peer.hold.set()
    await asyncio.gather(put, *small)
