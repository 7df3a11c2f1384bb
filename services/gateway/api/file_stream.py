"""The answer to a GET: headers once the first bytes are verified, then the bytes, and never a clean end to a broken file."""

from __future__ import annotations

import asyncio

from fastapi import Response
from starlette.types import Receive, Scope, Send

from services.gateway.client_connection import while_connected
from services.gateway.conditions import ByteSpan
from services.gateway.downloads import Downloads, FoundFile
from services.gateway.file_headers import content_headers
from services.gateway.quorum import Quorums


class FileStream(Response):
    """Sends a file, or one range of it, at the pace of the client.

    An error before the headers becomes a problem document. One after them is raised to the server, which closes the
    connection before `Content-Length` is reached, so the client cannot take the part for the whole.
    """

    def __init__(self, downloads: Downloads, found: FoundFile, span: ByteSpan | None, quorums: Quorums) -> None:
        size_bytes = found.version.content.size_bytes
        headers = content_headers(found.version)
        headers["content-length"] = str(size_bytes if span is None else span.stop - span.start)
        if span is not None:
            headers["content-range"] = f"bytes {span.start}-{span.stop - 1}/{size_bytes}"
        super().__init__(status_code=200 if span is None else 206, headers=headers)
        self._downloads = downloads
        self._found = found
        self._span = span
        self._quorums = quorums

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 the ASGI signature
        """Send it; stops all fetching when the client goes."""

        async def start(confirmed: int) -> None:
            self.headers["x-trivet-replicas-confirmed"] = str(confirmed)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def sink(view: memoryview) -> None:
            await send({"type": "http.response.body", "body": view, "more_body": True})

        async def work(group: asyncio.TaskGroup) -> None:
            await self._downloads.send(self._found, self._span, self._quorums, start=start, sink=sink, group=group)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await while_connected(receive, work)
