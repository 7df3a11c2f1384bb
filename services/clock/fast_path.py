"""The fast path: an ASGI handler in front of FastAPI for the question what time it is.

Every process of a cluster asks it every two seconds; where nothing else happens, routing and instrumentation were most of what
a clock service did. `api` declares the same call for OpenAPI. Everything else passes through.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.contracts.time import TimeReport
from shared.timekeeping.time_client import TIME_PATH
from shared.web.request_metrics import RequestMetrics


class TimeFastPath:
    """ASGI middleware behind the signature check."""

    def __init__(self, app: ASGIApp, *, report: Callable[[], TimeReport], metrics: RequestMetrics) -> None:
        self._app = app
        self._report = report
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request here or pass it on."""
        if scope["type"] != "http" or scope["path"] != TIME_PATH or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        status, sent_bytes = 500, 0
        try:
            body = self._report().model_dump_json().encode()
            status, sent_bytes = 200, len(body)
            headers = [(b"content-length", b"%d" % sent_bytes), (b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        finally:
            self._metrics.record("GET", TIME_PATH, status, time.perf_counter() - began_s, sent_bytes=sent_bytes)
