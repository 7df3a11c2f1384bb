"""Marks every answer of the API `Cache-Control: no-cache`: a cache must revalidate it before it serves it again (G-71).

Without the header a cache may serve a file for a tenth of its age, and a 404 for as long as it likes (RFC 9111 section
4.2.2), and reads through it would no longer be linearizable. Revalidation by entity tag is cheap.
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_API: Final = "/v1/"
NO_CACHE: Final = (b"cache-control", b"no-cache")


class NoCache:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request through, marking its answer."""
        if scope["type"] != "http" or not scope["path"].startswith(_API):
            await self._app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), NO_CACHE]}
            await send(message)

        await self._app(scope, receive, marked)
