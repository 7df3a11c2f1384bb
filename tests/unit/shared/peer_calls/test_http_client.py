"""`shared.peer_calls.http_client`: a call succeeds, or fails with the typed error that tells what may have happened."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from blake3 import blake3
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.types import Message, Receive, Scope, Send

from shared.cluster_keys import derive_peer_keys
from shared.contracts.cluster import InitRequest, InitResponse
from shared.errors import (
    ChunkNotFoundError,
    OverloadedError,
    PeerAnswerInvalidError,
    PeerUnreachableError,
    SignatureRejectedError,
    TrivetError,
)
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient, proved_by_name
from shared.peer_calls.request_signing import (
    BODY_DIGEST_HEADER,
    AnswerFacts,
    RequestVerifier,
    SignedRequest,
    VerifiedRequest,
)
from shared.roles import Role
from shared.units import MIB
from shared.web.service_app import BODY_DIGEST, create_app
from tests.callers import anybody

KEYS = derive_peer_keys("k" * 32, Role.GATEWAY)


Ask = Callable[..., Awaitable[object]]
PATIENCE_S = 20.0
"""Where nothing is about time: what a busy machine may take."""


async def ask_for_bytes(client: PeerClient, peer: PeerAddress, path: str, timeout_s: float = 0.5) -> object:
    return await client.request(peer, "GET", path, timeout_s=timeout_s)


async def ask_for_a_model(client: PeerClient, peer: PeerAddress, path: str, timeout_s: float = 0.5) -> object:
    return await client.call(peer, "GET", path, InitResponse, timeout_s=timeout_s)


both_ways = pytest.mark.parametrize("ask", [ask_for_bytes, ask_for_a_model])


@asynccontextmanager
async def no_lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield


class ProvedOtherwise(Response):
    """As a chunk is sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            await send({**message, BODY_DIGEST: ""} if message["type"] == "http.response.start" else message)

        await super().__call__(scope, receive, marked)


@pytest.fixture
def peer(serve_app) -> PeerAddress:
    """A service with a few routes behind signatures."""
    app = create_app(
        title="Test",
        description="A test.",
        lifespan=no_lifespan,
        readiness=list,
        verifier=RequestVerifier(derive_peer_keys("k" * 32, Role.STORAGE), "storage-1"),
        callers=anybody,
        max_body_bytes=8 * MIB,
    )

    @app.put("/v1/echo")
    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/octet-stream")

    @app.get("/v1/model")
    async def model(response: Response) -> InitResponse:
        response.headers["x-trivet-said"] = "7"
        return InitResponse(cluster_id="test-cluster", created=True)

    @app.get("/v1/pieces")
    async def pieces() -> Response:
        return StreamingResponse(iter([b"one ", b"two ", b"three"]))

    @app.get("/v1/chunk")
    async def chunk() -> Response:
        return ProvedOtherwise(b"a chunk")

    @app.get("/v1/model-of-tomorrow")
    async def model_of_tomorrow() -> dict[str, object]:
        return {"cluster_id": "test-cluster", "created": True, "tomorrow": {"deeply": [1]}}

    @app.get("/v1/missing")
    async def missing() -> None:
        raise ChunkNotFoundError("Not here.", digest="0" * 64)

    @app.get("/v1/teapot")
    async def teapot() -> Response:
        return Response("<h1>oops</h1>", status_code=502, media_type="text/html")

    @app.get("/v1/redirect")
    async def redirect() -> Response:
        return Response(status_code=307, headers={"location": "http://127.0.0.1:1/"})

    return PeerAddress("storage-1", serve_app(app), Role.STORAGE)


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


@pytest.mark.parametrize("path", ["/v1/teapot", "/v1/redirect"])
@both_ways
async def test_a_status_that_is_neither_success_nor_problem_is_an_invalid_answer(peer, ask: Ask, path) -> None:
    """A proxy in between may answer anything, and no peer may send us elsewhere; it is not definite."""
    async with PeerClient(KEYS) as client:
        with pytest.raises(PeerAnswerInvalidError) as caught:
            await ask(client, peer, path, timeout_s=PATIENCE_S)
    assert not caught.value.definite
    assert caught.value.facts["peer"] == "storage-1"


