"""`HttpExchange.receive_into`: a body that goes past parser and ASGI arrives whole, and takes nothing of what follows it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket

import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from services.gateway.api.early_refusal import EarlyRefusal
from shared.units import KIB, MIB
from shared.web.http_exchange import exchange_of
from tests.integration.raw_edge import Edge, receive_all, send_what_is_taken, status

LATE_S = 0.05
HEAD = "PUT /{} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


class Receiver:
    """Takes a body in parts of so many bytes as the last part of the path says; the first part names what is special.

    `late`: waits before each part. `stops`: answers 412 after the first part. `cancels`: gives the second part up.
    """

    def __init__(self) -> None:
        self.broken_off = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await answer(send, 200, "last")
            return
        _, kind, part_bytes = scope["path"].split("/")
        outstanding = int(dict(scope["headers"])[b"content-length"])
        exchange = exchange_of(scope)
        assert exchange is not None
        hasher = hashlib.sha256()
        piece = (await receive()).get("body", b"")
        hasher.update(piece)
        outstanding -= len(piece)
        while outstanding:
            if kind == "late":
                await asyncio.sleep(LATE_S)
            part = bytearray(min(outstanding, int(part_bytes)))
            outstanding -= len(part)
            heard: list[int] = []
            try:
                async with asyncio.timeout(LATE_S if kind == "cancels" else None):
                    await exchange.receive_into(
                        memoryview(part), lambda view, heard=heard: heard.append(len(view)), is_last=outstanding == 0
                    )
            except ConnectionError:
                self.broken_off += 1
                return
            except TimeoutError:
                break
            assert sum(heard) == len(part)
            hasher.update(part)
            if kind == "stops":
                break
        await answer(send, 412 if kind in {"stops", "cancels"} else 200, hasher.hexdigest())


async def answer(send: Send, code: int, what: str) -> None:
    body = json.dumps({"what": what}).encode()
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def edge(serve_app, receiver) -> Edge:
    app = FastAPI()
    app.add_middleware(EarlyRefusal)
    app.mount("/", receiver)
    host, _, port = serve_app(app).removeprefix("http://").partition(":")
    return Edge(host, int(port))


def digest_in(answer_bytes: bytes) -> str:
    return json.loads(answer_bytes.partition(b"\r\n\r\n")[2].split(b"}")[0] + b"}")["what"]


@pytest.mark.parametrize("kind", ["plain", "late"])
@pytest.mark.parametrize(("body_bytes", "part_bytes"), [(1, 1), (64 * KIB, 7), (300_001, 70_000), (3 * MIB + 1, MIB)])
def test_the_body_arrives_whole_and_the_next_request_is_heard(edge, kind, body_bytes, part_bytes) -> None:
    """However the network cuts it, and when the next request comes in the same segment as its end."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    if part_bytes == 7:
        body_bytes = 100 * 7 + 3
    body = chance.randbytes(body_bytes)
    sent = memoryview(HEAD.format(f"{kind}/{part_bytes}", body_bytes).encode() + body + LAST)
    with edge.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while sent:
            step = chance.choice([1, 100, 5_000, 100_000, len(sent)])
            connection.sendall(sent[:step])
            sent = sent[step:]
        answers = receive_all(connection)
    assert digest_in(answers) == hashlib.sha256(body).hexdigest()
    assert answers.count(b"HTTP/1.1 200") == 2, "the request behind it was answered too"
    assert b'"last"' in answers


@pytest.mark.parametrize("kind", ["stops", "cancels"])
def test_an_answer_before_the_end_of_the_body_reaches_the_client(edge, kind) -> None:
    """Whether the rest is on its way or not, nothing of it passes for a request, and the connection ends."""
    body = bytes(8 * MIB) if kind == "stops" else bytes(300 * KIB)
    head = HEAD.format(f"{kind}/{64 * KIB if kind == 'stops' else 4 * MIB}", 8 * MIB).encode()
    with edge.connect() as connection:
        connection.settimeout(20)
        send_what_is_taken(connection, head + body)
        answers = receive_all(connection)
    assert status(answers) == 412
    assert answers.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answers.lower()


def test_bytes_behind_a_body_that_was_given_up_are_no_request(edge) -> None:
    """A body may contain what looks like a request."""
    head = HEAD.format(f"cancels/{4 * MIB}", 5 * MIB).encode()
    with edge.connect() as connection:
        connection.settimeout(20)
        send_what_is_taken(connection, head + bytes(300 * KIB))
        answers = connection.recv(65536)
        send_what_is_taken(connection, LAST * 1000)
        answers += receive_all(connection)
    assert answers.count(b"HTTP/1.1") == 1
    assert b'"last"' not in answers


def test_a_client_that_goes_is_noticed(edge, receiver) -> None:
    """The caller hears of it and answers nothing; the server goes on."""
    with edge.connect() as connection:
        connection.sendall(HEAD.format(f"plain/{MIB}", 4 * MIB).encode() + bytes(MIB + 100))
    assert status(edge.send(LAST)) == 200
    with edge.connect() as connection:
        connection.sendall(LAST)
        receive_all(connection)
    assert receiver.broken_off <= 1
