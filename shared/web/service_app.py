"""How every service becomes a web application: problem documents, health, docs from package assets, signatures.

The order around a request: edge guard (sizes and time, `shared.web.http_edge`) -> `_InternalOnly` (signature, role, body
limit) -> metrics -> FastAPI -> a route. Anything that a route raises leaves as an RFC 9457 problem document.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.resources import files
from typing import Any, Final

import structlog
from blake3 import blake3
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.contracts.chunk_batches import BATCH_PATH
from shared.errors import (
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    NotReadyError,
    PayloadTooLargeError,
    SignatureRejectedError,
    TrivetError,
)
from shared.peer_calls.request_signing import (
    ANSWER_MAC_HEADER,
    BODY_DIGEST_HEADER,
    COVERED_PREFIX,
    EMPTY_BODY_DIGEST,
    AnswerFacts,
    RequestVerifier,
    VerifiedRequest,
)
from shared.request_trace import TRACE_HEADER, TRACE_MAX
from shared.roles import Role
from shared.units import MIB
from shared.web.http_edge import ERROR_CODE_HEADER, problem_of_status
from shared.web.http_methods import HeadAsGet, allowed_methods
from shared.web.problem_schema import COMMON_INTERNAL, PROBLEM_TYPE, describe_problems
from shared.web.raw_paths import RawPaths
from shared.web.request_metrics import problem_counts, request_metrics
from shared.web.tracing import working_for

logger = structlog.get_logger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
CallerCheck = Callable[[Role, str, str], None]
"""Gets role, method and path of a request, and raises a TrivetError where that role may not call that."""
Readiness = Callable[[], list[str]]
"""Says why the service cannot serve now; an empty list means ready."""

VERSION: Final = "0.4.0"
"""Of this release; pyproject.toml and the tags of the images in k8s say the same, held equal by tests/tidy."""

OPEN_PATHS: Final = ("/healthz", "/readyz", "/docs", "/redoc", "/openapi.json", "/docs-assets/")
"""What an internal port answers without a signature: probes and the description of the API. No data, no settings.

With a signature the answer is authenticated, so a caller can tell the service from another program on its port."""

ALIVE: Final = {"status": "alive"}

DOCS_POLICY: Final = (
    "default-src 'none'; connect-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src blob:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Nobody else is asked by our pages. ReDoc has a logo of its maker's in its code, which the browser must not fetch; the
pages start by a script in the page itself and style themselves, which is why both may be inline."""

BODY_DIGEST: Final = "trivet.body_digest"
"""In the ASGI message that begins an answer whose body is not to be hashed for its MAC: what stands there instead of the digest.

Of a frame the digest of its head, hex. Empty for a body that something else proves: a chunk, by the digest in the request, and
a stream, by the digest in a header."""

CALLER: Final = "trivet.caller"
"""In the ASGI scope of an internal request: the role that its sender has proved."""

_PASSED_ON: Final = "trivet.passed_on"
_BODY_DIGEST: Final = BODY_DIGEST_HEADER.encode()
_TRACE: Final = TRACE_HEADER.encode()
_ANSWER_MAC: Final = ANSWER_MAC_HEADER.encode()
_COVERED: Final = COVERED_PREFIX.encode()


