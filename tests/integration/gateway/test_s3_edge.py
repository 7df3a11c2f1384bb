"""S3's port of a whole cluster as hostile, unlucky and unsigned clients meet it."""

from __future__ import annotations

import socket

import httpx
import pytest
from lxml import etree

from local_cluster.cluster import Cluster
from shared.units import MIB

pytestmark = pytest.mark.cluster


def asked(cluster: Cluster, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of everything that is answered until the connection ends."""
    url = httpx.URL(cluster.s3_url)
    received = bytearray()
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(request)
        while piece := connection.recv(65536):
            received += piece
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    return head, body


def code_of(body: bytes) -> str | None:
    return etree.fromstring(body).findtext("Code")


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "InvalidRequest"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "InvalidRequest"),
        (b"PUT /b/k HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "InvalidRequest"),
        (b"PUT /b/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "NotImplemented"),
        (b"GET /" + b"k" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400, "InvalidURI"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", 400, "RequestHeaderSectionTooLarge"),
    ],
)
def test_what_is_no_request_is_refused_as_s3_does(
    cluster: Cluster, request_bytes: bytes, status: int, code: str
) -> None:
    """With an id, so that it can be told from others."""
    head, body = asked(cluster, request_bytes)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert code_of(body) == code
    assert b"x-amz-request-id: " in head
    assert b"application/xml" in head


def test_a_refused_upload_is_answered_in_place_of_100_continue(cluster: Cluster) -> None:
    """Nobody is told to send what is not wanted."""
    head, body = asked(
        cluster, b"PUT /photos/k HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\nExpect: 100-continue\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.1 403 ")
    assert b"connection: close" in head.lower()
    assert code_of(body) == "AccessDenied"


def test_a_refused_upload_that_was_sent_is_answered_whole(cluster: Cluster) -> None:
    """A client that goes on sending gets its answer, not a reset."""
    request = b"PUT /photos/k HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (1 << 31)
    head, body = asked(cluster, request + bytes(2 * MIB))
    assert head.startswith(b"HTTP/1.1 403 ")
    assert code_of(body) == "AccessDenied"


def test_the_doors_do_not_lead_into_each_other(cluster: Cluster) -> None:
    """No route of `/v1`, no page and no probe on one, no bucket at the root of the other."""
    for path in ("/v1/files/default/first", "/docs", "/healthz", "/metrics", "/openapi.json"):
        answer = httpx.get(f"{cluster.s3_url}{path}", headers=cluster.bearer, trust_env=False, timeout=30)
        assert answer.status_code in {400, 403}
        assert answer.headers["content-type"] == "application/xml"
    answer = httpx.get(f"{cluster.gateway_url}/default", headers=cluster.bearer, trust_env=False, timeout=30)
    assert answer.status_code == 404


def test_a_connection_serves_one_request_after_the_other(cluster: Cluster) -> None:
    """Refusals without a body included, also those of a HEAD, which have none."""
    with httpx.Client(base_url=cluster.s3_url, trust_env=False, timeout=30) as client:
        ids = set()
        for method in ("GET", "HEAD", "GET", "HEAD", "GET"):
            answer = client.request(method, "/photos/k")
            assert answer.status_code == 403
            assert "connection" not in answer.headers
            assert bool(answer.content) is (method == "GET")
            ids.add(answer.headers["x-amz-request-id"])
    assert len(ids) == 5
