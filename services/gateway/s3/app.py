"""The second front door: a plain ASGI application that takes every request through the same steps, in the same order.

Which operation it is, from the raw request alone; who asks; whether that principal may; the handler; the answer. An error at
any step is a document of S3's. Nothing of a body is read before the handler reads it, so whatever is refused by then is
answered in place of `100 Continue`, and the connection ends with that answer (`api.early_refusal`).
"""

from __future__ import annotations

import secrets
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog
from blake3 import blake3
from starlette.types import Message, Receive, Scope, Send

from services.gateway.access import context as access
from services.gateway.access.context import AccessContext
from services.gateway.access.control import AccessControl
from services.gateway.access.principal import NOBODY, UNKNOWN
from services.gateway.access.refusals import caller_of
from services.gateway.api.early_refusal import WatchedBody, announces_body
from services.gateway.api.requests import fields_of
from services.gateway.api.services import RunningGateway, Services
from services.gateway.api.web_origins import check_origin
from services.gateway.s3.cors import mark_answers
from services.gateway.s3.errors import S3Error
from services.gateway.s3.header_rules import refuse_unknown_headers, refuse_unknown_parameters
from services.gateway.s3.operation_table import Operation, find
from services.gateway.s3.owners import owner_of_all
from services.gateway.s3.requests import RequestTarget, S3Request
from services.gateway.s3.rules import S3Rules
from services.gateway.s3.targets import target_of
from services.gateway.s3.xml_errors import s3_error_of, send_error
from shared.contracts.access import ANONYMOUS
from shared.errors import TrivetError
from shared.web.http_exchange import exchange_of
from shared.web.request_metrics import RequestMetrics
from shared.web.tracing import working_for

logger = structlog.get_logger(__name__)

Authenticate = Callable[[S3Request, AccessControl, S3Rules], Awaitable[AccessContext]]
"""Whom a request is made by; sets its `body`. Raises S3Error or TrivetError."""

NO_OPERATION: Final = "none"
"""In metrics, of a request that is no operation."""

_SERVER_ERROR: Final = 500
_READS: Final = frozenset({"GET", "HEAD"})
_ID_MASK: Final = (1 << 64) - 1
_NOTHING: Final = RequestTarget("", "", ())
_OWNER_HEADERS: Final = ("x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner")


