"""`shared.web.http_edge` over raw sockets: where one request ends and the next begins, and whose bytes an answer is made of."""

from __future__ import annotations

import hashlib
import json
import random
import time

import pytest

from shared.web import http_edge
from tests.integration.raw_edge import LATE_S, PIECE, STREAMED_PIECES, THINKING_S, Edge, make_edge, receive_all, status

HEAD = b"PUT /x HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
UPGRADE = b"Host: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


@pytest.fixture
def edge(serve_app) -> Edge:
    return make_edge(serve_app)


@pytest.fixture
def hasty_edge(serve_app, monkeypatch) -> Edge:
    """The header's time is a third of what the slow routes take."""
    monkeypatch.setattr(http_edge, "HEADER_TIMEOUT_S", THINKING_S / 3)
    return make_edge(serve_app)


def problem_of(answer: bytes) -> dict[str, object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    return json.loads(body)


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"GET /x HTTP/2.0\r\nHost: test\r\n\r\n", 505),
        (b"GET /x HTTP/0.9\r\nHost: test\r\n\r\n", 505),
        (b"GET /x HTTP/1.2\r\nHost: test\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: a b/c@d\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: test\r\nHost: test\r\n\r\n", 400),
        (b"GET /x HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n", 400),
        (b"CONNECT /x HTTP/1.1\r\nHost: test\r\n\r\n", 400),
        (b"FOO /x HTTP/1.1\r\nHost: test\r\n\r\n", 400),
        ("GET /ä HTTP/1.1\r\nHost: test\r\n\r\n".encode(), 400),
        (b"GET /x HTTP/1.1\r\nHost: test\r\nX-A: b\r\n folded\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: test\r\nX-A: b\x00c\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: test\r\nX-A: b\rc\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\na", 501),
        (HEAD + b"Transfer-Encoding: identity\r\n\r\na", 501),
        (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"PUT /x HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 400),
        (HEAD + b"Content-Length: +1\r\n\r\na", 400),
        (HEAD + b"Content-Length: 1, 1\r\n\r\na", 400),
        (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\na", 400),
    ],
)
def test_a_head_that_can_be_misread_is_refused_with_a_problem_document(edge, request_bytes, expected) -> None:
    """RFC 9112, sections 2.3, 3.2, 5.1, 5.2 and 6.1; no route hears of it."""
    answer = edge.send(request_bytes)
    assert status(answer) == expected
    problem = problem_of(answer)
    assert (problem["status"], problem["definite"]) == (expected, True)
    assert {"type", "title", "detail", "code"} <= problem.keys()
    assert edge.served == []


@pytest.mark.parametrize(
    ("request_bytes", "reason"),
    [
        (b"GET /x HTTP/1.1\r\nHost: test\r\nX-A: b\x00c\r\n\r\n", "header value"),
        (b"GET /x HTTP/1.1\r\nHost : test\r\n\r\n", "header token"),
        (b"GET /x HTTP/1.1\r\n\r\n", "one Host header"),
        (b"GET /x#y HTTP/1.1\r\nHost: test\r\n\r\n", "%23"),
        (b"CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n", "no proxy"),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\na", "chunked"),
        (HEAD + b"Content-Length: one\r\n\r\na", "Content-Length"),
        (HEAD + b"Content-Length: " + b"0" * 5000 + b"1\r\n\r\na", "at most 20 digits"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "chunk size"),
        (b"GET /x HTTP/1.1\r\nHost: test\r\nX-A: " + b"b" * 40_000 + b"\r\n\r\n", "header fields"),
    ],
)
def test_a_refusal_of_the_parser_gives_its_reason(edge, request_bytes, reason) -> None:
    """ "Bad Request" alone leaves a developer guessing; nothing of the request is quoted."""
    detail = problem_of(edge.send(request_bytes))["detail"]
    assert reason in detail
    assert detail.endswith(". Nothing was done.")


@pytest.mark.parametrize(
    "body",
    [b"-1\r\na", b"0x1\r\na", b"10000000000000001\r\na", b"1\na\n0\n\n", b"1\r\naX0\r\n\r\n", b"g\r\n"],
    ids=["negative", "hex prefix", "beyond 64 bits", "bare line feeds", "no line end after the data", "not hex"],
)
def test_a_malformed_chunk_is_refused(edge, body) -> None:
    """The body of such a request never ends cleanly for its route."""
    answer = edge.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert status(answer) == 400
    assert problem_of(answer)["code"] == "bad_request"
    assert edge.headers == []


def test_extensions_of_chunks_are_ignored_and_the_name_of_the_coding_has_no_case(edge) -> None:
    """RFC 9112 sections 7 and 7.1.1."""
    answer = edge.send(HEAD + b'Transfer-Encoding: Chunked\r\n\r\n3;a=b;c="d"\r\nabc\r\n0;last\r\n\r\n')
    assert answer.endswith(b'{"received_bytes":3}')


def test_trailers_never_become_headers(edge) -> None:
    """They come when decisions about the request were made (RFC 9110 section 6.5.1)."""
    body = b"1\r\na\r\n0\r\nX-Trivet-Meta-Late: 1\r\nAuthorization: Bearer x\r\n\r\n"
    assert status(edge.send(HEAD + b"Transfer-Encoding: chunked\r\nTrailer: X-Trivet-Meta-Late\r\n\r\n" + body)) == 200
    assert not {"x-trivet-meta-late", "authorization"} & edge.headers[0].keys()
    endless = b"".join(b"t%d: v\r\n" % number for number in range(3000))
    assert status(edge.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + endless + b"\r\n")) == 431


