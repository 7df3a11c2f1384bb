"""`services.storage.fast_path`: the short way answers as the declared routes do, and counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from blake3 import blake3
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.storage.api import build_router
from services.storage.chunk_store import ChunkStore
from services.storage.fast_path import FastPath
from services.storage.foreground import Foreground
from services.storage.incarnation import Incarnation
from services.storage.metrics import StorageMetrics
from shared.byte_budget import ByteBudget
from shared.contracts.chunk_batches import (
    BATCH_PATH,
    MAX_BATCH_ITEMS,
    MAX_FRAME_BYTES,
    BatchAnswer,
    BatchItem,
    BatchRequest,
    Failed,
    Found,
    GetItem,
    HasItem,
    Held,
    PutItem,
    Stored,
    encode_head,
    split_frame,
)
from shared.errors import DiskFullError
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER
from shared.roles import Role
from shared.web.request_metrics import request_metrics
from shared.web.service_app import create_app
from tests.callers import as_caller
from tests.unit.storage.fake_tier import FakeTier

BODY = bytes(range(256)) * 3
DIGEST = blake3(BODY).hexdigest()
FENCE = 7
WAYS = ("request", "response")
ONE_CHUNK = "/v1/chunks/{digest}"


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
        self.foreground = Foreground()
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
            fast_path=partial(FastPath, store=store, metrics=request_metrics(self.registry), foreground=self.foreground)
            if has_fast_path
            else None,
        )
        app.add_routes(build_router(store, list))
        self.http = httpx.AsyncClient(  # noqa: TID251 - in this process
            transport=httpx.ASGITransport(as_caller(app, Role.GATEWAY), raise_app_exceptions=False),
            base_url="http://node",
        )

    def count(self, method: str, status: str, handler: str = ONE_CHUNK) -> float:
        labels = {"method": method, "status": status, "handler": handler}
        return self.registry.get_sample_value("http_requests_total", labels) or 0


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
    assert [node.tier.recorded[DIGEST] for node in nodes] == [7, 7]
    assert (await both(nodes, "GET", path)).content == BODY
    assert (await both(nodes, "HEAD", path)).headers["content-length"] == str(len(BODY))
    assert (await both(nodes, "GET", path, headers={"range": "bytes=5-9"})).content == BODY[5:10]
    assert (await both(nodes, "GET", path, headers={"range": "bytes=9999-"})).status_code == 416
    assert (await both(nodes, "GET", "/v1/chunks/no-digest")).status_code == 400
    assert (await both(nodes, "GET", f"{path}/more")).status_code == 404
    assert (await both(nodes, "DELETE", path)).status_code == 204
    assert (await both(nodes, "DELETE", path)).json()["code"] == "chunk_not_found"
    assert (await both(nodes, "DELETE", "/v1/chunks/has")).json()["code"] == "invalid_name"
    assert (await both(nodes, "POST", path)).status_code == 405
    for node in nodes:
        node.tier.put_error = DiskFullError("full")
    assert (await both(nodes, "PUT", path, content=BODY)).json()["code"] == DiskFullError.code


async def test_a_pull_is_no_request_for_which_repair_yields(nodes) -> None:
    """It is answered and counted like one."""
    node, _ = nodes
    head = encode_head(BatchRequest([GetItem(bytes.fromhex(DIGEST))]))
    signed = {BODY_DIGEST_HEADER: blake3(head).hexdigest()}
    for pull in ({"x-trivet-pull": "1"}, {}):
        assert (await node.http.get(f"/v1/chunks/{DIGEST}", headers=pull)).status_code == 404
        assert (await node.http.post(BATCH_PATH, content=head, headers=signed | pull)).status_code == 200
        assert node.foreground.is_busy is (not pull)
    assert node.count("GET", "4xx") == 2


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
    assert [node.tier.recorded[DIGEST] for node in nodes] == [7, 7]
    unsigned = {"x-trivet-start-index": "12"}
    assert (await both(nodes, "PUT", f"{path}?start_index=9", content=BODY, headers=unsigned)).status_code == 200
    assert [node.tier.recorded[DIGEST] for node in nodes] == [9, 9]
    for query in ("start_index=", "start_index=-1", "start_index=x", "index=5", f"start_index={2**63}"):
        for node in nodes:
            assert (await node.http.put(f"{path}?{query}", content=BODY)).status_code == 400
    assert [node.tier.recorded[DIGEST] for node in nodes] == [9, 9]


async def test_a_question_is_answered_as_the_declared_route_does(nodes) -> None:
    """Short or long, and whatever is wrong with it: FastAPI's words are the ones that are heard."""
    path = "/v1/chunks/has"
    await both(nodes, "PUT", f"/v1/chunks/{DIGEST}", content=BODY)
    answer = await both(nodes, "POST", path, json={"digests": ["ab" * 32, DIGEST], "start_index": 9})
    assert answer.json() == {"present": [DIGEST], "verified": [DIGEST]}
    assert [node.tier.recorded[DIGEST] for node in nodes] == [9, 9]
    assert (await both(nodes, "POST", path, json={"digests": [DIGEST] * 400})).json()["present"] == [DIGEST] * 400
    for wrong in (
        {"json": {"digests": ["no digest"]}},
        {"json": {"digests": [5]}},
        {"json": {"digests": [], "start_index": -1}},
        {"json": {"digests": [], "more": 1}},
        {"json": [DIGEST]},
        {"content": b"{", "headers": {"content-type": "application/json"}},
        {"content": b"", "headers": {"content-type": "application/json"}},
        {"content": b'{"digests": []}', "headers": {"content-type": "text/plain"}},
    ):
        assert (await both(nodes, "POST", path, **wrong)).status_code == 400


