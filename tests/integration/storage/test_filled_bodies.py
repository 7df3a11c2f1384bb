"""`services.storage.asgi_bodies.fill` behind the real edge: bodies that go from the socket into a buffer, over raw sockets."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI, Request

from services.storage.asgi_bodies import fill
from shared.errors import InvalidRequestError
from shared.units import KIB, MIB
from shared.web import http_edge
from tests.chance import draw_seed
from tests.integration.raw_edge import receive_all, status
from tests.integration.storage.support import digest_of, wait_until

HASTY_S = 0.4


class Server:
    """Answers a PUT with the digest of its body; `errors` are what filling raised."""

    def __init__(self, serve_app) -> None:
        app = FastAPI()
        self.errors: list[BaseException] = []

        @app.put("/into")
        async def into(request: Request, patience_s: float | None = None) -> list[str]:
            buffer = memoryview(bytearray(int(request.headers["content-length"])))
            try:
                async with asyncio.timeout(patience_s):
                    await fill(request.scope, request.receive, buffer)
            except (InvalidRequestError, TimeoutError) as error:
                self.errors.append(error)
                raise InvalidRequestError("broken off") from error
            return [digest_of(bytes(buffer))]

        self.address = urlsplit(serve_app(app))

    def connect(self) -> socket.socket:
        return socket.create_connection((self.address.hostname, self.address.port), timeout=10)


@pytest.fixture
def server(serve_app) -> Iterator[Server]:
    return Server(serve_app)


def put(size_bytes: int, query: str = "", *headers: str) -> bytes:
    lines = [f"PUT /into{query} HTTP/1.1", "Host: test", f"Content-Length: {size_bytes}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


LAST = b"GET /nothing HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


def test_bodies_in_any_pieces_arrive_and_so_does_what_follows_them(server) -> None:
    """One connection carries several; a head may come in the same segment as the end of the body before it."""
    seed = draw_seed()
    print(f"seed {seed}")
    source = random.Random(seed)
    bodies = [source.randbytes(size) for size in (MIB, 1, 200 * KIB, 0, MIB - 1, 70 * KIB)]
    sent = b"".join([put(len(body)) + body for body in bodies]) + LAST
    with server.connect() as connection:
        at = 0
        while at < len(sent):
            step = source.choice([100, 5 * KIB, 300 * KIB])
            connection.sendall(sent[at : at + step])
            at += step
        answers = receive_all(connection)
    for body in bodies:
        expected = f'["{digest_of(body)}"]'.encode()
        assert expected in answers
    assert answers.count(b"HTTP/1.1 200 OK") == len(bodies)
    assert answers.count(b"HTTP/1.1 404") == 1
    assert server.errors == []


def test_a_client_that_waits_to_be_told_to_go_on_is_told(server) -> None:
    """Expect: 100-continue works as for other bodies."""
    body = bytes(300 * KIB)
    with server.connect() as connection:
        connection.sendall(put(len(body), "", "Expect: 100-continue", "Connection: close"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(body)
        assert digest_of(body).encode() in receive_all(connection)


def test_a_body_that_breaks_off_is_told_to_who_waits_for_it(server) -> None:
    """And the server goes on."""
    with server.connect() as connection:
        connection.sendall(put(MIB) + bytes(100 * KIB))
        connection.sendall(bytes(100 * KIB))
    wait_until(lambda: len(server.errors) == 1, "the body broke off")
    assert isinstance(server.errors[0], InvalidRequestError)
    with server.connect() as connection:
        connection.sendall(LAST)
        assert status(receive_all(connection)) == 404


def test_a_body_that_trickles_into_a_buffer_is_answered_408(server, monkeypatch) -> None:
    """The rate holds there, too."""
    monkeypatch.setattr(http_edge, "BODY_GRACE_S", HASTY_S)
    with server.connect() as connection:
        connection.sendall(put(MIB) + b"x")
        assert status(receive_all(connection)) == 408
    wait_until(lambda: len(server.errors) == 1, "the body broke off")


def test_who_gives_up_in_the_middle_of_a_body_ends_the_connection(server) -> None:
    """What comes behind it could be taken for a request."""
    with server.connect() as connection:
        connection.sendall(put(MIB, f"?patience_s={HASTY_S}") + bytes(KIB))
        answer = connection.recv(1000)
        assert status(answer) == 500
        connection.sendall(LAST)
        assert b"HTTP/1.1" not in receive_all(connection)
    assert isinstance(server.errors[0], TimeoutError)