def test_http_1_0_needs_no_host_and_hears_no_interim_answer(edge) -> None:
    """A plain health check works; `Expect` is a word that such a client cannot have meant."""
    assert status(edge.send(b"GET /x HTTP/1.0\r\n\r\n")) == 200
    answer = edge.send(b"PUT /x HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na")
    assert status(answer) == 200
    assert b"100 Continue" not in answer


def test_who_waits_with_an_empty_body_is_told_to_go_on_before_the_answer(edge) -> None:
    """Nothing is waited for, but older botocore reads the next answer wrongly where no interim one comes (botocore#3755)."""
    head = b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    answer = edge.send(head)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
    assert answer.count(b"100 Continue") == 1


def test_a_target_may_be_a_whole_url(edge) -> None:
    """RFC 9112 section 3.2.2: what proxies are sent must be understood."""
    assert status(edge.send(b"GET http://elsewhere:1/x HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")) == 200
    assert edge.served == ["x"]


@pytest.mark.parametrize(
    ("framing", "body"),
    [(b"Content-Length: 3\r\n", b"abc"), (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"), (b"", b"")],
    ids=["length", "chunked", "no body"],
)
@pytest.mark.parametrize("cut", [0, 1, 2, 40], ids=["at once", "one byte late", "two bytes late", "body in parts"])
def test_a_wish_to_upgrade_is_ignored_and_the_body_stays_a_body(edge, framing, body, cut) -> None:
    """Neither lost nor taken for the next request: common clients wish for h2c with every first request."""
    head = b"PUT /x HTTP/1.1\r\n" + UPGRADE + framing + b"\r\n"
    data = head + body + LAST
    with edge.connect() as connection:
        for piece in (data[: len(head) + cut], data[len(head) + cut :]):
            connection.sendall(piece)
        answer = receive_all(connection)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b'{"received_bytes":%d}' % (3 if body else 0) in answer
    assert edge.served == ["x", "last"]


def test_a_body_behind_an_upgrade_smuggles_no_request(edge) -> None:
    """Its bytes look like a request, and are not."""
    inner = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"
    head = b"PUT /x HTTP/1.1\r\n" + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(inner)
    answer = edge.send(head + inner + LAST)
    assert b'{"received_bytes":%d}' % len(inner) in answer
    assert edge.served == ["x", "last"]


def test_requests_in_a_row_are_answered_in_their_order(edge) -> None:
    """Pipelining: a slow one first."""
    requests = b"".join(b"GET /%s HTTP/1.1\r\nHost: test\r\n\r\n" % name for name in (b"thinks", b"a", b"b"))
    answer = edge.send(requests + LAST)
    assert answer.count(b"HTTP/1.1 200") == 4
    assert edge.served == ["thinks", "a", "b", "last"]


@pytest.mark.parametrize("rest", [b"GET /y HTT", b"\x00garbage\r\n\r\n"], ids=["half a head", "garbage"])
def test_what_follows_a_request_never_gets_into_its_answer(hasty_edge, rest) -> None:
    """The refusal of a second request waits for no one, so it must not be written into the first one's bytes."""
    with hasty_edge.connect() as connection:
        connection.sendall(b"GET /streams HTTP/1.1\r\nHost: test\r\n\r\n")
        received = connection.recv(200)
        connection.sendall(rest)
        received += receive_all(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    assert status(head) == 200
    assert body == PIECE * STREAMED_PIECES


@pytest.mark.parametrize("rest", [b"GET /y HTT", b"\x00garbage\r\n\r\n"], ids=["half a head", "garbage"])
def test_a_refusal_is_never_taken_for_the_answer_to_the_request_before(hasty_edge, rest) -> None:
    """A 400 that says nothing was done, for something that is being done, would be a lie."""
    answer = hasty_edge.send(b"PUT /thinks HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\na" + rest)
    assert status(answer) == 200
    assert answer.count(b"HTTP/1.1") == 1
    assert hasty_edge.served == ["thinks"]


@pytest.mark.parametrize("is_at_once", [True, False], ids=["at once", "in parts"])
@pytest.mark.parametrize("piece_bytes", [1, 7, 40_000, 700_000], ids=["1", "7", "40000", "700000"])
def test_a_body_is_whole_however_it_is_cut(edge, piece_bytes, is_at_once) -> None:
    """In chunks or in one length, into one packet or many, read late or while it comes."""
    body = random.Random(7).randbytes(min(60_000 * piece_bytes, 1_500_000))
    pieces = [body[at : at + piece_bytes] for at in range(0, len(body), piece_bytes)]
    head = b"PUT /digest HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
    chunked = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    for request in (
        [head + b"Content-Length: %d\r\n\r\n" % len(body), body],
        [head + b"Transfer-Encoding: chunked\r\n\r\n", b"".join(chunked), b"0\r\n\r\n"],
    ):
        with edge.connect() as connection:
            for part in [b"".join(request)] if is_at_once else request:
                connection.sendall(part)
                if not is_at_once:
                    time.sleep(LATE_S / 2)  # a packet of its own, before the route reads
            answer = receive_all(connection)
        assert hashlib.sha256(body).hexdigest().encode() in answer
