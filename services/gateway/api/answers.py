"""Answers as ASGI messages, and calls that a route hands a request over to.

The hot calls of the gateway are plain ASGI: `fast_path` makes them before the framework sees the request, and the routes that
describe them in OpenAPI make the same ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import Response
from starlette.types import Receive, Scope, Send

from services.gateway.api.requests import Fields, fields_of

RawHeaders = list[tuple[bytes, bytes]]

Call = Callable[[Scope, Receive, Send, Fields], Awaitable[None]]
"""Answers one request with these header fields. Raises TrivetError before it has sent anything."""


class CallResponse(Response):
    """The answer of `call` as the response of a route."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make the call."""
        await self._call(scope, receive, send, fields_of(scope))


async def send_answer(send: Send, status: int, headers: RawHeaders, body: bytes = b"") -> None:
    """A whole answer at once."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    """A JSON document, with further headers."""
    described = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send_answer(send, status, described + raw_headers(headers or {}), body)


def raw_headers(headers: Mapping[str, str]) -> RawHeaders:
    """As ASGI has them."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
