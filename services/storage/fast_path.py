"""The fast path: an ASGI handler in front of FastAPI for put, get and head of one chunk.

A chunk of 4 KiB is stored in less CPU than routing, dependency solving and generic instrumentation take, so these three
calls are answered before FastAPI sees them (benchmarks/storage.py has the figures). `api` declares the same calls for
OpenAPI and shares their code. Everything else passes through.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from services.storage.chunk_store import ChunkStore, LeasedBody
from services.storage.metrics import StorageMetrics
from shared.contracts.chunks import FENCE_HEADER, START_INDEX_QUERY, ChunkStored
from shared.errors import InvalidRequestError, RangeNotSatisfiableError, TrivetError
from shared.units import KIB
from shared.web.service_app import problem_response

PREFIX: Final = "/v1/chunks/"

_START_INDEX_QUERY: Final = f"{START_INDEX_QUERY}=".encode()
_MAX_INDEX: Final = 2**63 - 1
"""What the catalog can hold."""
_SLICE_BYTES: Final = 256 * KIB
_SMALL_BYTES: Final = 64 * KIB
"""What a connection buffers anyway: not worth a second wait."""
_SEND_DEADLINE_S: Final = 60.0
_RANGE: Final = re.compile(rb"bytes=(\d{0,19})-(\d{0,19})")
_FENCE: Final = FENCE_HEADER.encode()
_OCTETS: Final = (b"content-type", b"application/octet-stream")

Call = Callable[[Scope, Receive, Send, str], Awaitable[int]]
"""Answers one request for one digest; gives the status that it sent. Raises TrivetError before it sent anything."""


class FastPath:
    """ASGI middleware behind the signature check. An error of a call is answered as a problem document."""

    def __init__(self, app: ASGIApp, *, store: ChunkStore, metrics: StorageMetrics) -> None:
        self._app = app
        self._metrics = metrics
        calls = ChunkCalls(store)
        self._calls: dict[str, Call] = {"PUT": calls.put, "GET": calls.get, "HEAD": calls.head}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request here or pass it on."""
        call = self._calls.get(scope["method"]) if scope["type"] == "http" else None
        path: str = scope.get("path", "")
        digest = path[len(PREFIX) :]
        if call is None or not path.startswith(PREFIX) or "/" in digest:
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        status = 500
        try:
            status = await call(scope, receive, send, digest)
        except TrivetError as error:
            status = error.status
            await problem_response(error, path)(scope, receive, send)
        finally:
            self._metrics.observe_chunk_call(scope["method"], status, time.perf_counter() - began_s)


class ChunkCalls:
    """The three calls, over `store`, as ASGI."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store

    async def put(self, scope: Scope, receive: Receive, send: Send, digest: str) -> int:
        """Answer after the bytes, their name and max(start index) are fsynced in at least one tier. Idempotent."""
        length = _header(scope, b"content-length")
        if length is not None and not length.isdigit():
            raise InvalidRequestError("Content-Length is not a number.")
        announced_bytes = None if length is None else int(length)
        # First: a Redis that is replaced meanwhile must not be answered for under a newer fence.
        fence = self._store.require_fence()
        stored = await self._store.put(digest, _pieces(receive), announced_bytes, _start_index(scope))
        status = 201 if stored.created else 200
        await _send_json(send, status, stored, fence)
        return status

    async def get(self, scope: Scope, receive: Receive, send: Send, digest: str) -> int:  # noqa: ARG002 - ASGI
        """Send the whole chunk, or one range of it. All of it is verified even then.

        Waits for the connection before each slice and after the last, so that the budget covers what is unsent. A reader
        that stops reading loses its connection: others wait for the memory that it holds.
        """
        leased = await self._store.get(digest)
        try:
            status, headers, view = _cut(leased, _header(scope, b"range"))
            headers += fence_headers(self._store)
            async with asyncio.timeout(_SEND_DEADLINE_S):
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await _send_body(send, view)
        finally:
            leased.lease.release()
        return status

    async def head(self, scope: Scope, receive: Receive, send: Send, digest: str) -> int:  # noqa: ARG002 - ASGI
        """Answer from the records; the bytes are not read."""
        size_bytes = await self._store.get_size_bytes(digest)
        headers = [(b"content-length", b"%d" % size_bytes), _OCTETS, *fence_headers(self._store)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return 200


def fence_headers(store: ChunkStore) -> list[tuple[bytes, bytes]]:
    """What every answer about chunks says of the node's disk and Redis."""
    return [] if (fence := store.fence) is None else [(_FENCE, b"%d" % fence)]


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise InvalidRequestError("The body broke off.")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _cut(leased: LeasedBody, byte_range: bytes | None) -> tuple[int, list[tuple[bytes, bytes]], memoryview]:
    """Status, headers and bytes of the answer to a get. Raises RangeNotSatisfiableError."""
    size_bytes = len(leased.body)
    start, end = _parse_range(byte_range, size_bytes) or (0, size_bytes)
    headers = [(b"content-length", b"%d" % (end - start)), _OCTETS, (b"accept-ranges", b"bytes")]
    is_partial = (start, end) != (0, size_bytes)
    if is_partial:
        headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, size_bytes)))
    return 206 if is_partial else 200, headers, memoryview(leased.body)[start:end]


async def _send_body(send: Send, view: memoryview) -> None:
    if len(view) <= _SMALL_BYTES:
        await send({"type": "http.response.body", "body": view})
        return
    for at in range(0, len(view), _SLICE_BYTES):
        await send({"type": "http.response.body", "body": view[at : at + _SLICE_BYTES], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _send_json(send: Send, status: int, stored: ChunkStored, fence: int) -> None:
    body = stored.model_dump_json().encode()
    headers = [
        (b"content-length", b"%d" % len(body)),
        (b"content-type", b"application/json"),
        (_FENCE, b"%d" % fence),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _start_index(scope: Scope) -> int:
    query: bytes = scope["query_string"]
    if not query:
        return 0
    if not query.startswith(_START_INDEX_QUERY):
        raise InvalidRequestError(f"The query takes {START_INDEX_QUERY} and nothing else.")
    value = query.removeprefix(_START_INDEX_QUERY)
    if not value.isdigit() or len(value) > 19 or int(value) > _MAX_INDEX:
        raise InvalidRequestError("The start index is not a log index.")
    return int(value)


def _header(scope: Scope, name: bytes) -> bytes | None:
    for found, value in scope["headers"]:
        if found == name:
            return bytes(value)
    return None


def _parse_range(header: bytes | None, size_bytes: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of a single range, or None when there is none to honour (RFC 9110 section 14.2).

    Raises:
        RangeNotSatisfiableError: no byte of it exists.
    """
    match = _RANGE.fullmatch(header) if header else None
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start, end = int(first), min(size_bytes, int(last) + 1 if last else size_bytes)
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise RangeNotSatisfiableError("No byte of the range exists.", size_bytes=size_bytes)
    return start, end
