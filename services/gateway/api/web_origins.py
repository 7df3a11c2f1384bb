"""Applies `origin_rules` to every request, and tells browsers whose pages may read the answers (Fetch).

`Cross-Origin-Resource-Policy` keeps other origins from embedding what is stored here. CORS headers are sent only to the
origins that the operator named; never with credentials, since there are none that a browser would add by itself.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.api.answers import RawHeaders
from services.gateway.api.requests import Fields, fields_of
from services.gateway.origin_rules import OriginRules
from shared.errors import ForeignOriginError, TrivetError
from shared.web.service_app import problem_response

_EXEMPT_PATHS: Final = frozenset({"/healthz", "/readyz"})
"""Probes send the pod's address, and these say and change nothing."""

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_RESOURCE_POLICY: Final = (b"cross-origin-resource-policy", b"same-origin")
_VARY_ORIGIN: Final = (b"vary", b"Origin")

PREFLIGHT_MAX_AGE_S: Final = 600
CORS_METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
CORS_HEADERS: Final = frozenset(
    {
        "accept",
        "authorization",
        "content-digest",
        "content-md5",
        "content-type",
        "idempotency-key",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
        "x-trivet-read-quorum",
        "x-trivet-write-quorum",
    }
)
_META_HEADER: Final = re.compile(r"x-trivet-meta-[a-z0-9!#$%&'*+.^_`|~-]{1,128}")


class WebOrigins:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, rules: OriginRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request that may be a foreign page's work, or pass it on and mark its answer."""
        if scope["type"] != "http" or scope["path"] in _EXEMPT_PATHS:
            await self._app(scope, receive, send)
            return
        fields = fields_of(scope)
        marks = origin_marks(self._rules, fields)

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *marks]}
            await send(message)

        try:
            check_origin(self._rules, scope, fields)
            answer = self._preflight(scope, fields)
        except TrivetError as error:
            answer = problem_response(error, scope["path"])
        await (answer or self._app)(scope, receive, marked)

    def _preflight(self, scope: Scope, fields: Fields) -> Response | None:
        """The answer to a preflight; None for a request to pass on."""
        is_preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in fields
        if not (is_preflight and self._rules.cors_origins and "origin" in fields):
            return None
        if not self._rules.is_cors_origin(fields["origin"]):
            raise ForeignOriginError("Pages of this origin may not ask; those that may are set by TRIVET_CORS_ORIGINS.")
        return _preflight_answer(fields.get("access-control-request-headers", ""))


def check_origin(rules: OriginRules, scope: Scope, fields: Fields, *, is_host_known: bool = False) -> None:
    """Let a request pass that is meant for this gateway and is not a foreign page's change.

    A field that is given twice is joined, and so matches nothing. `is_host_known`: the host is one of this listener's own.

    Raises:
        MisdirectedRequestError, ForeignOriginError: as `OriginRules`.
    """
    server = scope.get("server")
    if not is_host_known:
        rules.check_host(fields.get("host"), None if server is None else server[0])
    if scope["method"] not in _SAFE_METHODS:
        rules.check_change(fields.get("origin"), fields.get("sec-fetch-site"), fields.get("host"))


def origin_marks(rules: OriginRules, fields: Fields) -> RawHeaders:
    """What every answer says to browsers about pages of other origins."""
    if not rules.cors_origins:
        return [_RESOURCE_POLICY]
    origin = fields.get("origin")
    if origin is None or not rules.is_cors_origin(origin):
        return [_RESOURCE_POLICY, _VARY_ORIGIN]
    return [
        _RESOURCE_POLICY,
        _VARY_ORIGIN,
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"*"),  # user metadata has names that nobody can list
    ]


def _preflight_answer(asked_headers: str) -> Response:
    names = [name.strip().lower() for name in asked_headers.split(",")]
    allowed = [name for name in names if name in CORS_HEADERS or _META_HEADER.fullmatch(name)]
    answer = Response(status_code=204)
    answer.headers["access-control-allow-methods"] = ", ".join(CORS_METHODS)
    if allowed:
        answer.headers["access-control-allow-headers"] = ", ".join(allowed)
    answer.headers["access-control-max-age"] = str(PREFLIGHT_MAX_AGE_S)
    answer.headers["vary"] = "Access-Control-Request-Headers"
    return answer
