"""The answer to a GET: headers once the first bytes are verified, then the bytes, and never a clean end to a broken file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import structlog
from fastapi import Response
from starlette.types import Message, Receive, Scope, Send

from services.gateway.api.client_connection import while_connected
from services.gateway.api.range_parts import RangeParts, content_range
from services.gateway.replicas.quorum import Quorums
from services.gateway.semantics.byte_ranges import ByteSpan
from services.gateway.semantics.file_headers import content_headers
from services.gateway.transfers.downloads import Downloads, FoundFile
from shared.errors import TrivetError
from shared.web.http_edge import exchange_of

logger = structlog.get_logger(__name__)


class HeldResponse(Response):
    """An answer that holds something while it is sent: the context is entered before it and left after its last byte."""

    def __init__(self, answer: AbstractAsyncContextManager[Response]) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. An error before the headers becomes a problem document.

        One after them breaks the connection off before `Content-Length` is reached, so the client cannot take the part for
        the whole.
        """
        has_started = False

        async def watched(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            async with self._answer as answer:
                await answer(scope, receive, watched)
        except TrivetError as error:
            exchange = exchange_of(scope)
            if not has_started or exchange is None:
                raise
            # One line: a lack of replicas or of budget, or a client that is too slow, is no defect of ours.
            logger.warning("a download was broken off", path=scope["path"], code=error.code, reason=error.message)
            exchange.break_off()


class FileStream(Response):
    """Sends a file, one range of it or several, at the pace of the client. Raises what `Downloads.send` raises."""

    def __init__(
        self,
        downloads: Downloads,
        found: FoundFile,
        spans: Sequence[ByteSpan] | None,
        quorums: Quorums,
        *,
        now_ns: int,
    ) -> None:
        version = found.version
        size_bytes = version.content.size_bytes
        headers = content_headers(version, now_ns=now_ns)
        self._parts: RangeParts | None = None
        if spans is None:
            headers["content-length"] = str(size_bytes)
        elif len(spans) == 1:
            headers["content-length"] = str(spans[0].size_bytes)
            headers["content-range"] = content_range(spans[0], size_bytes)
        else:
            self._parts = RangeParts(spans, size_bytes, version.content_type)
            headers["content-length"] = str(self._parts.length_bytes)
            headers["content-type"] = self._parts.content_type
        super().__init__(status_code=200 if spans is None else 206, headers=headers)
        self._downloads = downloads
        self._found = found
        self._spans = spans
        self._quorums = quorums

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 the ASGI signature
        """Send it; stops all fetching when the client goes."""
        parts = self._parts

        async def start(confirmed: int) -> None:
            self.headers["x-trivet-replicas-confirmed"] = str(confirmed)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def sink(view: memoryview) -> None:
            if parts is not None and (opening := parts.before(len(view))):
                await send({"type": "http.response.body", "body": opening, "more_body": True})
            await send({"type": "http.response.body", "body": view, "more_body": True})

        async def work(group: asyncio.TaskGroup) -> None:
            await self._downloads.send(self._found, self._spans, self._quorums, start=start, sink=sink, group=group)
            closing = b"" if parts is None else parts.closing
            await send({"type": "http.response.body", "body": closing, "more_body": False})

        await while_connected(receive, work)
