"""An answer that comes before the body was taken: every kind of client gets it, and nobody gets the server to read for ever.

Kinds of clients: one that sends all before it reads (`http.client`, most libraries), one that reads while it sends (curl), and
raw sockets that go on whatever is answered.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import shutil
import socket
import subprocess
import time

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from services.gateway.api.early_refusal import EarlyRefusal
from shared.units import KIB, MIB
from shared.web import http_edge
from tests.integration.raw_edge import Edge, receive_all, send_what_is_taken, status

BODY_BYTES = 10 * MIB
DEADLINE_S = 20.0
HEAD = "PUT /refused HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n"


@pytest.fixture
def edge(serve_app) -> Edge:
    """Refuses at /refused before it reads, and takes everything at /taken."""
    app = FastAPI()
    app.add_middleware(EarlyRefusal)

    @app.put("/refused")
    async def refused() -> JSONResponse:
        return JSONResponse({"code": "precondition_failed"}, 412)

    @app.put("/taken")
    async def taken(request: Request) -> dict[str, int]:
        return {"received_bytes": len(await request.body())}

    host, _, port = serve_app(app).removeprefix("http://").partition(":")
    return Edge(host, int(port))


def client_of(edge: Edge) -> contextlib.closing[http.client.HTTPConnection]:
    return contextlib.closing(http.client.HTTPConnection(edge.host, edge.port, timeout=DEADLINE_S))


@pytest.mark.parametrize("size_bytes", [1, 64 * KIB, BODY_BYTES, 10 * BODY_BYTES])
def test_a_client_that_sends_all_before_it_reads_gets_the_refusal(edge, size_bytes) -> None:
    """Not a reset, whatever the buffers between hold."""
    with client_of(edge) as connection:
        connection.request("PUT", "/refused", body=bytes(size_bytes))
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (412, "precondition_failed")
        assert answer.headers["connection"] == "close"


def test_a_raw_socket_that_sends_ten_megabytes_gets_answer_and_end(edge) -> None:
    """All of it is sent without an error, then the whole answer is read, then the stream ends."""
    with edge.connect() as connection:
        connection.sendall(HEAD.format(BODY_BYTES).encode() + bytes(BODY_BYTES))
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert status(answer) == 412
    assert answer.endswith(b'{"code":"precondition_failed"}')


def test_a_chunked_body_of_unknown_length_gets_the_refusal(edge) -> None:
    """A length is not what decides."""

    def pieces():
        for _ in range(BODY_BYTES // MIB):
            yield bytes(MIB)

    with client_of(edge) as connection:
        connection.request(
            "PUT", "/refused", body=pieces(), encode_chunked=True, headers={"transfer-encoding": "chunked"}
        )
        assert connection.getresponse().status == 412


def test_curl_gets_the_refusal(edge, tmp_path) -> None:
    """It reads while it sends, and stops."""
    curl = shutil.which("curl")
    assert curl is not None
    body = tmp_path / "body"
    body.write_bytes(bytes(BODY_BYTES))
    url = f"http://{edge.host}:{edge.port}/refused"
    for waiting in ("Expect:", "Expect: 100-continue"):
        done = subprocess.run(
            [curl, "-sS", "-T", body, "-H", waiting, "-w", "%{http_code}", url],
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b'{"code":"precondition_failed"}412', b"")


def is_cut_off(connection: socket.socket, piece: bytes, pause_ms: int) -> bool:
    """Send `piece` again and again until the other side resets the connection."""
    poll = select.poll()
    poll.register(connection, 0)  # a hang-up and an error are always told
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if poll.poll(pause_ms):
            return True
        send_what_is_taken(connection, piece)
    return False


@pytest.mark.parametrize(
    ("bound", "value", "piece", "pause_ms"),
    [
        ("MAX_LINGER_BYTES", 8 * MIB, bytes(MIB), 0),
        ("MAX_LINGER_S", 0.5, bytes(10 * KIB), 20),
        ("LINGER_S", 0.2, b"x", 20),
    ],
)
def test_a_client_that_goes_on_is_cut_off(edge, monkeypatch, bound, value, piece, pause_ms) -> None:
    """After so many bytes, after so long, or when it sends less than the slowest body that is taken; the answer is out then."""
    monkeypatch.setattr(http_edge, "LINGER_S", 0.2)
    monkeypatch.setattr(http_edge, bound, value)
    with edge.connect() as connection:
        connection.sendall(HEAD.format(1 << 40).encode())
        assert status(connection.recv(65536)) == 412
        assert is_cut_off(connection, piece, pause_ms)


def test_what_follows_a_refused_body_on_the_connection_is_not_served(edge) -> None:
    """The bytes of a body that nobody read are never taken for a request."""
    smuggled = b"PUT /taken HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
    with edge.connect() as connection:
        send_what_is_taken(connection, HEAD.format(len(smuggled)).encode())
        first = connection.recv(65536)
        send_what_is_taken(connection, smuggled + smuggled)
        assert receive_all(connection) == b""
    assert status(first) == 412


def test_a_body_that_was_taken_keeps_the_connection(edge) -> None:
    """Only early answers end it."""
    with client_of(edge) as connection:
        for _ in range(2):
            connection.request("PUT", "/taken", body=bytes(BODY_BYTES))
            answer = connection.getresponse()
            assert json.loads(answer.read()) == {"received_bytes": BODY_BYTES}
            assert answer.headers["connection"] is None
