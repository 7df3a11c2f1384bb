"""Ends a connection whose request was answered before its body was taken.

Reading gigabytes only to throw them away would be a gift to an attacker; closing at once would make the kernel reset the
connection and destroy the answer on its way. So the answer goes out whole, with `Connection: close`, then a bounded part
of the body is drained while the client reads it, then the connection ends.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.units import MIB

LINGER_S: Final = 1.0
LINGER_BYTES: Final = 4 * MIB


class EarlyRefusal:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request through, watching how far its body was read."""
        if scope["type"] != "http" or not _announces_body(scope):
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send)
        await self._app(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request with a body. Invariant: `is_closing` is decided when the answer starts."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_body_read = False
        self._is_closing = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._is_body_read = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._is_body_read:
            self._is_closing = True
            message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not (self._is_closing and is_last):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        await self._linger()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self) -> None:
        drained_bytes = 0
        try:
            async with asyncio.timeout(LINGER_S):
                while not self._is_body_read and drained_bytes < LINGER_BYTES:
                    drained_bytes += len((await self.receive()).get("body", b""))
        except TimeoutError:
            return


def _announces_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ") != b"")
        for name, value in scope["headers"]
    )
