"""`local_cluster.first_file`: the first file is really compared, and its receipt is told in plain words."""

from __future__ import annotations

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from local_cluster import first_file
from local_cluster.errors import LocalClusterError
from local_cluster.first_file import FIRST_TEXT, RoundTrip, describe, round_trip_first_file

BEARER = {"authorization": "Bearer TV000000000000000000.secret"}
RECEIPT = {
    "bucket": "default",
    "key": "hello",
    "size_bytes": 284,
    "chunk_count": 1,
    "etag": "e7a6",
    "log_index": 11,
    "term": 2,
    "timestamp": {"earliest": "2026-01-01T00:00:00Z", "latest": "2026-01-01T00:00:01Z"},
    "durability": {"target": 3, "acknowledged": 2, "nodes": ["storage-1", "storage-3"]},
}


def gateway(*, refusals: int = 0, damage: bytes = b"", status: int = 503) -> FastAPI:
    """A gateway with one file, which refuses a few times first and may damage what it stored."""
    app = FastAPI()
    stored: list[bytes] = []
    left = [refusals]

    @app.api_route("/v1/files/default/{key}", methods=["GET", "HEAD", "PUT"])
    async def files(request: Request) -> Response:
        assert request.headers["authorization"] == BEARER["authorization"]
        if left[0]:
            left[0] -= 1
            return Response("refused", status)
        if request.method == "PUT":
            stored.append(await request.body() + damage)
            return JSONResponse(RECEIPT, 201)
        return Response(stored[0]) if stored else Response(status_code=404)

    return app


def test_a_first_start_stores_and_a_second_one_reads_what_is_there(serve_app) -> None:
    """The receipt comes once; the comparison every time."""
    url = serve_app(gateway())
    first = round_trip_first_file(url, BEARER)
    assert (first.receipt, first.size_bytes) == (RECEIPT, len(FIRST_TEXT))
    assert round_trip_first_file(url, BEARER).receipt is None


def test_a_cluster_that_still_elects_is_asked_again(serve_app) -> None:
    """503 means soon."""
    assert round_trip_first_file(serve_app(gateway(refusals=3)), BEARER).receipt == RECEIPT


def test_other_bytes_than_were_stored_are_never_called_a_success(serve_app) -> None:
    """One byte more is enough."""
    with pytest.raises(LocalClusterError, match="other bytes"):
        round_trip_first_file(serve_app(gateway(damage=b"!")), BEARER)


@pytest.mark.parametrize("status", [500, 503])
def test_a_gateway_that_refuses_for_good_is_quoted(serve_app, monkeypatch, status) -> None:
    """Its status and its words, in bounded time."""
    monkeypatch.setattr(first_file, "TIMEOUT_S", 2.0)
    url = serve_app(gateway(refusals=10_000, status=status))
    with pytest.raises(LocalClusterError, match=f"answered {status} .* refused"):
        round_trip_first_file(url, BEARER)


def test_the_receipt_is_told_in_plain_words() -> None:
    """How many replicas, where, since when, and under which log entry."""
    text = " ".join(describe(RoundTrip("http://x", 284, RECEIPT)))
    for fact in ("284 bytes", "2 of 3 replicas (storage-1, storage-3)", "entry 11 of term 2", "e7a6"):
        assert fact in text
    assert "between 2026-01-01T00:00:00Z and 2026-01-01T00:00:01Z" in text


def test_without_a_time_server_no_time_is_claimed() -> None:
    """Logical time is called that."""
    receipt = RECEIPT | {"timestamp": {"earliest": None, "latest": None}}
    assert "at a logical time" in describe(RoundTrip("http://x", 284, receipt))[0]
