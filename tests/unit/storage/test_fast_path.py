"""`services.storage.fast_path`: the short way answers as the declared routes do, and counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from blake3 import blake3
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.storage.api import build_router
from services.storage.chunk_store import ChunkStore
from services.storage.fast_path import FastPath
from services.storage.incarnation import Incarnation
from services.storage.metrics import StorageMetrics
from shared.byte_budget import ByteBudget
from shared.errors import DiskFullError
from shared.web.service_app import create_app
from tests.unit.storage.fake_tier import FakeTier

BODY = bytes(range(256)) * 3
DIGEST = blake3(BODY).hexdigest()
FENCE = 7
COUNT = "trivet_storage_chunk_request_duration_seconds_count"


@asynccontextmanager
async def no_lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield


class Node:
    """The routes over a tier in memory, unsigned, with the fast path or without."""

    def __init__(self, *, has_fast_path: bool) -> None:
        self.tier = FakeTier()
        self.budget = ByteBudget(10_000, max_wait_s=0.01)
        self.registry = CollectorRegistry()
        metrics = StorageMetrics(self.registry)
        self.incarnation = Incarnation(Path("/nowhere"), lambda: None, is_redis_record=False)
        self.incarnation.fence = FENCE
        store = ChunkStore(
            self.tier,
            self.budget,
            metrics,
            incarnation=self.incarnation,
            max_chunk_bytes=1000,
            typical_chunk_bytes=100,
        )
        app = create_app(
            title="Test",
            description="A test.",
            lifespan=no_lifespan,
            readiness=list,
            verifier=None,
            fast_path=partial(FastPath, store=store, metrics=metrics) if has_fast_path else None,
        )
        app.include_router(build_router(store, list))
        self.http = httpx.AsyncClient(  # noqa: TID251 - in this process
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://node"
        )

    def count(self, method: str, status: str) -> float:
        return self.registry.get_sample_value(COUNT, {"method": method, "status": status}) or 0


@pytest.fixture
async def nodes() -> AsyncIterator[tuple[Node, Node]]:
    found = Node(has_fast_path=True), Node(has_fast_path=False)
    yield found
    for node in found:
        await node.http.aclose()
        assert node.budget.used_bytes == 0, "a lease was not given back"


async def both(nodes: tuple[Node, Node], method: str, path: str, **facts: object) -> httpx.Response:
    """The answer, which must be the same from both; the connection's own headers aside."""
    lean, plain = [await node.http.request(method, path, **facts) for node in nodes]
    assert (lean.status_code, lean.content) == (plain.status_code, plain.content)
    assert dict(lean.headers) == dict(plain.headers)
    return lean


async def test_the_fast_path_answers_as_the_declared_routes_do(nodes) -> None:
    """Status, headers and body are equal for puts, gets, ranges and heads, and for what is refused."""
    path = f"/v1/chunks/{DIGEST}"
    assert (await both(nodes, "GET", path)).status_code == 404
    assert (await both(nodes, "HEAD", path)).status_code == 404
    assert (await both(nodes, "PUT", path, content=b"other")).status_code == 400
    assert (await both(nodes, "PUT", path, content=bytes(1001))).status_code == 413
    assert (await both(nodes, "PUT", path, content=BODY)).status_code == 201
    assert (await both(nodes, "PUT", f"{path}?start_index=7", content=BODY)).status_code == 200
    assert [node.tier.start_indexes[DIGEST] for node in nodes] == [7, 7]
    assert (await both(nodes, "GET", path)).content == BODY
    assert (await both(nodes, "HEAD", path)).headers["content-length"] == str(len(BODY))
    assert (await both(nodes, "GET", path, headers={"range": "bytes=5-9"})).content == BODY[5:10]
    assert (await both(nodes, "GET", path, headers={"range": "bytes=9999-"})).status_code == 416
    assert (await both(nodes, "GET", "/v1/chunks/no-digest")).status_code == 400
    assert (await both(nodes, "GET", f"{path}/more")).status_code == 404
    assert (await both(nodes, "DELETE", path)).status_code == 204
    for node in nodes:
        node.tier.put_error = DiskFullError("full")
    assert (await both(nodes, "PUT", path, content=BODY)).json()["code"] == DiskFullError.code


@pytest.mark.parametrize("index", ["-1", "x", "", "1.0", str(2**63), "9" * 400])
async def test_a_start_index_that_is_none_is_refused(nodes, index) -> None:
    """Nothing is stored under an index that the catalog could not hold."""
    for node in nodes:
        answer = await node.http.put(f"/v1/chunks/{DIGEST}?start_index={index}", content=BODY)
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert node.tier.bodies == {}


async def test_the_start_index_stands_in_the_query_which_is_signed(nodes) -> None:
    """A header of that name says nothing; a query that is no start index is refused."""
    path = f"/v1/chunks/{DIGEST}"
    assert (await both(nodes, "PUT", f"{path}?start_index=7", content=BODY)).status_code == 201
    assert [node.tier.start_indexes[DIGEST] for node in nodes] == [7, 7]
    unsigned = {"x-trivet-start-index": "12"}
    assert (await both(nodes, "PUT", f"{path}?start_index=9", content=BODY, headers=unsigned)).status_code == 200
    assert [node.tier.start_indexes[DIGEST] for node in nodes] == [9, 9]
    for query in ("start_index=", "start_index=-1", "start_index=x", "index=5", f"start_index={2**63}"):
        for node in nodes:
            assert (await node.http.put(f"{path}?{query}", content=BODY)).status_code == 400
    assert [node.tier.start_indexes[DIGEST] for node in nodes] == [9, 9]


async def test_the_fast_path_counts_what_it_answers(nodes) -> None:
    """By method and status, refusals and defects too."""
    lean, _ = nodes
    path = f"/v1/chunks/{DIGEST}"
    await lean.http.get(path)
    await lean.http.put(path, content=BODY)
    await lean.http.get(path, headers={"range": "bytes=0-0"})
    lean.tier.get = None  # a defect of ours
    assert (await lean.http.get(path)).status_code == 500
    found = [lean.count(*labels) for labels in (("GET", "404"), ("PUT", "201"), ("GET", "206"), ("GET", "500"))]
    assert found == [1, 1, 1, 1]


async def test_answers_about_chunks_carry_the_fence(nodes) -> None:
    """Each of them, so that what is remembered of another disk can be dropped."""
    path = f"/v1/chunks/{DIGEST}"
    for method, target, facts in (
        ("PUT", path, {"content": BODY}),
        ("GET", path, {}),
        ("HEAD", path, {}),
        ("POST", "/v1/chunks/has", {"json": {"digests": [DIGEST]}}),
    ):
        assert (await both(nodes, method, target, **facts)).headers["x-trivet-fence"] == str(FENCE)


async def test_without_a_fence_nothing_is_acknowledged(nodes) -> None:
    """Definitely: nothing is stored. What is held is served."""
    path = f"/v1/chunks/{DIGEST}"
    assert (await both(nodes, "PUT", path, content=BODY)).status_code == 201
    for node in nodes:
        node.incarnation.fence = None
    refused = await both(nodes, "PUT", f"{path}?start_index=9", content=BODY)
    assert (refused.status_code, refused.json()["code"], refused.json()["definite"]) == (503, "not_ready", True)
    assert [node.tier.start_indexes[DIGEST] for node in nodes] == [0, 0]
    answer = await both(nodes, "GET", path)
    assert answer.content == BODY
    assert "x-trivet-fence" not in answer.headers