@both_ways
async def test_a_probe_of_readiness_is_authenticated_when_it_is_signed(peer, ask: Ask) -> None:
    """The path is open to everybody; a caller of ours learns that it is the service that answers."""
    async with PeerClient(KEYS) as client:
        await client.request(peer, "GET", "/readyz", timeout_s=10)
    async with PeerClient(derive_peer_keys("w" * 32, Role.GATEWAY)) as client:
        with pytest.raises(SignatureRejectedError):
            await client.request(peer, "GET", "/readyz", timeout_s=10)


async def test_an_answer_may_have_fields_that_this_version_does_not_know(peer) -> None:
    """A newer peer may say more; a request with an unknown field is refused all the same."""
    async with PeerClient(KEYS) as client:
        answer = await client.call(peer, "GET", "/v1/model-of-tomorrow", InitResponse, timeout_s=10)
    assert answer == InitResponse(cluster_id="test-cluster", created=True)
    with pytest.raises(ValidationError):
        InitRequest.model_validate({"cluster_id": "c", "members": [], "admitted_nodes": [], "tomorrow": 1})


@both_ways
async def test_a_wrong_secret_is_refused_and_not_tried_for_ever(peer, ask: Ask) -> None:
    """One challenge, one more try, then the error."""
    async with PeerClient(derive_peer_keys("w" * 32, Role.GATEWAY)) as client:
        with pytest.raises(SignatureRejectedError):
            await ask(client, peer, "/v1/model", timeout_s=PATIENCE_S)


async def test_a_signature_for_another_id_is_refused(peer) -> None:
    """An address that moved to another node does not accept what was meant for the first."""
    async with PeerClient(KEYS) as client:
        with pytest.raises(SignatureRejectedError):
            await client.request(PeerAddress("storage-2", peer.url, Role.STORAGE), "GET", "/v1/model", timeout_s=10)


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
            await ask(
                client,
                PeerAddress("storage-1", f"http://127.0.0.1:{port}", Role.STORAGE),
                "/",
                timeout_s=PATIENCE_S,
            )
    assert caught.value.definite
    assert caught.value.facts["peer"] == "storage-1"


