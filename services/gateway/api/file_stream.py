"""The answer to a GET: headers once the first bytes are verified, then the bytes, and never a clean end to a broken file."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Final

from starlette.types import Receive, Send

from services.gateway.access.control import StandingAccess
from services.gateway.api.answers import raw_headers
from services.gateway.api.client_connection import while_connected
from services.gateway.api.range_parts import RangeParts, content_range
from services.gateway.replicas.quorum import Quorums
from services.gateway.semantics.byte_ranges import ByteSpan
from services.gateway.semantics.parameters import answer_header
from services.gateway.transfers.downloads import ConfirmedReplicas, Downloads, FoundFile

CONFIRMED: Final = {
    "X-Trivet-Replicas-Confirmed": answer_header(
        "Proved replicas of the weakest chunk looked at. Of HEAD: only where the request has X-Trivet-Read-Quorum.", "3"
    )
}
STREAM: Final = CONFIRMED | {
    "X-Trivet-Confirmation-Age": answer_header(
        (
            "Of GET: the age in seconds, rounded up, of the oldest confirmation that counts in X-Trivet-Replicas-Confirmed; "
            "0 when every replica was asked for this answer, as with X-Trivet-Read-Quorum."
        ),
        "41",
    ),
}
RANGE: Final = {
    "Content-Range": answer_header("Of a single range: which bytes, of how many.", "bytes 0-99/1048576"),
}


class FileStream:
    """Sends a file, one range of it or several, at the pace of the client."""

    def __init__(
        self,
        downloads: Downloads,
        found: FoundFile,
        spans: Sequence[ByteSpan] | None,
        quorums: Quorums,
        *,
        headers: dict[str, str],
        access: StandingAccess | None,
    ) -> None:
        """`headers`: what the answer says of the version; those that depend on `spans` are added to them."""
        version = found.version
        size_bytes = version.content.size_bytes
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
        self._status = 200 if spans is None else 206
        self._headers = headers
        self._downloads = downloads
        self._found = found
        self._spans = spans
        self._quorums = quorums
        self._access = access
        self.has_started = False

    async def send(self, receive: Receive | None, send: Send) -> None:
        """Send it; stops all fetching when `receive` says that the client has gone.

        Raises what `Downloads.read` and `StandingAccess.check` raise. Once `has_started`, the connection must be broken off
        then: before Content-Length is reached, so that the client cannot take the part for the whole.
        """
        parts, access = self._parts, self._access

        async def work(group: asyncio.TaskGroup) -> None:
            async with self._downloads.read(self._found, self._spans, self._quorums, group) as reading:
                await self._start(reading.confirmed, send)
                async for view in reading.pieces:
                    if access is not None:
                        await access.check()
                    if parts is not None and view and (opening := parts.before(len(view))):
                        await send({"type": "http.response.body", "body": opening, "more_body": True})
                    await send({"type": "http.response.body", "body": view, "more_body": True})
            closing = b"" if parts is None else parts.closing
            await send({"type": "http.response.body", "body": closing, "more_body": False})

        await while_connected(receive, work)

    async def _start(self, confirmed: ConfirmedReplicas, send: Send) -> None:
        self._headers["x-trivet-replicas-confirmed"] = str(confirmed.count)
        self._headers["x-trivet-confirmation-age"] = str(math.ceil(confirmed.age_s))
        self.has_started = True
        headers = raw_headers(self._headers)
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
