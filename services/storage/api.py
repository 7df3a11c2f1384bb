"""The HTTP face of a storage node: the routes of `shared.contracts.chunks`, all signed, all with typed problems.

One chunk in: digest from the path, body piece by piece into the store. One chunk out: verified first, then sent in slices,
so that a slow reader holds back its own connection and the byte budget knows of it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from services.storage.chunk_store import ChunkStore, LeasedBody
from shared.contracts.chunks import START_INDEX_HEADER, ChunkStored, HasRequest, HasResponse, NodeStatus
from shared.errors import InvalidRequestError, RangeNotSatisfiableError
from shared.units import KIB

_SLICE_BYTES: Final = 256 * KIB
_SMALL_BYTES: Final = 64 * KIB
"""What a connection buffers anyway: not worth a second wait."""
_SEND_DEADLINE_S: Final = 60.0
_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")

Digest = Annotated[str, Path(description="BLAKE3-256 of the chunk, 64 lower-case hex digits")]
StartIndex = Annotated[
    int, Header(alias=START_INDEX_HEADER, ge=0, description="Log index that the upload read when it began")
]
RangeHeader = Annotated[str | None, Header(alias="Range", description="One byte range; anything else is ignored")]


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/problem+json": {"schema": {"type": "object"}}}
    return {status: {"description": _PROBLEMS[status], "content": content} for status in (401, *statuses)}


_PROBLEMS: Final = {
    400: "Malformed name, header or body, or the body does not have the digest in its name. Definite",
    401: "Missing, wrong or replayed signature. Definite",
    404: "This node does not hold the chunk. Definite",
    413: "Larger than a chunk may be. Definite",
    416: "No byte of the range exists",
    503: "Overloaded, replica corrupt, or durability cannot be promised now; `definite` says whether it may have happened",
    507: "No room; reads and deletes go on. Definite",
}
_BYTES: Final[dict[str, Any]] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def build_router(store: ChunkStore, describe: Callable[[], Any]) -> APIRouter:
    """The routes over `store`; `describe` gives the awaitable NodeStatus."""
    router = APIRouter(prefix="/v1")
    _add_put(router, store)
    _add_get(router, store)
    _add_head_and_delete(router, store)
    _add_questions(router, store, describe)
    return router


def _add_put(router: APIRouter, store: ChunkStore) -> None:
    @router.put(
        "/chunks/{digest}",
        tags=["chunks"],
        summary="Store one chunk, durably",
        status_code=201,
        response_model=ChunkStored,
        responses={200: {"model": ChunkStored, "description": "It was there already"}, **_problems(400, 413, 503, 507)},
        openapi_extra={"requestBody": {"required": True, "content": _BYTES}},
    )
    async def put_chunk(request: Request, digest: Digest, start_index: StartIndex = 0) -> JSONResponse:
        """Returns after the bytes, their name and max(start index) are fsynced in at least one tier. Idempotent."""
        try:
            stored = await store.put(digest, request.stream(), _content_length(request), start_index)
        except ClientDisconnect as error:
            raise InvalidRequestError("The body broke off.") from error
        return JSONResponse(stored.model_dump(), status_code=201 if stored.created else 200)


def _add_get(router: APIRouter, store: ChunkStore) -> None:
    @router.get(
        "/chunks/{digest}",
        tags=["chunks"],
        summary="One chunk, verified",
        response_class=Response,
        responses={
            200: {"description": "The whole chunk", "content": _BYTES},
            206: {"description": "One range of it", "content": _BYTES},
            **_problems(400, 404, 416, 503),
        },
    )
    async def get_chunk(digest: Digest, byte_range: RangeHeader = None) -> Response:
        """The whole chunk is verified even when only a range is sent."""
        leased = await store.get(digest)
        try:
            return _ChunkResponse(leased, byte_range)
        except BaseException:
            leased.lease.release()
            raise


def _add_head_and_delete(router: APIRouter, store: ChunkStore) -> None:
    @router.head(
        "/chunks/{digest}",
        tags=["chunks"],
        summary="Is it held, and how long is it?",
        response_class=Response,
        responses={200: {"description": "Held; Content-Length is its length"}, **_problems(400, 404, 503)},
    )
    async def head_chunk(digest: Digest) -> Response:
        """Answered from the records; the bytes are not read."""
        size_bytes = await store.get_size_bytes(digest)
        return Response(headers={"content-length": str(size_bytes), "content-type": "application/octet-stream"})

    @router.delete(
        "/chunks/{digest}",
        tags=["chunks"],
        summary="Forget one chunk, durably",
        status_code=204,
        response_class=Response,
        responses={204: {"description": "Forgotten"}, **_problems(400, 404, 503)},
    )
    async def delete_chunk(digest: Digest) -> Response:
        """Returns after the deletion is fsynced."""
        await store.delete(digest)
        return Response(status_code=204)


def _add_questions(router: APIRouter, store: ChunkStore, describe: Callable[[], Any]) -> None:
    @router.post(
        "/chunks/has",
        tags=["chunks"],
        summary="Which of these chunks are held?",
        response_model=HasResponse,
        responses=_problems(400, 413, 503),
    )
    async def has_chunks(question: HasRequest) -> HasResponse:
        """With a start index, max(start index) is durable on every chunk that is reported."""
        return HasResponse(present=await store.has(question.digests, question.start_index))

    @router.get(
        "/status", tags=["node"], summary="The node about itself", response_model=NodeStatus, responses=_problems(503)
    )
    async def status() -> NodeStatus:
        """Counts, tiers and whether writes are taken."""
        found: NodeStatus = await describe()
        return found


class _ChunkResponse(Response):
    """Sends a verified chunk, or one range of it, in slices, and releases its share of the budget afterwards."""

    media_type = "application/octet-stream"

    def __init__(self, leased: LeasedBody, byte_range: str | None) -> None:
        size_bytes = len(leased.body)
        start, end = _parse_range(byte_range, size_bytes) or (0, size_bytes)
        is_partial = (start, end) != (0, size_bytes)
        headers = {"content-length": str(end - start), "accept-ranges": "bytes"}
        if is_partial:
            headers["content-range"] = f"bytes {start}-{end - 1}/{size_bytes}"
        super().__init__(status_code=206 if is_partial else 200, headers=headers)
        self._lease = leased.lease
        self._view = memoryview(leased.body)[start:end]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """The connection is waited for before each slice and after the last, so that the budget covers what is unsent.

        A reader that stops reading loses its connection: what it holds, others wait for.
        """
        try:
            async with asyncio.timeout(_SEND_DEADLINE_S):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await self._send_body(send)
        finally:
            self._lease.release()

    async def _send_body(self, send: Send) -> None:
        if len(self._view) <= _SMALL_BYTES:
            await send({"type": "http.response.body", "body": self._view})
            return
        for at in range(0, len(self._view), _SLICE_BYTES):
            part = self._view[at : at + _SLICE_BYTES]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _parse_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
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


def _content_length(request: Request) -> int | None:
    value = request.headers.get("content-length")
    if value is None:
        return None
    if not value.isdecimal():
        raise InvalidRequestError("Content-Length is not a number.")
    return int(value)
