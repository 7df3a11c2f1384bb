"""`shared.web.service_app`: what every service answers in the same way, over a real socket."""

from __future__ import annotations

import gc
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from blake3 import blake3
from fastapi import FastAPI, HTTPException, Request
from fastapi.routing import APIRoute
from prometheus_client import generate_latest
from pydantic import BaseModel

from shared.cluster_keys import derive_peer_keys
from shared.errors import QuorumNotReachedError
from shared.peer_address import PeerAddress
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER, RequestSigner, RequestVerifier
from shared.roles import Role
from shared.web.answer_writer import AnswerCycle
from shared.web.operations import add_operations
from shared.web.service_app import ServiceApp, create_app
from tests.callers import anybody

KEYS = derive_peer_keys("k" * 32, Role.GATEWAY)
LIMIT_BYTES = 1000


class Number(BaseModel):
    """A body with one field."""

    value: int


@asynccontextmanager
async def no_lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield


def make_app(reasons: list[str], *, is_internal: bool) -> ServiceApp:
    """An application with a few routes, as a service would make it."""
    app = create_app(
        title="Test",
        description="A test.",
        lifespan=no_lifespan,
        readiness=lambda: reasons,
        verifier=RequestVerifier(derive_peer_keys("k" * 32, Role.STORAGE), "test-1") if is_internal else None,
        callers=anybody,
        max_body_bytes=LIMIT_BYTES,
    )

    @app.post("/v1/numbers")
    async def numbers(number: Number) -> Number:
        return number

    @app.put("/v1/chunks/{digest}")
    async def chunk(digest: str, request: Request) -> dict[str, int]:
        return {"received_bytes": len(await request.body())}

    @app.get("/v1/quorum")
    async def quorum() -> None:
        raise QuorumNotReachedError("One of two.", needed=2, acknowledged=1)

    @app.get("/v1/defect")
    async def defect() -> None:
        raise ZeroDivisionError("secret detail")

    @app.get("/v1/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout")

    return app


@pytest.fixture
def public(serve_app) -> str:
    return serve_app(make_app([], is_internal=False))


@pytest.fixture
def internal(serve_app) -> str:
    return serve_app(make_app([], is_internal=True))


def signed(
    url: str, method: str, path: str, content: bytes = b"", digest: str | None = None, **headers: str
) -> httpx.Response:
    """Send with a valid signature; the boot id is learnt from a first refusal."""
    signer = RequestSigner(KEYS)
    digest = blake3(content).hexdigest() if digest is None else digest
    with httpx.Client(trust_env=False, timeout=30) as client:
        boot = re.search('boot="([0-9a-f]*)"', client.get(url + "/v1/x").headers["www-authenticate"])
        assert boot is not None
        signer.learn("test-1", boot[1])
        authorization = signer.sign(method, path, PeerAddress("test-1", url, Role.STORAGE), digest).authorization
        return client.request(
            method,
            url + path,
            content=content,
            headers={"authorization": authorization, BODY_DIGEST_HEADER: digest, **headers},
        )


def count_cycles() -> int:
    return sum(type(thing) is AnswerCycle for thing in gc.get_objects())


def get(url: str) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=30) as client:
        return client.get(url)


def test_a_request_leaves_nothing_to_the_collector_of_cycles(public) -> None:
    """Its full passes look at everything that a service remembers, and hold up every request meanwhile."""
    gc.collect()
    before = count_cycles()
    gc.disable()
    try:
        with httpx.Client(trust_env=False, timeout=30) as client:
            for number in range(20):
                assert client.post(f"{public}/v1/numbers", json={"value": number}).status_code == 200
            after = count_cycles()
    finally:
        gc.enable()
    # The connection knows the one of its last request.
    assert after <= before + 1


def test_a_typed_error_becomes_a_problem_document_with_its_facts(public) -> None:
    """RFC 9457, Retry-After in the header and in the body."""
    answer = get(f"{public}/v1/quorum")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "quorum_not_reached"
    assert problem["definite"] is True
    assert (problem["needed"], problem["acknowledged"], problem["instance"]) == (2, 1, "/v1/quorum")


