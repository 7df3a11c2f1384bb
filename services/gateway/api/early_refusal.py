"""Ends a connection whose request was answered before its body was taken.

Reading gigabytes only to throw them away would be a gift to an attacker; closing at once would make the kernel reset the
connection and destroy the answer on its way. So the answer goes out whole, with `Connection: close`, and the edge drops a
bounded part of the body before it closes (`shared.web.http_edge`).
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.web.http_exchange import exchange_of

_CLOSE: Final = (b"connection", b"close")


class EarlyRefusal:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request through, watching how far its body was read."""
        if scope["type"] != "http" or not announces_body(scope):
            await self._app(scope, receive, send)
            return
        body = WatchedBody(scope, receive, send)
        await self._app(scope, body.receive, body.send)


class WatchedBody:
    """Receives the body of one request, and closes the connection after an answer that was given before its end."""

    __slots__ = ("_is_read", "_receive", "_scope", "_send")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_read = False

    async def receive(self) -> Message:
        """As ASGI."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._is_read = True
        return message

    async def send(self, message: Message) -> None:
        """As ASGI."""
        exchange = exchange_of(self._scope)
        is_read = self._is_read or (exchange is not None and exchange.is_body_received)
        if is_read or message["type"] != "http.response.start":
            await self._send(message)
            return
        await self._send({**message, "headers": [*message.get("headers", []), _CLOSE]})
        if exchange is not None:
            exchange.linger_after_answer()


def announces_body(scope: Scope) -> bool:
    """Whether the head of a request says that a body follows."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ") != b"")
        for name, value in scope["headers"]
    )
