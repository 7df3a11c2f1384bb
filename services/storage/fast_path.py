"""The fast path: an ASGI handler in front of FastAPI for the calls about chunks that gateways make for every request (X-44).

A chunk of 4 KiB is stored in less CPU than routing, dependency solving and generic instrumentation take, so these calls are
answered before FastAPI sees them (benchmarks/storage.py has the figures). `api` declares the same calls for OpenAPI and shares
their code. Everything else passes through.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.storage.asgi_bodies import OCTETS, SentAnswer, fill, header_of, pieces_of, read_body, send_answer
from services.storage.batch_calls import BatchCalls
from services.storage.chunk_store import ChunkStore, LeasedBody
from services.storage.foreground import Foreground, PullTurns
from services.storage.query_admission import admission_bytes
from shared.contracts.base import WireModel
from shared.contracts.chunks import (
    FENCE_HEADER,
    PULL_HEADER,
    START_INDEX_HEADER,
    START_INDEX_QUERY,
    WITH_START_INDEX_QUERY,
    HasRequest,
)
from shared.errors import InvalidRequestError, RangeNotSatisfiableError, TrivetError
from shared.units import KIB
from shared.web.request_metrics import RequestMetrics
from shared.web.service_app import BODY_DIGEST, problem_response

PREFIX: Final = "/v1/chunks/"

_START_INDEX_QUERY: Final = f"{START_INDEX_QUERY}=".encode()
_WITH_START_INDEX: Final = {
    b"": False,
    f"{WITH_START_INDEX_QUERY}=false".encode(): False,
    f"{WITH_START_INDEX_QUERY}=true".encode(): True,
}
"""The queries that a GET takes."""
_MAX_INDEX: Final = 2**63 - 1
"""What the catalog can hold."""
_MAX_SHORT_QUESTION_BYTES: Final = 16 * KIB
_RANGE: Final = re.compile(rb"bytes=(\d{0,19})-(\d{0,19})")
_FENCE: Final = FENCE_HEADER.encode()
_PULL: Final = PULL_HEADER.encode()
_START_INDEX: Final = START_INDEX_HEADER.encode()
_JSON: Final = b"application/json"
_ONE_CHUNK: Final = PREFIX + "{digest}"

Call = Callable[[Scope, Receive, Send, str], Awaitable[SentAnswer | None]]
"""Answers one request, for the chunk or call named last in its path. Raises TrivetError before it sent anything.