class S3App:
    """ASGI application of S3's port."""

    def __init__(
        self,
        gateway: RunningGateway,
        *,
        rules: S3Rules,
        node_id: str,
        authenticate: Authenticate,
        metrics: RequestMetrics,
    ) -> None:
        self._gateway = gateway
        self._rules = rules
        self._authenticate = authenticate
        self._metrics = metrics
        self._last_id = secrets.randbits(64)
        self._host_id = host_id_of(node_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        if announces_body(scope):
            body = WatchedBody(scope, receive, send)
            receive, send = body.receive, body.send
        answer = _Answer(send)
        call = _Incoming(scope, receive, answer.send, fields_of(scope), self._answer_headers())
        with working_for(call.answer_headers["x-amz-request-id"], scope["method"], scope["headers"]):
            began_s = time.perf_counter()
            try:
                await self._answer(call, answer)
            finally:
                self._metrics.record(
                    scope["method"],
                    NO_OPERATION if call.operation is None else f"s3:{call.operation.name}",
                    answer.status,
                    time.perf_counter() - began_s,
                    received_bytes=int(call.headers.get("content-length", 0)),
                    sent_bytes=answer.content_length_bytes,
                )

    def _answer_headers(self) -> dict[str, str]:
        self._last_id = (self._last_id + 1) & _ID_MASK
        return {
            "x-amz-request-id": f"{self._last_id:016X}",
            "x-amz-id-2": self._host_id,
            "server": "Trivet",
            # What users store must not become a page in an origin where somebody is logged in.
            "x-content-type-options": "nosniff",
        }

    async def _answer(self, call: _Incoming, answer: _Answer) -> None:
        try:
            await self._serve(call)
        except (S3Error, TrivetError) as error:
            refusal = error if isinstance(error, S3Error) else s3_error_of(error, call.target)
            if answer.has_started:
                logger.warning("an answer was broken off", path=call.scope["path"], code=refusal.code)
                call.break_off()
                return
        except Exception:
            logger.exception("unhandled error", path=call.scope["path"])
            if answer.has_started:
                call.break_off()
                return
            refusal = S3Error("InternalError", "We encountered an internal error. Please try again.")
        else:
            return
        await send_error(call.scope, call.send, refusal, call.answer_headers)

    async def _serve(self, call: _Incoming) -> None:
        scope, headers = call.scope, call.headers
        call.target = target = target_of(
            scope["raw_path"], scope["query_string"], headers.get("host", ""), self._rules.domains
        )
        call.operation = operation = find(scope["method"], target, headers)
        if operation.name == "HeadBucket":
            call.answer_headers["x-amz-bucket-region"] = self._rules.region
        services = self._gateway.services
        request = S3Request(
            scope,
            call.receive,
            call.send,
            operation,
            target,
            headers,
            call.answer_headers["x-amz-request-id"],
            services,
            self._rules,
            answer_headers=call.answer_headers,
        )
        if operation.is_open:
            services.rates.admit(NOBODY, _address(scope))
            context = None
        else:
            context = await self._admitted(services, request)
        if operation.handler is None:
            raise S3Error("NotImplemented", f"{operation.name} is not implemented here")
        token = access.access_context.set(context)
        try:
            await operation.handler(request)
        finally:
            access.access_context.reset(token)

    async def _admitted(self, services: Services, request: S3Request) -> AccessContext:
        """Whom the request is made by, who may do what it asks for so far as the head tells.

        Raises:
            S3Error, TrivetError: nobody, or not that; definite.
        """
        control, operation = services.access, request.operation
        context = AccessContext(UNKNOWN, _address(request.scope), request.request_id)
        is_admitted = False
        try:
            context = await self._authenticate(request, control, self._rules)
            context.request_id = request.request_id
            if context.principal.id == ANONYMOUS:
                self._check_page(request)
            context.pace = services.rates.admit(context.principal, context.address)
            is_admitted = True
            await mark_answers(request)
            target = request.target  # of a form only known now
            context.operation, context.bucket, context.key = operation.action, target.bucket or None, target.key or None
            await control.decide(context, AccessContext.require_target)
            _check_owner(request)
            refuse_unknown_headers(operation.method, request.headers)
            refuse_unknown_parameters(name for name, _ in target.query)
        except (S3Error, TrivetError) as error:
            if error.status < _SERVER_ERROR:
                control.refusals.refused(error.code, context, request.about())
                if not is_admitted:
                    await _mark_refusal(request)
            raise
        if services.access_log.has_reads and operation.method in _READS:
            services.access_log.read(caller_of(context), request.about())
        return context

    def _check_page(self, request: S3Request) -> None:
        """Whoever signs has a key, which no page of a foreign origin can use; all others could be a browser."""
        host = request.headers.get("host", "").partition(":")[0].lower()
        is_own_host = any(host == domain or host.endswith(f".{domain}") for domain in self._rules.domains)
        check_origin(self._rules.origins, request.scope, request.headers, is_host_known=is_own_host)


@dataclass(slots=True)
class _Incoming:
    """One request, of which little is known at first."""

    scope: Scope
    receive: Receive
    send: Send
    headers: Mapping[str, str]
    answer_headers: dict[str, str]
    target: RequestTarget = field(default=_NOTHING)
    operation: Operation | None = None

    def break_off(self) -> None:
        """End the connection, so that the client cannot take a part for the whole."""
        if (exchange := exchange_of(self.scope)) is not None:
            exchange.break_off()


class _Answer:
    """Passes an answer on, and knows what is asked about it."""

    __slots__ = ("_send", "content_length_bytes", "has_started", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_started = False
        self.status = _SERVER_ERROR
        self.content_length_bytes = 0

    async def send(self, message: Message) -> None:
        """As ASGI."""
        if message["type"] == "http.response.start":
            self.has_started = True
            self.status = message["status"]
            self.content_length_bytes = next(
                (int(value) for name, value in message["headers"] if name == b"content-length"), 0
            )
        await self._send(message)


def host_id_of(node_id: str) -> str:
    """What `x-amz-id-2` says of a gateway: the same of all its answers, and nothing of its name."""
    return b64encode(blake3(node_id.encode()).digest()).decode()


async def _mark_refusal(request: S3Request) -> None:
    """Have the page that sent it read the error, if a rule says so: a read of the log, as often as an address may ask."""
    if "origin" in request.headers:
        with suppress(TrivetError):
            request.services.rates.admit(NOBODY, _address(request.scope))
            await mark_answers(request)


def _check_owner(request: S3Request) -> None:
    expected = [value for name in _OWNER_HEADERS if (value := request.headers.get(name)) is not None]
    if expected and any(value != owner_of_all(request.services).id for value in expected):
        raise S3Error("AccessDenied", "Access Denied")


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return "" if client is None else client[0]
