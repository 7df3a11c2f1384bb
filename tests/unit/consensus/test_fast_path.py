"""`services.consensus.fast_path`: the short way answers as the declared routes do, and counts as they are counted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from services.consensus.api import create_router
from services.consensus.fast_path import MemberFastPath, answer_proposals
from shared.contracts.metadata import AnyQuery, GetFile, Proposal, ProposalBatch, ProposalResult, ReadBatch, ReadResults
from shared.contracts.read_results import encode_read_results
from shared.errors import NotLeaderError, NotReadyError, PayloadTooLargeError
from shared.roles import Role
from shared.web.request_metrics import RequestMetrics
from shared.web.service_app import create_app
from tests.callers import as_caller
from tests.unit.consensus.metadata.builders import content, publish

MEMBERS = "consensus-1=http://one,consensus-2=http://two"
PROPOSALS = ProposalBatch(
    proposals=[Proposal(request_id="r", command=publish("a/é", content=content(2500), fences={"storage-1": 7}))]
)
READS = ReadBatch(queries=[GetFile(bucket="default", key="a/é")])
JSON = {"content-type": "application/json"}


@asynccontextmanager
async def no_lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield


class Service:
    """Answers what it was asked with the same every time, and keeps what it was asked."""

    members = MEMBERS

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked: list[Any] = []

    async def propose(self, proposals: Sequence[Proposal], *, needs_requesters: bool) -> list[ProposalResult]:
        self._ask(proposals)
        self.needs_requesters = needs_requesters
        return [ProposalResult(log_index=7, term=2, result={"key": "é", "n": None}) for _ in proposals]

    async def read(self, queries: Sequence[AnyQuery]) -> bytes:
        self._ask(queries)
        return encode_read_results(ReadResults(log_index=7, term=2, epoch=1, hlc=5, results=[]))

    def _ask(self, what: Sequence[Any]) -> None:
        self.asked.append(list(what))
        if self.error is not None:
            raise self.error


class Member:
    """The routes over a service that answers, unsigned, with the fast path or without."""

    def __init__(self, *, has_fast_path: bool) -> None:
        self.service = Service()
        self.registry = CollectorRegistry()
        self.passed_on = 0
        fast_path = partial(MemberFastPath, service=lambda: self.service, metrics=RequestMetrics(self.registry))
        app = create_app(
            title="Test",
            description="A test.",
            lifespan=no_lifespan,
            readiness=list,
            verifier=None,
            fast_path=(lambda behind: fast_path(self.counting(behind))) if has_fast_path else None,
        )
        app.add_routes(create_router(self))  # type: ignore[arg-type]
        self.http = httpx.AsyncClient(  # noqa: TID251 - in this process
            transport=httpx.ASGITransport(as_caller(app, Role.GATEWAY), raise_app_exceptions=False),
            base_url="http://member",
        )

    def counting(self, app: ASGIApp) -> ASGIApp:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self.passed_on += 1
            await app(scope, receive, send)

        return counted

    def count(self, path: str, status: str) -> float:
        labels = {"method": "POST", "handler": path, "status": status}
        return self.registry.get_sample_value("http_requests_total", labels) or 0


@pytest.fixture
async def members() -> AsyncIterator[tuple[Member, Member]]:
    found = Member(has_fast_path=True), Member(has_fast_path=False)
    yield found
    for member in found:
        await member.http.aclose()


async def both(members: tuple[Member, Member], path: str, **facts: Any) -> httpx.Response:
    """The answer, which must be the same from both, to a call that was understood alike."""
    lean, plain = [await member.http.request(facts.get("method", "POST"), path, **_sent(facts)) for member in members]
    assert (lean.status_code, lean.content) == (plain.status_code, plain.content)
    assert dict(lean.headers) == dict(plain.headers)
    assert members[0].service.asked == members[1].service.asked
    return lean


def _sent(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != "method"}


@pytest.mark.parametrize(("path", "batch"), [("/v1/proposals", PROPOSALS), ("/v1/reads", READS)])
async def test_the_fast_path_answers_as_the_declared_routes_do(members, path, batch) -> None:
    """What is asked arrives alike, and status, headers and body of the answer are equal."""
    answer = await both(members, path, content=batch.model_dump_json(), headers=JSON)
    assert answer.status_code == 200
    assert answer.headers["x-trivet-members"] == MEMBERS
    asked = members[0].service.asked
    assert asked == [list(getattr(batch, "proposals" if path == "/v1/proposals" else "queries"))]
    assert members[0].passed_on == 0


async def test_a_gateway_has_to_say_for_whom_it_proposes() -> None:
    """It speaks for clients."""
    service = Service()
    await answer_proposals(cast("Any", service), Role.GATEWAY, PROPOSALS)
    assert service.needs_requesters


@pytest.mark.parametrize("path", ["/v1/proposals", "/v1/reads"])
@pytest.mark.parametrize(
    "error",
    [
        NotLeaderError("Not me.", leader_id="consensus-2", leader_url="http://two"),
        NotReadyError("Not yet."),
        PayloadTooLargeError("Too much.", limit_bytes=1),
        RuntimeError("a defect of ours"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_refusals_and_defects_are_the_same_problems(members, path, error) -> None:
    """With the same status, facts and headers, Retry-After among them; answered here and not passed on."""
    for member in members:
        member.service.error = error
    batch = PROPOSALS if path == "/v1/proposals" else READS
    answer = await both(members, path, content=batch.model_dump_json(), headers=JSON)
    assert answer.status_code == getattr(error, "status", 500)
    assert answer.headers["content-type"] == "application/problem+json"
    assert members[0].passed_on == 0


@pytest.mark.parametrize("path", ["/v1/proposals", "/v1/reads"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'{"proposals":[],"queries":[]}',
        b'{"queries":[{"kind":"get_file","bucket":"default"}]}',
        b'{"queries":[{"kind":"get_bucket","bucket":"default","tomorrow":1}]}',
        b'{"proposals":[{"request_id":"","command":{"kind":"none"}}]}',
        b'{"queries":[{"kind":"get_bucket","bucket":"\xff"}]}',
        b"[" * 10_000,
    ],
)
async def test_what_is_no_call_is_refused_by_the_declared_routes(members, path, body) -> None:
    """One place says what is wrong with it; nothing was asked of the service."""
    answer = await both(members, path, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert members[0].passed_on == 1
    assert members[0].service.asked == []


async def test_everything_else_passes_through(members) -> None:
    """Other methods, paths and types of content."""
    body = READS.model_dump_json()
    assert (await both(members, "/v1/reads", content=body, headers={"content-type": "text/plain"})).status_code == 400
    assert (await both(members, "/v1/reads", method="GET")).status_code == 405
    assert (await both(members, "/v1/reads/", content=body, headers=JSON)).status_code == 307
    assert (await both(members, "/v1/nothing", content=body, headers=JSON)).status_code == 404
    assert members[0].passed_on == 4


async def test_a_body_in_pieces_is_one_body(members) -> None:
    """Whole or malformed: what was read of a malformed one is read again by the routes."""

    async def pieces(body: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(body), 10):
            yield body[at : at + 10]

    whole = READS.model_dump_json().encode()
    assert (await both_in_pieces(members, partial(pieces, whole))).status_code == 200
    assert (await both_in_pieces(members, partial(pieces, whole[:-1]))).status_code == 400


async def both_in_pieces(members, pieces) -> httpx.Response:
    lean, plain = [await member.http.post("/v1/reads", content=pieces(), headers=JSON) for member in members]
    assert (lean.status_code, lean.content) == (plain.status_code, plain.content)
    return lean


async def test_the_fast_path_counts_what_it_answers(members) -> None:
    """Once, refusals and defects too; what is passed on is counted behind it."""
    lean, _ = members
    body = READS.model_dump_json()
    await lean.http.post("/v1/reads", content=body, headers=JSON)
    for error in (NotLeaderError("Not me."), RuntimeError("a defect")):
        lean.service.error = error
        await lean.http.post("/v1/reads", content=body, headers=JSON)
    await lean.http.post("/v1/reads", content=b"{}", headers=JSON)
    assert [lean.count("/v1/reads", status) for status in ("2xx", "4xx", "5xx")] == [1, 1, 1]
    received = lean.registry.get_sample_value("http_request_size_bytes_sum", {"handler": "/v1/reads"})
    assert received == 3 * len(body.encode())


def test_the_examples_are_what_the_routes_take() -> None:
    """Or the tests above would compare refusals only."""
    for batch in (PROPOSALS, READS):
        assert type(batch).model_validate_json(json.dumps(json.loads(batch.model_dump_json()))) == batch