def test_a_defect_is_a_500_that_tells_nothing_of_its_inside(public) -> None:
    """And says that what was asked for may have happened."""
    answer = get(f"{public}/v1/defect")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert answer.json()["definite"] is False
    assert "secret detail" not in answer.text
    assert "ZeroDivision" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("DELETE", "/v1/quorum", 405, "method_not_allowed"),
        ("GET", "/v1/teapot", 418, "http_error"),
        ("POST", "/v1/numbers", 400, "invalid_request"),
    ],
)
def test_the_frameworks_own_errors_are_problem_documents_too(public, method, path, status, code) -> None:
    """No answer of another shape, whoever made it."""
    with httpx.Client(trust_env=False, timeout=30) as client:
        answer = client.request(method, public + path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["status"], answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("body", [b"", b"{", b'{"value": "x"}', b"[" * 100_000, b"\xff", b'{"value": 1e999}'])
def test_malformed_json_is_a_400(public, body) -> None:
    """Whatever is wrong with it, also nesting that would exhaust a stack."""
    with httpx.Client(trust_env=False, timeout=30) as client:
        answer = client.post(f"{public}/v1/numbers", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert len(answer.content) < 4096


def test_health_says_alive_while_readiness_says_why_not(serve_app) -> None:
    """Liveness must not depend on others, or a cluster would restart itself to death. Why not is for operators only."""
    reasons = ["no leader", "no clock"]
    app = make_app(reasons, is_internal=True)
    url, operations = serve_app(app), serve_app(add_operations(app, readiness=lambda: reasons, metrics_token=None))
    assert get(f"{url}/healthz").json() == get(f"{operations}/healthz").json() == {"status": "alive"}
    answer = get(f"{operations}/readyz")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == reasons
    answer = get(f"{url}/readyz")
    assert answer.status_code == 503
    assert "leader" not in answer.text
    reasons.clear()
    assert get(f"{url}/readyz").json() == get(f"{operations}/readyz").json() == {"status": "ready"}


def test_every_internal_route_refuses_a_request_without_a_signature(serve_app) -> None:
    """All of them, also metrics and routes that somebody adds later; probes and docs excepted."""
    app = make_app([], is_internal=True)
    url = serve_app(app)
    open_paths = {"/healthz", "/readyz"}
    checked = 0
    with httpx.Client(trust_env=False, timeout=30) as client:
        for route in app.routes:
            if isinstance(route, APIRoute) and route.path not in open_paths and route.include_in_schema:
                for method in route.methods:
                    assert client.request(method, url + route.path).status_code == 401, route.path
                    checked += 1
        for path in ("/metrics", "/nowhere", "/docs/x", "/openapi.json/x", "/healthz/", "//healthz", "/docs-assets"):
            assert client.get(url + path).status_code == 401, path
    assert checked >= 5


def test_a_signed_request_reaches_its_route(internal) -> None:
    """With its body."""
    answer = signed(internal, "POST", "/v1/numbers", b'{"value": 5}', **{"content-type": "application/json"})
    assert (answer.status_code, answer.json()) == (200, {"value": 5})


def test_a_body_other_than_the_signed_one_is_refused_before_its_route_acts(internal) -> None:
    """The digest in the signature is checked against what arrived, also where the route reads the body itself."""
    wrong = blake3(b"other").hexdigest()
    answer = signed(internal, "POST", "/v1/numbers", b'{"value": 5}', wrong, **{"content-type": "application/json"})
    # Not 400: a body damaged on its way is sent again, a malformed one is not.
    assert (answer.status_code, answer.json()["code"]) == (401, "signature_rejected")
    assert answer.headers["content-type"] == "application/problem+json"
    answer = signed(internal, "PUT", f"/v1/chunks/{'0' * 64}", b"chunk", wrong)
    assert (answer.status_code, answer.json()["code"]) == (401, "signature_rejected")


def test_a_chunk_is_not_hashed_twice_because_its_path_names_its_digest(internal) -> None:
    """The route itself compares bytes and name; the middleware leaves that body alone."""
    digest = blake3(b"chunk").hexdigest()
    answer = signed(internal, "PUT", f"/v1/chunks/{digest}", b"something else", digest)
    assert (answer.status_code, answer.json()) == (200, {"received_bytes": 14})


@pytest.mark.parametrize(("size_bytes", "status"), [(LIMIT_BYTES, 200), (LIMIT_BYTES + 1, 413)])
def test_an_internal_body_has_an_exact_limit(internal, size_bytes, status) -> None:
    """The last permitted byte and the first that is too many, announced by Content-Length."""
    body = b"x" * size_bytes
    answer = signed(internal, "PUT", f"/v1/chunks/{blake3(body).hexdigest()}", body)
    assert answer.status_code == status


def test_docs_show_swagger_ui_without_any_outside_address(public) -> None:
    """Page, script, style and icon all come from the service itself."""
    for page in ("/docs", "/redoc"):
        html = get(public + page).text
        assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", html)
        own = re.findall(r"""(?:src|href)=["'](/[^"']+)""", html)
        assert own
        for path in own:
            assert get(public + path).status_code == 200, path
    schema = get(f"{public}/openapi.json").json()
    assert "/v1/numbers" in schema["paths"]


def test_metrics_count_requests_by_route_and_not_by_path(public) -> None:
    """A label per file name would grow without bound."""
    get(f"{public}/v1/quorum")
    get(f"{public}/some/unknown/path")
    assert get(f"{public}/metrics").status_code == 404
    text = generate_latest().decode()
    assert 'handler="/v1/quorum"' in text
    assert "some/unknown" not in text
