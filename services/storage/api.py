"""The HTTP face of a storage node: the routes of `shared.contracts.chunks`, all signed, all with typed problems.

The calls about chunks are declared here and normally answered by `fast_path`, which stands before FastAPI; both run the same
code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from services.storage.batch_calls import BatchCalls
from services.storage.chunk_store import ChunkStore
from services.storage.fast_path import Call, ChunkCalls, fence_headers
from shared.contracts.base import WireModel
from shared.contracts.chunks import (
    MAX_PAGE_CHUNKS,
    START_INDEX_HEADER,
    START_INDEX_QUERY,
    WITH_START_INDEX_QUERY,
    ChunkStored,
    ConfirmRequest,
    ConfirmResponse,
    HasRequest,
    HasResponse,
    InventoryPage,
    NodeStatus,
    PartitionSums,
)

Digest = Annotated[str, Path(description="BLAKE3-256 of the chunk, 64 lower-case hex digits")]
StartIndex = Annotated[
    int, Query(alias=START_INDEX_QUERY, ge=0, description="Log index that the upload read when it began")
]
WithStartIndex = Annotated[
    bool,
    Query(alias=WITH_START_INDEX_QUERY, description=f"Whether the answer says the start index: {START_INDEX_HEADER}"),
]
Prefix = Annotated[str, Query(pattern="^[0-9a-f]{0,64}$", description="Only digests that begin with these hex digits")]
After = Annotated[str, Query(pattern="^([0-9a-f]{64})?$", description="Only digests after this one: `next_after`")]
PageLimit = Annotated[int, Query(ge=1, le=MAX_PAGE_CHUNKS)]
Group = Annotated[str, Path(pattern="^[0-9a-f]{2}$", description="The first two hex digits of its digests")]
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
    507: "No room; reads go on, and so do deletions, unless others took the reserve that they are written into. Definite",
}
_BYTES: Final[dict[str, Any]] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

_START_INDEX: Final[dict[str, Any]] = {
    START_INDEX_HEADER: {"description": "Recorded by uploads; when asked for", "schema": {"type": "integer"}}
}


def build_router(store: ChunkStore, describe: Callable[[], Any]) -> APIRouter:
    """The routes over `store`; `describe` gives the awaitable NodeStatus."""
    router = APIRouter(prefix="/v1")
    calls = ChunkCalls(store)
    _add_put(router, calls)
    _add_get(router, calls)
    _add_head_and_delete(router, calls)
    _add_questions(router, store, describe)
    _add_batch(router, store)
    _add_comparison(router, store)
    return router


def _add_put(router: APIRouter, calls: ChunkCalls) -> None:
    @router.put(
        "/chunks/{digest}",
        tags=["chunks"],
        summary="Store one chunk, durably",
        status_code=201,
        response_model=ChunkStored,
        responses={200: {"model": ChunkStored, "description": "It was there already"}, **_problems(400, 413, 503, 507)},
        openapi_extra={"requestBody": {"required": True, "content": _BYTES}},
    )
    async def put_chunk(digest: Digest, _: StartIndex = 0) -> Response:
        """Returns after the bytes, their name and max(start index) are fsynced in at least one tier. Idempotent."""
        return _AsgiAnswer(calls.put, digest)


def _add_get(router: APIRouter, calls: ChunkCalls) -> None:
    @router.get(
        "/chunks/{digest}",
        tags=["chunks"],
        summary="One chunk, verified",
        response_class=Response,
        responses={
            200: {"description": "The whole chunk", "content": _BYTES, "headers": _START_INDEX},
            206: {"description": "One range of it", "content": _BYTES, "headers": _START_INDEX},
            **_problems(400, 404, 416, 503),
        },
    )
    async def get_chunk(digest: Digest, _: RangeHeader = None, __: WithStartIndex = False) -> Response:
        """The whole chunk is verified even when only a range is sent."""
        return _AsgiAnswer(calls.get, digest)


def _add_head_and_delete(router: APIRouter, calls: ChunkCalls) -> None:
    @router.head(
        "/chunks/{digest}",
        tags=["chunks"],
        summary="Is it held, and how long is it?",
        response_class=Response,
        responses={200: {"description": "Held; Content-Length is its length"}, **_problems(400, 404, 503)},
    )
    async def head_chunk(digest: Digest) -> Response:
        """Answered from the records; the bytes are not read."""
        return _AsgiAnswer(calls.head, digest)

    @router.delete(
        "/chunks/{digest}",
        tags=["chunks"],
        summary="Forget one chunk, durably",
        status_code=204,
        response_class=Response,
        responses={204: {"description": "Forgotten"}, **_problems(400, 404, 503, 507)},
    )
    async def delete_chunk(digest: Digest) -> Response:
        """Returns after the deletion is fsynced."""
        return _AsgiAnswer(calls.delete, digest)


def _add_questions(router: APIRouter, store: ChunkStore, describe: Callable[[], Any]) -> None:
    @router.post(
        "/chunks/has",
        tags=["chunks"],
        summary="Which of these chunks are held?",
        response_model=HasResponse,
        responses=_problems(400, 413, 503, 507),
    )
    async def has_chunks(question: HasRequest, response: Response) -> HasResponse:
        """With a start index, max(start index) is durable on every chunk that is reported. See `HasRequest` for `verify`."""
        response.raw_headers += fence_headers(store)
        return await store.has(question.digests, question.start_index, verify=question.verify)

    @router.post(
        "/chunks/confirm",
        tags=["chunks"],
        summary="Which of these chunks may another node drop?",
        response_model=ConfirmResponse,
        responses=_problems(400, 413, 503, 507),
    )
    async def confirm_chunks(question: ConfirmRequest, response: Response) -> ConfirmResponse:
        """Those that are expected here in this epoch, held and verified, and on which max(start index) is durable now."""
        response.raw_headers += fence_headers(store)
        return await store.confirm(question)

    @router.get(
        "/status", tags=["node"], summary="The node about itself", response_model=NodeStatus, responses=_problems(503)
    )
    async def status() -> NodeStatus:
        """Counts, tiers and whether writes are taken."""
        found: NodeStatus = await describe()
        return found


def _add_batch(router: APIRouter, store: ChunkStore) -> None:
    calls = BatchCalls(store)

    @router.post(
        "/chunks/batch",
        tags=["chunks"],
        summary="Several small puts, gets and has together",
        response_class=Response,
        responses={
            200: {"description": "A frame with one result per item", "content": _BYTES},
            **_problems(400, 413, 503),
        },
        openapi_extra={"requestBody": {"required": True, "content": _BYTES}},
    )
    async def batch() -> Response:
        """Frames of `shared.contracts.chunk_batches`. Each item succeeds or fails as the single call would."""
        return _AsgiAnswer(calls.answer, "batch")


def _add_comparison(router: APIRouter, store: ChunkStore) -> None:
    @router.get(
        "/chunks",
        tags=["comparison"],
        summary="What is held, page by page",
        response_model=InventoryPage,
        responses=_problems(400, 503),
    )
    async def list_chunks(prefix: Prefix = "", after: After = "", limit: PageLimit = MAX_PAGE_CHUNKS) -> Response:
        """In order of digests, with lengths and start indexes."""
        return _json(await store.inventory(prefix, after, limit))

    @router.get(
        "/partitions",
        tags=["comparison"],
        summary="Checksums over all that is held, by the first two digits",
        response_model=PartitionSums,
        responses=_problems(503),
    )
    async def group_sums() -> Response:
        """Kept up to date by every put and delete, so that asking costs little. Empty groups are left out."""
        return _json(await store.partition_sums(None))

    @router.get(
        "/partitions/{group}",
        tags=["comparison"],
        summary="Checksums over one group, by the first three digits",
        response_model=PartitionSums,
        responses=_problems(400, 503),
    )
    async def partition_sums(group: Group) -> Response:
        """For a group that differs; then list the partitions that do."""
        return _json(await store.partition_sums(int(group, 16)))


def _json(answer: WireModel) -> Response:
    """Written down once; FastAPI would validate and copy a thousand chunks again."""
    return Response(answer.model_dump_json(), media_type="application/json")


class _AsgiAnswer(Response):
    """One of `ChunkCalls`, as FastAPI wants its answers."""

    def __init__(self, call: Call, digest: str) -> None:
        super().__init__()
        self._call = call
        self._digest = digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make the call."""
        await self._call(scope, receive, send, self._digest)
