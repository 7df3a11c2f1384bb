"""Bodies in and out of the calls that are answered before FastAPI, in the words of ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from shared.errors import InvalidRequestError
from shared.units import KIB, MIB
from shared.web.http_exchange import exchange_of

OCTETS: Final = (b"content-type", b"application/octet-stream")

_SLICE_BYTES: Final = MIB
"""As much as a socket with a wide send buffer takes (`shared.web.listeners`)."""

_SMALL_BYTES: Final = 64 * KIB
"""What a connection buffers anyway: not worth a second wait."""
_SEND_DEADLINE_S: Final = 60.0


def header_of(scope: Scope, name: bytes) -> bytes | None:
    """The first field with the lower-case `name`."""
    for found, value in scope["headers"]:
        if found == name:
            return bytes(value)
    return None


@dataclass(frozen=True, slots=True)
class SentAnswer:
    """An answer that was sent, as the request metrics count it; `sent_bytes` is its Content-Length."""

    status: int
    sent_bytes: int


async def pieces_of(receive: Receive) -> AsyncIterator[bytes]:
    """The body of a request as it comes. Raises InvalidRequestError when it breaks off."""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise InvalidRequestError("The body broke off.")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


async def fill(scope: Scope, receive: Receive, buffer: memoryview) -> None:
    """Receive a body whose announced length is that of `buffer` into it; what a server can, it writes there itself.

    Raises InvalidRequestError when the body breaks off.
    """
    exchange = exchange_of(scope)
    at = 0
    async for piece in pieces_of(receive):
        end = at + len(piece)
        if end > len(buffer):
            raise InvalidRequestError("The body is longer than was announced.")
        buffer[at:end] = piece
        at = end
        if exchange is not None and at < len(buffer):
            try:
                await exchange.receive_into(buffer[at:], len)
            except ConnectionError as error:
                raise InvalidRequestError("The body broke off.") from error
            return
    if at < len(buffer):
        raise InvalidRequestError("The body is shorter than was announced.")


async def read_body(receive: Receive) -> bytes:
    """All of it. Raises InvalidRequestError when it breaks off."""
    pieces = [piece async for piece in pieces_of(receive)]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def send_answer(scope: Scope, send: Send, start: Message, view: memoryview) -> None:
    """Send `start` and the bytes, in slices if they are many.

    Waits for the connection before each slice and after the last, so that a lease of the bytes covers what is unsent. A reader
    that stops reading loses its connection (TimeoutError): others wait for the memory that it holds.
    """
    exchange = exchange_of(scope)
    is_small = len(view) <= _SMALL_BYTES
    if is_small and exchange is not None and not exchange.is_write_paused:  # neither of the two calls waits
        await send(start)
        await send({"type": "http.response.body", "body": view})
        return
    async with asyncio.timeout(_SEND_DEADLINE_S):
        await send(start)
        if is_small:
            await send({"type": "http.response.body", "body": view})
            return
        for at in range(0, len(view), _SLICE_BYTES):
            await send({"type": "http.response.body", "body": view[at : at + _SLICE_BYTES], "more_body": True})
        await send({"type": "http.response.body", "body": b""})