async def test_a_get_says_the_start_index_when_it_is_asked(nodes) -> None:
    """With the whole chunk and with a range; any other query is refused."""
    path = f"/v1/chunks/{DIGEST}"
    await both(nodes, "PUT", f"{path}?start_index=7", content=BODY)
    for headers in ({}, {"range": "bytes=0-1"}):
        answer = await both(nodes, "GET", f"{path}?with_start_index=true", headers=headers)
        assert answer.headers["x-trivet-start-index"] == "7"
        for query in ("", "?with_start_index=false"):
            assert "x-trivet-start-index" not in (await both(nodes, "GET", path + query, headers=headers)).headers
    for query in ("with_start_index=1", "with_start_index=true&x=1", "start_index=7"):
        assert (await both(nodes, "GET", f"{path}?{query}")).status_code == 400
    assert (await both(nodes, "GET", f"/v1/chunks/{'0' * 64}?with_start_index=true")).status_code == 404


def frame_of(*items: BatchItem, bodies: bytes = b"") -> dict[str, Any]:
    """A request with such a frame, its head signed as far as this test goes."""
    head = encode_head(BatchRequest(list(items)))
    return {"content": head + bodies, "headers": {BODY_DIGEST_HEADER: blake3(head).hexdigest()}}


async def test_a_batch_is_answered_as_the_declared_route_does(nodes) -> None:
    """Its head names what was done; each item fails alone."""
    put = PutItem(bytes.fromhex(DIGEST), len(BODY), 5)
    sent = frame_of(put, GetItem(bytes(32)), HasItem(bytes(32)), bodies=BODY)
    answer = await both(nodes, "POST", BATCH_PATH, **sent)
    assert answer.status_code == 200
    _, head, rest = split_frame(answer.content, BatchAnswer)
    stored, failed, held = head.results
    assert (stored, held, head.fence, bytes(rest)) == (Stored(created=True), Held(False, False), FENCE, b"")
    assert isinstance(failed, Failed)
    assert failed.problem["code"] == "chunk_not_found"
    assert [node.tier.recorded[DIGEST] for node in nodes] == [5, 5]


HEAD = encode_head(BatchRequest([]))


@pytest.mark.parametrize(
    "sent",
    [
        {"content": b""},
        {"content": b"\x00\x00"},
        {"content": b"\x00\x00\x00\x00"},
        {"content": HEAD[:-1]},
        {"content": HEAD + b"x"},
        {"content": b"\x00\x00\x00\x01\xc1"},
        {"content": b"\xff\xff\xff\xff" + bytes(100)},
        frame_of(PutItem(bytes.fromhex(DIGEST), len(BODY) - 1, 0), bodies=BODY),
        frame_of(PutItem(bytes.fromhex(DIGEST), len(BODY) + 1, 0), bodies=BODY),
        frame_of(PutItem(bytes.fromhex(DIGEST), -1, 0)),
        frame_of(PutItem(bytes(31), len(BODY), 0), bodies=BODY),
        frame_of(PutItem(bytes.fromhex(DIGEST), len(BODY), -1), bodies=BODY),
        frame_of(PutItem(bytes.fromhex(DIGEST), len(BODY), 2**63), bodies=BODY),
        frame_of(*[HasItem(bytes(32))] * (MAX_BATCH_ITEMS + 1)),
    ],
)
async def test_what_is_no_frame_is_refused_and_nothing_is_done(nodes, sent) -> None:
    """Every way in which it is malformed ends in one problem document for all of it."""
    answer = await both(nodes, "POST", BATCH_PATH, **sent)
    assert (answer.status_code, answer.json()["code"], answer.json()["definite"]) == (400, "invalid_request", True)
    assert [node.tier.bodies for node in nodes] == [{}, {}]


