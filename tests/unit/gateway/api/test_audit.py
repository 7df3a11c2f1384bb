"""The audit trail over HTTP: on the operations listener, bounded, and line by line as it is chained."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest

from shared.audit_chain import follow, parse_begin
from shared.contracts.access import Requester
from shared.contracts.metadata import CreateBucket
from tests.unit.gateway.api.local_gateway import make_app

ANN = Requester(principal="a" * 64, request="req-1", address="192.0.2.7")


@pytest.fixture
def operations(serve_app, tmp_path) -> Iterator[httpx.Client]:
    """Over a trail of five rows."""
    app, gateway = make_app(tmp_path)
    serve_app(app)

    async def fill() -> None:
        metadata, clock = gateway.metadata, gateway.services.clock
        await metadata.upgrade(clock)
        for number in range(5):
            await metadata.propose(CreateBucket(bucket=f"b{number:02}", stamp=clock.stamp()), requester=ANN)

    asyncio.run(fill())
    with httpx.Client(base_url=serve_app(app.operations), trust_env=False, timeout=30) as client:
        yield client


def test_the_trail_is_lines_that_follow_the_first_one(operations) -> None:
    """Each page by itself, from behind any index."""
    answer = operations.get("/v1/audit")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    first, *lines = answer.content.splitlines()
    begin = parse_begin(first)
    assert begin is not None
    end = follow(begin, lines)
    rows = [json.loads(line)["row"] for line in lines]
    assert [row["bucket"] for row in rows] == [f"b{number:02}" for number in range(5)]
    page = operations.get("/v1/audit", params={"after": rows[1]["index"], "limit": 2})
    first, *lines = page.content.splitlines()
    assert [json.loads(line)["row"] for line in lines] == rows[2:4]
    begin = parse_begin(first)
    assert begin is not None
    assert follow(begin, lines).index == rows[3]["index"] < end.index


def test_the_check_says_that_the_trail_is_whole(operations) -> None:
    """Or where to go on."""
    found = (operations.get("/v1/audit/verify")).json()
    assert (found["rows"], found["is_whole"], found["broken_index"], found["next_after"]) == (5, True, None, None)
    assert found["begin"] == {"index": 0, "link": "0" * 64}
    assert found["end"] == found["head"]


@pytest.mark.parametrize("path", ["/v1/audit", "/v1/audit/verify"])
@pytest.mark.parametrize(
    "query",
    [
        "after=-1",
        "after=x",
        "after=",
        "after=9223372036854775808",
        "after=%D9%A1",
        "limit=0",
        "limit=100001",
        "limit=1_0",
        "limit=1&limit=1",
        "before=1",
        "after=" + "9" * 5000,
    ],
)
def test_a_window_that_is_none_is_refused(operations, path, query) -> None:
    """With the parameter's name."""
    answer = operations.get(f"{path}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("path", ["/v1/audit", "/v1/audit/verify"])
def test_the_trail_is_for_operators(operations, path) -> None:
    """It names keys, addresses and files."""
    for authorization in ("", "Bearer " + "x" * 32):
        answer = operations.get(path, headers={"authorization": authorization})
        assert answer.status_code == 401


def test_the_trail_is_not_on_the_public_port(serve_app, tmp_path) -> None:
    """With whatever credential."""
    app, _ = make_app(tmp_path)
    with httpx.Client(base_url=serve_app(app), trust_env=False, timeout=30) as client:
        for path in ("/v1/audit", "/v1/audit/verify"):
            assert client.get(path).status_code == 404