async def test_a_refused_second_attempt_is_not_definite() -> None:
    """The peer took the request on a connection that was open already, died, and is not there for the second attempt."""
    taken = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""):
            head = await reader.readuntil(b"\r\n\r\n")
            taken.append(head.split()[1])
            writer.write(answer)
        server.close()
        writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    peer = PeerAddress("storage-1", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", Role.STORAGE)
    async with PeerClient(KEYS) as client:
        await client.request(peer, "DELETE", "/1", timeout_s=10, is_public=True)
        with pytest.raises(PeerUnreachableError) as caught:
            await client.request(peer, "DELETE", "/2", timeout_s=10, is_public=True)
    assert taken == [b"/1", b"/2"]
    assert not caught.value.definite


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
        with pytest.raises(PeerUnreachableError if answer == b"" else TrivetError) as caught:
            await ask(client, PeerAddress("storage-1", f"http://127.0.0.1:{port}", Role.STORAGE), "/")
        release.set()
    assert not caught.value.definite


PAGE = b"<html><body>It works!</body></html>"


def whole(status: bytes = b"200 OK", *headers: bytes, body: bytes = PAGE) -> bytes:
    length = b"content-length: %d" % len(body)
    return b"\r\n".join([b"HTTP/1.1 " + status, length, *headers, b"", body])


MALFORMED = {
    "a page": whole(),
    "an empty success": whole(b"204 No Content", body=b""),
    "JSON of something else": whole(b"200 OK", b"content-type: application/json", body=b'{"cluster_id": 3}'),
    "the right JSON, unauthenticated": whole(
        b"200 OK", b"content-type: application/json", body=b'{"cluster_id": "c", "created": true}'
    ),
    "another MAC": whole(b"200 OK", b"x-trivet-answer-mac: " + b"0" * 64),
    "a MAC that is no ASCII": whole(b"200 OK", b"x-trivet-answer-mac: \xff\xfe"),
    "a redirect": whole(b"302 Found", b"location: http://127.0.0.1:1/"),
    "a status of none": whole(b"999 What"),
    "a status that is no number": b"HTTP/1.1 2x0 OK\r\ncontent-length: 0\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "a header without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\ncontent-length: 0\r\n\r\n",
    "a header with a NUL": b"HTTP/1.1 200 OK\r\na: \x00\r\ncontent-length: 0\r\n\r\n",
    "a header of 64 KiB": whole(b"200 OK", b"a: " + b"a" * 65536),
    "a length that is no number": b"HTTP/1.1 200 OK\r\ncontent-length: ten\r\n\r\n" + PAGE,
    "a length below zero": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n" + PAGE,
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n" + PAGE,
    "a length of a terabyte": b"HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n" + PAGE,
    "a chunk size that is no number": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n" + PAGE,
    "gzip that is none": whole(b"200 OK", b"content-encoding: gzip"),
    "an unknown charset": whole(b"400 Bad", b"content-type: application/problem+json; charset=klingon", body=b"\xff"),
    "a problem that is a list": whole(b"503 Busy", b"content-type: application/problem+json", body=b"[1]"),
    "a problem that is no JSON": whole(b"503 Busy", b"content-type: application/problem+json", body=b"{"),
    "a problem in no encoding": whole(b"503 Busy", b"content-type: application/problem+json", body=b"\xff\xfe\xfd"),
    "a problem without a bottom": whole(b"503 Busy", b"content-type: application/problem+json", body=b"[" * 200_000),
    "a problem with a fact named message": whole(
        b"503 Busy", b"content-type: application/problem+json", body=b'{"code": "overloaded", "message": 1, "self": 2}'
    ),
    "a challenge with a boot that is no ASCII": whole(
        b"401 No", 'www-authenticate: Trivet-HMAC destination="x", boot="\u0142\u00e9"'.encode()
    ),
    "a challenge that splits headers": whole(b"401 No", b'www-authenticate: Trivet-HMAC boot="a\rb: c"'),
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED.keys())
@both_ways
async def test_whatever_a_stranger_answers_is_a_typed_failure_of_that_peer(answer: bytes, ask: Ask) -> None:
    """Never a success, never another exception, and never definite: it may have been sent by the service after all."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server, PeerClient(KEYS) as client:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises((PeerAnswerInvalidError, PeerUnreachableError)) as caught:
            await ask(client, PeerAddress("storage-1", f"http://127.0.0.1:{port}", Role.STORAGE), "/")
    assert not caught.value.definite


FACTS = AnswerFacts(201, blake3(b"an answer").hexdigest(), [("x-trivet-fence", "7"), ("x-trivet-members", "a,b")])


@pytest.mark.parametrize(
    "other",
    [
        FACTS._replace(status=200),
        FACTS._replace(body_digest=blake3(b"another answer").hexdigest()),
        FACTS._replace(body_digest=""),
        FACTS._replace(headers=[("x-trivet-fence", "8"), ("x-trivet-members", "a,b")]),
        FACTS._replace(headers=[("x-trivet-fence", "7")]),
        FACTS._replace(headers=[*FACTS.headers, ("x-trivet-log-index", "1")]),
    ],
)
def test_an_answer_is_authenticated_with_all_that_counts_in_it(other: AnswerFacts) -> None:
    """Status, body and our own headers, whose order does not matter."""
    key = derive_peer_keys("k" * 32, Role.STORAGE).accepted().signing
    mac = VerifiedRequest(key, "a" * 64).answer_mac(FACTS)
    sent = SignedRequest("", key, "a" * 64)
    assert sent.is_answered_by(FACTS, mac)
    assert sent.is_answered_by(FACTS._replace(headers=[*FACTS.headers][::-1]), mac)
    assert not sent.is_answered_by(other, mac)
    for wrong in (None, "", mac[:-1], mac + "0"):
        assert not sent.is_answered_by(FACTS, wrong)


def test_an_answer_does_not_authenticate_another_request() -> None:
    """What a stranger recorded on the wire acknowledges nothing later, nor does another role's word."""
    ring = derive_peer_keys("k" * 32, Role.STORAGE).accepted()
    mac = VerifiedRequest(ring.keys[0], "a" * 64).answer_mac(FACTS)
    assert not SignedRequest("", ring.keys[0], "b" * 64).is_answered_by(FACTS, mac)
    assert not SignedRequest("", ring.keys[1], "a" * 64).is_answered_by(FACTS, mac)


class Tampering:
    """Stands between a client and the service at `port`, and changes what passes."""

    def __init__(self, port: int, change: Callable[[bytes], bytes]) -> None:
        self._port = port
        self._change = change

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            back.write(request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            writer.write(self._change(await there.read()))
        finally:
            writer.close()
            back.close()


_TAMPERED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a body": ("/v1/model", lambda answer: answer.replace(b"test-cluster", b"evil-cluster")),
    "a header": ("/v1/model", lambda answer: answer.replace(b"x-trivet-said: 7", b"x-trivet-said: 8")),
    "one header more": ("/v1/model", lambda answer: answer.replace(b"\r\n\r\n", b"\r\nx-trivet-fence: 1\r\n\r\n", 1)),
    "a body in pieces": ("/v1/pieces", lambda answer: answer.replace(b"two", b"too")),
    "a body that is said to be proved otherwise": ("/v1/chunk", lambda answer: answer.replace(b"chunk", b"thunk")),
    "a refusal": ("/v1/missing", lambda answer: answer.replace(b"Not here.", b"Not there")),
    "a success for a refusal": ("/v1/missing", lambda answer: answer.replace(b"404 Not Found", b"200 OK")),
    "a refusal for a success": ("/v1/model", lambda answer: answer.replace(b"200 OK", b"404 Not Found")),
}


@pytest.mark.parametrize(("path", "change"), _TAMPERED.values(), ids=_TAMPERED.keys())
async def test_an_answer_that_was_changed_on_its_way_is_none(peer, path: str, change: Callable[[bytes], bytes]) -> None:
    """It is that peer's failure, and says nothing certain; unchanged it arrives."""
    answers: list[bytes] = []

    def record(answer: bytes) -> bytes:
        answers.append(answer)
        return answer if len(answers) == 1 else change(answer)

    middle = Tampering(int(peer.url.rpartition(":")[2]), record)
    async with await asyncio.start_server(middle.handle, "127.0.0.1", 0) as server, PeerClient(KEYS) as client:
        await ask_for_bytes(client, peer, "/v1/model", timeout_s=PATIENCE_S)  # learns the boot id
        between = peer._replace(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with suppress(ChunkNotFoundError, PeerAnswerInvalidError if path == "/v1/chunk" else ChunkNotFoundError):
            await ask_for_bytes(client, between, path, timeout_s=PATIENCE_S)
        with pytest.raises(PeerAnswerInvalidError) as caught:
            await ask_for_bytes(client, between, path, timeout_s=PATIENCE_S)
    assert change(answers[1]) != answers[1]
    assert not caught.value.definite


async def test_a_chunk_is_not_hashed_for_its_answer(peer) -> None:
    """The caller asked for it by its digest and compares that itself; whoever forgets to say so gets no bytes."""
    async with PeerClient(KEYS) as client:
        answer = await client.request(peer, "GET", "/v1/chunk", timeout_s=10, covered=proved_by_name)
        assert answer.content == b"a chunk"
        with pytest.raises(PeerAnswerInvalidError):
            await client.request(peer, "GET", "/v1/chunk", timeout_s=10)


@pytest.mark.parametrize("status", [401, 408, 413, 431, 500, 503])
async def test_a_refusal_from_before_the_signature_is_believed_and_not_definite(status: int) -> None:
    """A crowded port cannot authenticate its answer; another program could give the same one."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        problem = b'{"code": "overloaded", "detail": "Too many.", "definite": true}'
        writer.write(whole(b"%d No" % status, b"content-type: application/problem+json", body=problem))
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server, PeerClient(KEYS) as client:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OverloadedError) as caught:
            await ask_for_bytes(
                client,
                PeerAddress("storage-1", f"http://127.0.0.1:{port}", Role.STORAGE),
                "/",
                timeout_s=PATIENCE_S,
            )
    assert not caught.value.definite


@both_ways
async def test_flipped_bits_are_a_typed_failure_or_do_not_matter(peer, ask: Ask) -> None:
    """One bit of each answer is wrong, anywhere in it: the call fails as that peer's failure, or gives what was said."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    port = int(peer.url.rpartition(":")[2])

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        there, back = await asyncio.open_connection("127.0.0.1", port)
        back.write(request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        answer = bytearray(await there.read())
        answer[chance.randrange(len(answer))] ^= 1 << chance.randrange(8)
        writer.write(answer)
        writer.close()
        back.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server, PeerClient(KEYS) as client:
        await ask(client, peer, "/v1/model", timeout_s=PATIENCE_S)  # learns the boot id
        flipped = PeerAddress("storage-1", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", Role.STORAGE)
        for _ in range(300):
            with suppress(TrivetError):
                await ask(client, flipped, "/v1/model")
