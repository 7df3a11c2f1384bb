"""Ends a connection whose request was answered before its body was taken.

Reading gigabytes only to throw them away would be a gift to an attacker; closing at once would make the kernel reset the
connection and destroy the answer on its way. So the answer goes out whole, with `Connection: close`, and the edge drops a
bounded part of the body before it closes (`shared.web.http_edge`).
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.web.http_edge import exchange_of


class EarlyRefusal:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request through, watching how far its body was read."""
        if scope["type"] != "http" or not _announces_body(scope):
            await self._app(scope, receive, send)
            return
        is_body_read = False

        async def watched_receive() -> Message:
            nonlocal is_body_read
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                is_body_read = True
            return message

        async def closing_send(message: Message) -> None:
            if message["type"] != "http.response.start" or is_body_read:
                await send(message)
                return
            await send({**message, "headers": [*message.get("headers", []), (b"connection", b"close")]})
            if (exchange := exchange_of(scope)) is not None:
                exchange.linger_after_answer()

        await self._app(scope, watched_receive, closing_send)


def _announces_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ") != b"")
        for name, value in scope["headers"]
    )