def create_app(
    *,
    title: str,
    description: str,
    lifespan: Lifespan,
    readiness: Readiness,
    verifier: RequestVerifier | None,
    callers: CallerCheck | None = None,
    max_body_bytes: int = 8 * MIB,
    fast_path: Callable[[ASGIApp], ASGIApp] | None = None,
    named_below: tuple[bytes, ...] = (),
) -> ServiceApp:
    """The application of a service's data port, with everything that the services have in common.

    Args:
        readiness: asked by /readyz, which says no more than whether there is a reason.
        verifier: for internal services: every path but `OPEN_PATHS` needs a signature. None for the public gateway.
        callers: for internal services: which role may call what.
        max_body_bytes: of internal requests; the gateway bounds its own bodies.
        fast_path: wraps metrics and FastAPI, behind the signature check: for calls that cost less than those two.
        named_below: prefixes of paths that go on with names, which the routes decode from the raw path.
    """
    app = ServiceApp(
        title=title,
        description=description,
        version=VERSION,
        lifespan=_with_health(lifespan),
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.is_started = False
    add_error_handlers(app)
    _add_health(app, readiness)
    add_docs(app)
    # A registry per process is what one service has; tests that make several apps get the metrics of all of them.
    Instrumentator(excluded_handlers=["/healthz", "/readyz"]).add(request_metrics().record_info).instrument(app)
    app.add_middleware(HeadAsGet, routes=app)
    front: ASGIApp = app.answer
    if fast_path is not None:
        front = fast_path(front)
    if verifier is not None:
        describe_problems(app, COMMON_INTERNAL)
        if callers is None:
            raise ValueError("an internal port says who may call what")
        front = _InternalOnly(front, verifier=verifier, callers=callers, max_body_bytes=max_body_bytes)
    app.front = RawPaths(front, decoded_prefixes=named_below)
    return app


def caller_of(scope: Scope) -> Role:
    """What the sender of an internal request has proved to be."""
    caller: Role = scope[CALLER]
    return caller


def problem_response(error: TrivetError, instance: str | None = None) -> JSONResponse:
    """`error` as an HTTP answer, with its code in a header, too, and Retry-After where a retry makes sense."""
    problem_counts().labels(error.code).inc()
    headers = {ERROR_CODE_HEADER: error.code}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    problem = error.to_problem()
    if instance is not None:
        problem["instance"] = instance
    return JSONResponse(problem, status_code=error.status, headers=headers, media_type=PROBLEM_TYPE)


def _with_health(lifespan: Lifespan) -> Lifespan:
    @asynccontextmanager
    async def wrapped(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            app.state.is_started = True
            yield
            app.state.is_started = False

    return wrapped


def _add_health(app: FastAPI, readiness: Readiness) -> None:
    """One word each: whoever reaches the data port learns whether it serves, and no facts (`shared.web.operations` has them)."""

    @app.get("/healthz", tags=["health"], summary="Is the process alive?", responses=json_example(ALIVE))
    async def healthz() -> dict[str, str]:
        """It answers, whatever it can or cannot do."""
        return ALIVE

    @app.get(
        "/readyz",
        tags=["health"],
        summary="Can it serve?",
        responses={**json_example({"status": "ready"}), 503: {"description": "Not now; the operations port says why."}},
    )
    async def readyz() -> dict[str, str]:
        """For load balancers and peers. Why not, and what is degraded, is said on the operations port."""
        if not app.state.is_started or readiness():
            raise NotReadyError("This service cannot serve now.")
        return {"status": "ready"}


def json_example(value: Mapping[str, Any]) -> dict[int | str, dict[str, Any]]:
    """A description of the answer 200 by an example."""
    return {200: {"content": {"application/json": {"example": value}}}}


def add_docs(app: FastAPI) -> None:
    """Swagger UI and ReDoc from package assets."""
    app.mount("/docs-assets", StaticFiles(directory=str(files("fastapi_offline") / "static")), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def swagger_ui() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"{app.title}: API",
            swagger_js_url="/docs-assets/swagger-ui-bundle.js",
            swagger_css_url="/docs-assets/swagger-ui.css",
            swagger_favicon_url="/docs-assets/favicon.png",
        )
        page.headers["content-security-policy"] = DOCS_POLICY
        return page

    @app.get("/redoc", include_in_schema=False)
    async def redoc() -> HTMLResponse:
        page = get_redoc_html(
            openapi_url="/openapi.json",
            title=f"{app.title}: API",
            redoc_js_url="/docs-assets/redoc.standalone.js",
            redoc_favicon_url="/docs-assets/favicon.png",
            with_google_fonts=False,
        )
        page.headers["content-security-policy"] = DOCS_POLICY
        return page


def add_error_handlers(app: FastAPI) -> None:
    """Answer whatever a route raises with a problem document."""

    @app.exception_handler(TrivetError)
    async def on_trivet_error(request: Request, error: TrivetError) -> Response:
        return problem_response(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        problems = [
            {"where": ".".join(str(part) for part in detail["loc"]), "what": detail["msg"]}
            for detail in error.errors()[:20]
        ]
        return problem_response(InvalidRequestError("The request is malformed.", problems=problems), request.url.path)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        # FastAPI calls whatever goes wrong while it reads a body a 400; what our own edge refused says it better.
        if isinstance(error.__cause__, TrivetError):
            return problem_response(error.__cause__, path)
        if error.status_code == 404:
            return problem_response(NotFoundError("There is nothing at this path."), path)
        if error.status_code == 405:
            allowed = ", ".join(allowed_methods(app, request.scope)) or (error.headers or {}).get("allow", "GET, HEAD")
            answer = problem_response(MethodNotAllowedError(f"This path takes {allowed}."), path)
            answer.headers["allow"] = allowed
            return answer
        if error.status_code == 400:
            return problem_response(InvalidRequestError(str(error.detail)), path)
        problem = problem_of_status(error.status_code, "HTTP error") | {"detail": str(error.detail), "instance": path}
        headers = {**(error.headers or {}), ERROR_CODE_HEADER: str(problem["code"])}
        return JSONResponse(problem, error.status_code, headers=headers, media_type=PROBLEM_TYPE)

    @app.exception_handler(Exception)
    async def on_defect(request: Request, error: Exception) -> Response:
        logger.error("unhandled error", path=request.url.path, exc_info=error)
        return problem_response(InternalError("A defect of ours; it has been logged."), request.url.path)


class ServiceApp(FastAPI):
    """FastAPI behind what answers before it: its own outermost layers cost as much as a small chunk on the fast path."""

    front: ASGIApp | None = None
    operations: FastAPI | None = None
    """What the operations listener serves; see `shared.web.operations`."""

    def add_routes(self, router: APIRouter) -> None:
        """Take over the routes of `router`, as they are.

        `include_router` makes each of them a second time, with all its models, at the first request, and has them all looked
        through for every request that is counted.
        """
        self.router.routes.extend(router.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI."""
        if scope["type"] != "http" or self.front is None:
            await self.answer(scope, receive, send)
            return
        passed_on: list[bool] = []
        scope[_PASSED_ON] = passed_on  # the list, because the scope itself may be copied on the way
        try:
            await self.front(scope, receive, send)
        except Exception:
            if passed_on:  # FastAPI has answered
                raise
            logger.exception("unhandled error", path=scope["path"])
            # If an answer has begun already the server refuses a second one, and breaks the connection.
            answer = problem_response(InternalError("A defect of ours; it has been logged."), scope["path"])
            await answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What FastAPI itself makes of a request."""
        scope.get(_PASSED_ON, []).append(True)
        await super().__call__(scope, receive, send)


class _InternalOnly:
    """Lets only signed requests of permitted roles through, with the body that was signed; authenticates the answers.

    The body is hashed as it passes, and the last piece is withheld until the digest fits, so that no route can act on
    a body that was tampered with. A chunk's digest stands in its path and the chunk store checks it anyway, so it is not
    hashed here a second time; of a batch the head of the frame is signed, which its route alone can cut off.
    """

    def __init__(self, app: ASGIApp, verifier: RequestVerifier, callers: CallerCheck, max_body_bytes: int) -> None:
        self._app = app
        self._verifier = verifier
        self._check_caller = callers
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if b"authorization" not in headers and _is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        digest = headers.get(_BODY_DIGEST, b"").decode("latin-1")
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        try:
            authorization = headers.get(b"authorization", b"").decode("latin-1")
            request = self._verifier.verify(scope["method"], target, authorization, digest)
        except SignatureRejectedError as error:
            answer = problem_response(error, scope["path"])
            answer.headers["www-authenticate"] = self._verifier.challenge()
            await answer(scope, receive, send)
            return
        send = _AuthenticatedAnswer(send, request, is_head=scope["method"] == "HEAD").send
        scope[CALLER] = request.caller
        trace = headers.get(_TRACE, b"").decode("latin-1")[:TRACE_MAX]
        with working_for(trace, scope["method"]):
            await self._answer(scope, receive, send, headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes]) -> None:
        """A request whose sender is known."""
        try:
            if not _is_open(scope["path"]):
                self._check_caller(caller_of(scope), scope["method"], scope["path"])
            self._check_length(headers.get(b"content-length"))
        except TrivetError as error:
            answer = problem_response(error, scope["path"])
            if isinstance(error, MethodNotAllowedError):
                answer.headers["allow"] = ", ".join(error.facts["allowed"])
            await answer(scope, receive, send)
            return
        digest = headers.get(_BODY_DIGEST, b"").decode("latin-1")
        is_named_by_digest = bool(digest) and scope["path"].endswith("/" + digest)
        is_checked_by_route = is_named_by_digest or scope["path"] == BATCH_PATH
        await self._app(scope, self._bounded(receive, None if is_checked_by_route else digest), send)

    def _check_length(self, content_length: bytes | None) -> None:
        if content_length is not None and content_length.isdigit() and int(content_length) > self._max_body_bytes:
            raise PayloadTooLargeError("The body is larger than this service takes.", limit_bytes=self._max_body_bytes)

    def _bounded(self, receive: Receive, digest: str | None) -> Receive:
        received_bytes = 0
        hasher = blake3()

        async def checked() -> Message:
            nonlocal received_bytes
            message = await receive()
            if message["type"] != "http.request":
                return message
            body = message.get("body", b"")
            received_bytes += len(body)
            if received_bytes > self._max_body_bytes:
                raise PayloadTooLargeError(
                    "The body is larger than this service takes.", limit_bytes=self._max_body_bytes
                )
            if digest is not None:
                hasher.update(body)
                if not message.get("more_body", False) and hasher.hexdigest() != digest:
                    # As a wrong signature, which callers send again: it is damaged, not malformed.
                    raise SignatureRejectedError("The body is not the one that was signed.")
            return message

        return checked


class _AuthenticatedAnswer:
    """Sends an answer with its MAC among the headers. They wait for the body, which is hashed, unless `BODY_DIGEST` is there."""

    def __init__(self, send: Send, request: VerifiedRequest, *, is_head: bool) -> None:
        self._send = send
        self._request = request
        self._is_head = is_head
        self._start: Message | None = None
        self._pieces: list[bytes] = []

    async def send(self, message: Message) -> None:
        """As ASGI."""
        if message["type"] == "http.response.start":
            if self._is_head or BODY_DIGEST in message:
                await self._send(self._with_mac(message, message.get(BODY_DIGEST, EMPTY_BODY_DIGEST)))
            else:
                self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                start, self._start = self._start, None
                body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
                await self._send(self._with_mac(start, blake3(body).hexdigest() if body else EMPTY_BODY_DIGEST))
                await self._send({**message, "body": body})

    def _with_mac(self, start: Message, body_digest: str) -> Message:
        headers = [*start.get("headers", [])]
        covered = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in headers if name.startswith(_COVERED)
        ]
        mac = self._request.answer_mac(AnswerFacts(start["status"], body_digest, covered))
        return {**start, "headers": [*headers, (_ANSWER_MAC, mac.encode())]}


def _is_open(path: str) -> bool:
    return any(path == prefix or (prefix.endswith("/") and path.startswith(prefix)) for prefix in OPEN_PATHS)
