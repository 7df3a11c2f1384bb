"""`shared.web.http_edge` over raw sockets: what one connection may cost, probed at both sides of every limit.

The guard leans on the inside of uvicorn. When uvicorn changes there, these probes are what notices.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Request, Response
from starlette.responses import StreamingResponse

from shared.units import KIB, MIB
from shared.web import http_edge
from shared.web.http_edge import MAX_HEADER_BYTES, MAX_HEADERS, MAX_URL_BYTES
from shared.web.http_exchange import exchange_of
from tests.integration.raw_edge import THINKING_S, Edge, get, make_edge, receive_all, status

TIMEOUT_S = THINKING_S / 3
"""What the tests set instead of the real timeouts, so that nobody waits for ten seconds."""


@pytest.fixture
def edge(serve_app) -> Edge:
    """A server with the real limits."""
    return make_edge(serve_app)


@pytest.fixture
def hasty_edge(serve_app, monkeypatch) -> Edge:
    """A server with short timeouts."""
    monkeypatch.setattr(http_edge, "HEADER_TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(http_edge, "BODY_GRACE_S", TIMEOUT_S)
    monkeypatch.setattr(http_edge, "_CHECK_INTERVAL_S", TIMEOUT_S / 4)
    return make_edge(serve_app)


def check_refusal(answer: bytes, expected: int, sent_bytes: int) -> None:
    """The status is the expected one. Of a request that goes on for long, any refusal will do, also a reset."""
    if sent_bytes <= MAX_HEADER_BYTES + KIB:
        assert status(answer) == expected
    else:
        assert answer == b"" or status(answer) in {414, 431}


def test_an_ordinary_request_passes(edge) -> None:
    """The guard is not in the way."""
    assert status(edge.send(get())) == 200
    assert edge.served == ["x"]


def test_at_the_limit_the_longest_idle_connection_gives_way(edge, monkeypatch) -> None:
    """A probe gets in while others only wait; who is in the middle of a request, or waited for less long, is left alone."""
    monkeypatch.setattr(http_edge, "max_connections", lambda: 3)
    busy, idle, kept = edge.connect(), edge.connect(), edge.connect()
    with busy, idle, kept:
        busy.sendall(get()[:10])
        kept.sendall(get().replace(b"Connection: close\r\n", b""))
        assert b"200 OK" in kept.recv(65536)
        assert status(edge.send(get("/healthz"))) == 200
        assert receive_all(idle) == b""
        kept.sendall(get())
        assert status(receive_all(kept)) == 200
        busy.sendall(get()[10:])
        assert status(receive_all(busy)) == 200


def test_connections_have_a_limit_and_room_is_made_again(edge, monkeypatch) -> None:
    """One too many is told so before it says anything; many too many are cut off; who is connected goes on."""
    limits = [100]
    monkeypatch.setattr(http_edge, "max_connections", lambda: limits[-1])
    monkeypatch.setattr(http_edge, "MAX_LINGERING", 1)
    first, second = edge.connect(), edge.connect()
    for connection in (first, second):
        connection.sendall(get()[:10])
    # What came before this request has been read, too: both are in the middle of one.
    assert status(edge.send(get("/later"))) == 200
    limits.append(2)
    third, fourth = edge.connect(), edge.connect()
    with third, fourth:
        answer = receive_all(third)
        assert status(answer) == 503
        assert b"retry-after: 1" in answer
        assert b"application/problem+json" in answer
        assert receive_all(fourth) == b""
    with first, second:
        first.sendall(get()[10:])
        assert status(receive_all(first)) == 200
    deadline = time.monotonic() + 10
    while status(edge.send(get())) == 503:  # those that were refused linger
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert edge.served == ["later", "x", "x"]


@pytest.mark.parametrize(
    ("url_bytes", "expected"), [(MAX_URL_BYTES, 200), (MAX_URL_BYTES + 1, 414), (64 * KIB, 414), (MIB, 414)]
)
def test_the_url_has_an_exact_limit(edge, url_bytes, expected) -> None:
    """One byte more than the limit is 414, and so is a URL that never ends."""
    check_refusal(edge.send(get("/" + "u" * (url_bytes - 1))), expected, url_bytes)
    assert bool(edge.served) == (expected == 200)


@pytest.mark.parametrize(("count", "expected"), [(MAX_HEADERS, 200), (MAX_HEADERS + 1, 431), (10_000, 431)])
def test_the_number_of_header_fields_has_an_exact_limit(edge, count, expected) -> None:
    """Host and Connection count too."""
    fields = [f"h{number}: v" for number in range(count - 2)]
    check_refusal(edge.send(get("/x", *fields)), expected, sum(map(len, fields)))
    assert bool(edge.served) == (expected == 200)


@pytest.mark.parametrize(("extra_bytes", "expected"), [(0, 200), (1, 431), (MIB, 431), (8 * MIB, 431)])
def test_the_size_of_the_header_has_an_exact_limit(edge, extra_bytes, expected) -> None:
    """Names, values and their separators together."""
    others = sum(len(name) + len(value) + 4 for name, value in (("Host", "test"), ("Connection", "close")))
    value = "v" * (MAX_HEADER_BYTES - others - len("big") - 4 + extra_bytes)
    check_refusal(edge.send(get("/x", f"big: {value}")), expected, len(value))
    assert bool(edge.served) == (expected == 200)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"PUT /x HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /x HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /y",
        b"PUT /x HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"PUT /x HTTP/1.1\r\nHost: test\r\nContent-Length : 1\r\n\r\na",
        b"PUT /x HTTP/1.1\r\nHost: test\r\nContent-Length: -1\r\n\r\na",
        b"GET /x HTTP/1.1\nHost: test\n\n",
        b"GET /x HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: test\r\nbad name: x\r\n\r\n",
        b"GET /x y HTTP/1.1\r\nHost: test\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_ambiguous_requests_are_refused_and_reach_no_route(edge, request_bytes) -> None:
    """What two parsers could read in two ways is how requests are smuggled past a proxy."""
    answer = edge.send(request_bytes)
    assert status(answer) == 400
    assert answer.count(b"HTTP/1.1") == 1
    assert edge.served == []


def test_a_refusal_is_a_problem_document_and_ends_the_connection(edge) -> None:
    """Machine-readable like every other error."""
    head, _, body = edge.send(get("/" + "u" * MAX_URL_BYTES)).partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    assert b'"code": "uri_too_long"' in body


def test_limits_are_per_request_on_a_connection_that_is_kept(edge) -> None:
    """Many requests that are each within the limits never add up to a refusal."""
    request = get("/x", "big: " + "v" * 20 * KIB).replace(b"Connection: close\r\n", b"")
    with edge.connect() as connection:
        for _ in range(5):
            connection.sendall(request)
            received = b""
            while b"received_bytes" not in received:
                received += connection.recv(65536)
            assert status(received) == 200
    assert len(edge.served) == 5


def test_half_a_header_is_answered_408_in_time(serve_app, monkeypatch) -> None:
    """A connection cannot be held by sending slowly: another byte does not restart the clock."""
    timeout_s = 2.0
    monkeypatch.setattr(http_edge, "HEADER_TIMEOUT_S", timeout_s)
    edge = make_edge(serve_app)
    with edge.connect() as connection:
        began = time.monotonic()
        connection.sendall(b"GET /x HTTP/1.1\r\nHost: test\r\n")
        connection.settimeout(0.7 * timeout_s)
        with pytest.raises(TimeoutError):
            connection.recv(4096)
        connection.sendall(b"x")
        connection.settimeout(10)
        answer = receive_all(connection)
        elapsed_s = time.monotonic() - began
    assert status(answer) == 408
    # A clock that was restarted would have ended at 1.7 timeouts. Event loops round by milliseconds.
    assert 0.99 * timeout_s <= elapsed_s < 1.6 * timeout_s
    assert edge.served == []


def test_a_connection_that_says_nothing_is_closed_without_an_answer(hasty_edge) -> None:
    """There is no request to answer."""
    with hasty_edge.connect() as connection:
        assert receive_all(connection) == b""


def test_a_body_that_trickles_is_answered_408(hasty_edge) -> None:
    """A promise of many bytes and then almost none."""
    with hasty_edge.connect() as connection:
        connection.sendall(b"PUT /x HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\nxxxx")
        assert status(receive_all(connection)) == 408


def test_a_request_that_takes_us_long_is_no_slow_client(hasty_edge) -> None:
    """The body is all there; how long the route thinks is not held against the client."""
    answer = hasty_edge.send(
        b"PUT /thinks HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"
    )
    assert status(answer) == 200


def test_a_body_that_we_hold_back_is_no_slow_client(hasty_edge) -> None:
    """While the route does not read, the server stops taking bytes; that pause is ours."""
    body = b"x" * (4 * MIB)
    head = f"PUT /thinks HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = hasty_edge.send(head.encode() + body)
    assert status(answer) == 200
    assert b'{"received_bytes":%d}' % len(body) in answer


def test_an_answer_can_be_broken_off_without_a_word_in_the_log(serve_app, caplog) -> None:
    """The client gets what was sent and then the end, before `Content-Length` is reached; the server calls it no defect."""
    app = FastAPI()

    @app.get("/part")
    async def part(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"half"
            exchange = exchange_of(request.scope)
            assert exchange is not None
            exchange.break_off()

        return StreamingResponse(body(), headers={"content-length": "8"})

    host, _, port = serve_app(app).removeprefix("http://").partition(":")
    answer = Edge(host, int(port)).send(get("/part"))
    assert status(answer) == 200
    assert answer.endswith(b"half")
    assert caplog.records == []
