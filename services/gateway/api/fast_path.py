"""The fast path: an ASGI handler in front of FastAPI for put, get, head and delete of one file and for the list of a bucket.

Routing, dependency solving, generic instrumentation and four layers of middleware cost more than these calls themselves, so
they are made before FastAPI sees them (docs/benchmarks.md has the figures). `files` and `buckets` declare the same calls for
OpenAPI and make them in the same way; everything else passes through. What stands around a route stands around them here:
early refusals, origins, cache control, metrics, problem documents. tests/unit/gateway/api/test_fast_path.py holds both to the
same answers (X-44).
"""

from __future__ import annotations

import time
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.api.answers import Call, RawHeaders
from services.gateway.api.cache_control import NO_CACHE
from services.gateway.api.early_refusal import WatchedBody, announces_body
from services.gateway.api.file_calls import BUCKET_PATH, FILE_PATH, FileCalls
from services.gateway.api.problems import problem_answer
from services.gateway.api.requests import Fields, fields_of
from services.gateway.api.web_origins import check_origin, origin_marks
from services.gateway.origin_rules import OriginRules
from services.gateway.semantics.raw_names import FILES_PREFIX
from shared.errors import TrivetError
from shared.web.request_metrics import RequestMetrics
from shared.web.service_app import problem_response

_PREFIX: Final = FILES_PREFIX.decode()
_FILE_HANDLER: Final = f"/v1{FILE_PATH}"
_BUCKET_HANDLER: Final = f"/v1{BUCKET_PATH}"


class FileFastPath:
    """ASGI middleware behind `RawPaths`."""

    def __init__(self, app: ASGIApp, *, calls: FileCalls, rules: OriginRules, metrics: RequestMetrics) -> None:
        self._app = app
        self._rules = rules
        self._metrics = metrics
        self._list: tuple[str, Call] = (_BUCKET_HANDLER, calls.list_files)
        self._file_calls: dict[str, tuple[str, Call]] = {
            "PUT": (_FILE_HANDLER, calls.put),
            "GET": (_FILE_HANDLER, calls.get),
            "HEAD": (_FILE_HANDLER, calls.head),
            "DELETE": (_FILE_HANDLER, calls.delete),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request here or pass it on."""
        route = self._route(scope)
        if route is None:
            await self._app(scope, receive, send)
            return
        fields = fields_of(scope)
        if announces_body(scope):
            body = WatchedBody(scope, receive, send)
            receive, send = body.receive, body.send
        answer = _MarkedAnswer(send, [*origin_marks(self._rules, fields), NO_CACHE])
        try:
            check_origin(self._rules, scope, fields)
        except TrivetError as error:
            await problem_response(error, scope["path"])(scope, receive, answer.send)
            return
        await self._call(route, scope, receive, answer, fields)

    def _route(self, scope: Scope) -> tuple[str, Call] | None:
        """The template of the path and the call, if it is one of these; decided on the decoded path, as the router does."""
        if scope["type"] != "http" or not (path := scope["path"]).startswith(_PREFIX):
            return None
        bucket, slash, _ = path[len(_PREFIX) :].partition("/")
        if not bucket:
            return None
        if slash:
            return self._file_calls.get(scope["method"])
        return self._list if scope["method"] == "GET" else None

    async def _call(
        self, route: tuple[str, Call], scope: Scope, receive: Receive, answer: _MarkedAnswer, fields: Fields
    ) -> None:
        handler, call = route
        began_s = time.perf_counter()
        try:
            await call(scope, receive, answer.send, fields)
        except TrivetError as error:
            if answer.has_started:
                raise
            await problem_answer(scope, error)(scope, receive, answer.send)
        finally:
            self._metrics.record(
                scope["method"],
                handler,
                answer.status,
                time.perf_counter() - began_s,
                received_bytes=int(fields.get("content-length", 0)),
                sent_bytes=answer.content_length_bytes,
            )


class _MarkedAnswer:
    """Sends one answer with `marks` among its headers, and knows what the metrics ask about it."""

    __slots__ = ("_marks", "_send", "content_length_bytes", "has_started", "status")

    def __init__(self, send: Send, marks: RawHeaders) -> None:
        self._send = send
        self._marks = marks
        self.has_started = False
        self.status = 500  # what the server makes of an exception before the first message
        self.content_length_bytes = 0

    async def send(self, message: Message) -> None:
        """As ASGI."""
        if message["type"] == "http.response.start":
            self.has_started = True
            self.status = message["status"]
            headers: RawHeaders = message["headers"]
            for name, value in headers:
                if name == b"content-length":
                    self.content_length_bytes = int(value)
            message = {"type": "http.response.start", "status": self.status, "headers": headers + self._marks}
        await self._send(message)