async def test_a_frame_whose_head_was_not_signed_does_nothing(nodes) -> None:
    """The digest in the header is what the signature covers."""
    sent = frame_of(PutItem(bytes.fromhex(DIGEST), len(BODY), 5), bodies=BODY)
    for headers in ({}, {BODY_DIGEST_HEADER: blake3(sent["content"]).hexdigest()}):
        answer = await both(nodes, "POST", BATCH_PATH, content=sent["content"], headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "signature_rejected")
    assert [node.tier.bodies for node in nodes] == [{}, {}]


async def test_a_frame_comes_with_its_length_and_within_the_limit(nodes) -> None:
    """Memory is taken before it is read."""

    async def pieces() -> AsyncIterator[bytes]:
        yield HEAD

    for node in nodes:
        assert (await node.http.post(BATCH_PATH, content=pieces())).status_code == 400
    assert (await both(nodes, "POST", BATCH_PATH, content=bytes(MAX_FRAME_BYTES + 1))).status_code == 413


async def test_without_a_fence_the_puts_of_a_batch_fail_and_its_gets_do_not(nodes) -> None:
    """As single puts and gets."""
    for node in nodes:
        await node.http.put(f"/v1/chunks/{DIGEST}", content=BODY)
        node.incarnation.fence = None
    sent = frame_of(PutItem(bytes.fromhex(DIGEST), len(BODY), 9), GetItem(bytes.fromhex(DIGEST)), bodies=BODY)
    _, head, rest = split_frame((await both(nodes, "POST", BATCH_PATH, **sent)).content, BatchAnswer)
    refused, found = head.results
    assert isinstance(refused, Failed)
    assert (refused.problem["code"], refused.problem["definite"]) == ("not_ready", True)
    assert (found, bytes(rest), head.fence) == (Found(len(BODY)), BODY, None)
    assert [node.tier.recorded[DIGEST] for node in nodes] == [0, 0]


async def test_the_fast_path_counts_what_it_answers(nodes) -> None:
    """By method, status and route, refusals and defects too; what it passes on is counted by FastAPI."""
    lean, _ = nodes
    path = f"/v1/chunks/{DIGEST}"
    await lean.http.get(path)
    await lean.http.put(path, content=BODY)
    await lean.http.get(path, headers={"range": "bytes=0-0"})
    lean.tier.get = None  # a defect of ours
    assert (await lean.http.get(path)).status_code == 500
    await lean.http.delete(path)
    await lean.http.post("/v1/chunks/has", json={"digests": []})
    await lean.http.post("/v1/chunks/has", json={"digests": 5})
    await lean.http.post(BATCH_PATH, **frame_of())
    found = [lean.count(*labels) for labels in (("GET", "4xx"), ("PUT", "2xx"), ("GET", "2xx"), ("GET", "5xx"))]
    assert found == [1, 1, 1, 1]
    assert lean.count("DELETE", "2xx") == 1
    assert [lean.count("POST", "2xx", f"/v1/chunks/{name}") for name in ("has", "batch")] == [1, 1]
    assert lean.count("POST", "4xx", "/v1/chunks/has") == 0
    sizes = [lean.registry.get_sample_value(f"http_{way}_size_bytes_sum", {"handler": ONE_CHUNK}) for way in WAYS]
    assert sizes[0] == len(BODY)
    assert sizes[1] is not None
    assert sizes[1] > 1


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
    assert [node.tier.recorded[DIGEST] for node in nodes] == [0, 0]
    answer = await both(nodes, "GET", path)
    assert answer.content == BODY
    assert "x-trivet-fence" not in answer.headers
