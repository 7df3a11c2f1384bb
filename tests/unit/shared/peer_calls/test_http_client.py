"""`shared.peer_calls.http_client`: a call succeeds, or fails with the typed error that tells what may have happened."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from blake3 import blake3
from fastapi import FastAPI, Request, Response

from shared.cluster_keys import ClusterKeys
from shared.contracts.cluster import InitResponse
from shared.errors import (
    ChunkNotFoundError,
    InternalError,
    PeerUnreachableError,
    SignatureRejectedError,
)
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER, RequestVerifier
from shared.units import MIB
from shared.web.service_app import create_app

KEYS = ClusterKeys.parse("k" * 32)


Ask = Callable[[PeerClient, PeerAddress, str], Awaitable[object]]


async def ask_for_bytes(client: PeerClient, peer: PeerAddress, path: str) -> object:
    return await client.request(peer, "GET", path, timeout_s=0.5)


async def ask_for_a_model(client: PeerClient, peer: PeerAddress, path: str) -> object:
    return await client.call(peer, "GET", path, InitResponse, timeout_s=0.5)


both_ways = pytest.mark.parametrize("ask", [ask_for_bytes, ask_for_a_model])


@asynccontextmanager
async def no_lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield


@pytest.fixture
def peer(serve_app) -> PeerAddress:
    """A service with a few routes behind signatures."""
    app = create_app(
        title="Test",
        description="A test.",
        lifespan=no_lifespan,
        readiness=list,
        verifier=RequestVerifier(KEYS, "storage-1"),
        max_body_bytes=8 * MIB,
    )

    @app.put("/v1/echo")
    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/octet-stream")

    @app.get("/v1/model")
    async def model() -> InitResponse:
        return InitResponse(cluster_id="test-cluster", created=True)

    @app.get("/v1/missing")
    async def missing() -> None:
        raise ChunkNotFoundError("Not here.", digest="0" * 64)

    @app.get("/v1/teapot")
    async def teapot() -> Response:
        return Response("<h1>oops</h1>", status_code=502, media_type="text/html")

    @app.get("/v1/redirect")
    async def redirect() -> Response:
        return Response(status_code=307, headers={"location": "http://127.0.0.1:1/"})

    return PeerAddress("storage-1", serve_app(app))


async def test_a_first_call_learns_the_boot_id_and_succeeds(peer) -> None:
    """The caller need not know that the peer was restarted; the body is sent again with the new signature."""
    body = bytes(range(256)) * 4096  # one chunk
    async with PeerClient(KEYS) as client:
        for _ in range(2):
            answer = await client.request(peer, "PUT", "/v1/echo?x=%2Fy", content=body, timeout_s=10)
            assert answer.content == body


async def test_wire_models_go_in_and_out(peer) -> None:
    """`call` gives the model, not the JSON."""
    async with PeerClient(KEYS) as client:
        answer = await client.call(peer, "GET", "/v1/model", InitResponse, timeout_s=10)
    assert answer == InitResponse(cluster_id="test-cluster", created=True)


async def test_the_peers_typed_error_is_raised_here(peer) -> None:
    """Class and facts cross the wire."""
    async with PeerClient(KEYS) as client:
        with pytest.raises(ChunkNotFoundError) as caught:
            await client.request(peer, "GET", "/v1/missing", timeout_s=10)
    assert caught.value.facts["digest"] == "0" * 64


async def test_an_answer_that_is_no_problem_document_is_an_internal_error(peer) -> None:
    """A proxy in between may answer anything; it is not definite."""
    async with PeerClient(KEYS) as client:
        with pytest.raises(InternalError) as caught:
            await client.request(peer, "GET", "/v1/teapot", timeout_s=10)
    assert not caught.value.definite


async def test_a_redirect_is_not_followed(peer) -> None:
    """A signature is for one destination, and no peer may send us elsewhere."""
    async with PeerClient(KEYS) as client:
        answer = await client.request(peer, "GET", "/v1/redirect", timeout_s=10)
    assert answer.status_code == 307


@both_ways
async def test_a_wrong_secret_is_refused_and_not_tried_for_ever(peer, ask: Ask) -> None:
    """One challenge, one more try, then the error."""
    async with PeerClient(ClusterKeys.parse("w" * 32)) as client:
        with pytest.raises(SignatureRejectedError):
            await ask(client, peer, "/v1/model")


async def test_a_signature_for_another_id_is_refused(peer) -> None:
    """An address that moved to another node does not accept what was meant for the first."""
    async with PeerClient(KEYS) as client:
        with pytest.raises(SignatureRejectedError):
            await client.request(PeerAddress("storage-2", peer.url), "GET", "/v1/model", timeout_s=10)


async def test_header_names_are_equal_in_any_case(peer) -> None:
    """A digest that the caller gave is signed and sent once, however its name is written."""
    async with PeerClient(KEYS) as client:
        headers = {BODY_DIGEST_HEADER.title(): blake3(b"body").hexdigest()}
        answer = await client.request(peer, "PUT", "/v1/echo", content=b"body", headers=headers, timeout_s=10)
    assert answer.content == b"body"


@both_ways
async def test_a_refused_connection_is_definite(ask: Ask) -> None:
    """Nothing can have reached a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with PeerClient(KEYS) as client:
        with pytest.raises(PeerUnreachableError) as caught:
            await ask(client, PeerAddress("storage-1", f"http://127.0.0.1:{port}"), "/")
    assert caught.value.definite
    assert caught.value.facts["peer"] == "storage-1"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"])
@pytest.mark.parametrize("is_closed", [True, False])
@both_ways
async def test_silence_or_half_an_answer_is_not_definite(answer: bytes, is_closed: bool, ask: Ask) -> None:
    """The request was sent: whether it was done is not known, with a closed connection as with a hung one."""
    release = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if not is_closed:
            await release.wait()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server, PeerClient(KEYS) as client:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(PeerUnreachableError) as caught:
            await ask(client, PeerAddress("storage-1", f"http://127.0.0.1:{port}"), "/")
        release.set()
    assert not caught.value.definite