Gives None when it passed the request on."""


class FastPath:
    """ASGI middleware behind the signature check. An error of a call is answered as a problem document.

    A pull waits for its turn; every other call is told to `foreground`.
    """

    def __init__(
        self, app: ASGIApp, *, store: ChunkStore, metrics: RequestMetrics, foreground: Foreground | None = None
    ) -> None:
        self._app = app
        self._store = store
        self._foreground = Foreground() if foreground is None else foreground
        self._pulls = PullTurns(self._foreground)
        self._metrics = metrics
        calls = ChunkCalls(store)
        self._calls: dict[str, Call] = {"PUT": calls.put, "GET": calls.get, "HEAD": calls.head, "DELETE": calls.delete}
        self._posts: dict[str, Call] = {"batch": BatchCalls(store).answer, "has": self._has}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request here or pass it on."""
        path: str = scope.get("path", "")
        name = path[len(PREFIX) :]
        call = self._find_call(scope, name) if path.startswith(PREFIX) else None
        if call is None:
            await self._app(scope, receive, send)
            return
        if header_of(scope, _PULL) is not None:
            async with self._pulls.turn():
                await self._answer(call, name, scope, receive, send)
            return
        self._foreground.record()
        await self._answer(call, name, scope, receive, send)

    async def _answer(self, call: Call, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        began_s = time.perf_counter()
        answered: SentAnswer | None = SentAnswer(500, 0)
        try:
            answered = await call(scope, receive, send, name)
        except TrivetError as error:
            answer = problem_response(error, scope["path"])
            answered = SentAnswer(error.status, len(answer.body))
            await answer(scope, receive, send)
        finally:
            if answered is not None:  # otherwise FastAPI has counted it
                self._record(scope, answered, time.perf_counter() - began_s)

    def _record(self, scope: Scope, answered: SentAnswer, duration_s: float) -> None:
        length = header_of(scope, b"content-length") or b""
        self._metrics.record(
            scope["method"],
            scope["path"] if scope["method"] == "POST" else _ONE_CHUNK,
            answered.status,
            duration_s,
            received_bytes=int(length) if length.isdigit() else 0,
            sent_bytes=answered.sent_bytes,
        )

    def _find_call(self, scope: Scope, name: str) -> Call | None:
        if scope["type"] != "http" or "/" in name:
            return None
        return self._posts.get(name) if scope["method"] == "POST" else self._calls.get(scope["method"])

    async def _has(self, scope: Scope, receive: Receive, send: Send, _: str) -> SentAnswer | None:
        """Answer a short question. What is long is FastAPI's, and so is what does not parse: it says what is wrong."""
        length = header_of(scope, b"content-length") or b""
        is_short = length.isdigit() and int(length) <= _MAX_SHORT_QUESTION_BYTES
        if not is_short or header_of(scope, b"content-type") != _JSON:
            await self._app(scope, receive, send)
            return None
        lease = await self._store.lease(admission_bytes(scope))
        try:
            body = await read_body(receive)
            try:
                question = HasRequest.model_validate_json(body)
            except ValidationError:
                question = None
            if question is not None:
                headers = fence_headers(self._store)
                found = await self._store.has(question.digests, question.start_index, verify=question.verify)
                return await _send_json(send, 200, found, headers)
        finally:
            lease.release()
        await self._app(scope, _again(body, receive), send)
        return None


class ChunkCalls:
    """The calls about one chunk, over `store`, as ASGI."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store

    async def put(self, scope: Scope, receive: Receive, send: Send, digest: str) -> SentAnswer:
        """Answer after the bytes, their name and max(start index) are fsynced in at least one tier. Idempotent."""
        length = header_of(scope, b"content-length")
        if length is not None and not length.isdigit():
            raise InvalidRequestError("Content-Length is not a number.")
        announced_bytes = None if length is None else int(length)
        # First: a Redis that is replaced meanwhile must not be answered for under a newer fence.
        fence = self._store.require_fence()
        stored = await self._store.put(
            digest, pieces_of(receive), announced_bytes, _start_index(scope), fill=partial(fill, scope, receive)
        )
        status = 201 if stored.created else 200
        return await _send_json(send, status, stored, [(_FENCE, b"%d" % fence)])

    async def get(self, scope: Scope, receive: Receive, send: Send, digest: str) -> SentAnswer:  # noqa: ARG002 - ASGI
        """Send the whole chunk, or one range of it. All of it is verified even then."""
        with_start_index = _WITH_START_INDEX.get(scope["query_string"])
        if with_start_index is None:
            raise InvalidRequestError(f"The query takes {WITH_START_INDEX_QUERY}=true and nothing else.")
        # First, as in a put: what was read before a Redis was replaced is not answered for under a newer fence.
        fence = fence_headers(self._store)
        leased = await self._store.get(digest)
        try:
            status, headers, view = _cut(leased, header_of(scope, b"range"))
            headers += fence
            if with_start_index:
                headers.append((_START_INDEX, b"%d" % await self._store.get_start_index(digest)))
            start: Message = {"type": "http.response.start", "status": status, "headers": headers}
            if header_of(scope, b"range") is None:
                # The request names it by its digest; what answers a range is like any other body.
                start[BODY_DIGEST] = ""
            await send_answer(scope, send, start, view)
        finally:
            leased.lease.release()
        return SentAnswer(status, len(view))

    async def head(self, scope: Scope, receive: Receive, send: Send, digest: str) -> SentAnswer:  # noqa: ARG002 - ASGI
        """Answer from the records; the bytes are not read."""
        size_bytes = await self._store.get_size_bytes(digest)
        headers = [(b"content-length", b"%d" % size_bytes), OCTETS, *fence_headers(self._store)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return SentAnswer(200, size_bytes)

    async def delete(self, scope: Scope, receive: Receive, send: Send, digest: str) -> SentAnswer:  # noqa: ARG002 - ASGI
        """Answer after the deletion is fsynced."""
        await self._store.delete(digest)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return SentAnswer(204, 0)


def fence_headers(store: ChunkStore) -> list[tuple[bytes, bytes]]:
    """What every answer about chunks says of the node's disk and Redis."""
    return [] if (fence := store.fence) is None else [(_FENCE, b"%d" % fence)]


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` from the start, for a body of which all was read."""
    is_first = True

    async def receive_again() -> Message:
        nonlocal is_first
        if not is_first:
            return await receive()
        is_first = False
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _cut(leased: LeasedBody, byte_range: bytes | None) -> tuple[int, list[tuple[bytes, bytes]], memoryview]:
    """Status, headers and bytes of the answer to a get. Raises RangeNotSatisfiableError."""
    size_bytes = len(leased.body)
    start, end = _parse_range(byte_range, size_bytes) or (0, size_bytes)
    headers = [(b"content-length", b"%d" % (end - start)), OCTETS, (b"accept-ranges", b"bytes")]
    is_partial = (start, end) != (0, size_bytes)
    if is_partial:
        headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, size_bytes)))
    return 206 if is_partial else 200, headers, memoryview(leased.body)[start:end]


async def _send_json(send: Send, status: int, answer: WireModel, more: list[tuple[bytes, bytes]]) -> SentAnswer:
    body = answer.model_dump_json().encode()
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", _JSON), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return SentAnswer(status, len(body))


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
