"""Buckets, and the lists of files in them."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from services.gateway.api.answers import CallResponse
from services.gateway.api.file_calls import BUCKET_PATH, FileCalls
from services.gateway.api.models import BucketCreated, BucketList, FileList
from services.gateway.api.problems import problems
from services.gateway.api.requests import IDEMPOTENCY_KEY_DESCRIPTION, fields_of, requested_bucket
from services.gateway.api.services import RunningGateway
from services.gateway.semantics.raw_names import query_values
from services.gateway.transfers.idempotency import IdempotencyKey
from shared.contracts.metadata import DETAILS_LIMIT_MAX, LIST_LIMIT_MAX, CreateBucket, DeleteBucket

# The names come from the raw path (`raw_names`), so the routes do not declare them; OpenAPI is told below.
_BUCKET: Final = "/buckets/{bucket}"
_BUCKETS_PARAMETERS: Final = frozenset({"limit", "cursor"})


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    router = APIRouter(prefix="/v1", tags=["buckets"])

    @router.put(
        _BUCKET,
        summary="Create a bucket",
        status_code=201,
        response_model=BucketCreated,
        responses={
            200: {"model": BucketCreated, "description": "It existed before."},
            **problems(400, 403, 409, 422, 503, about="buckets"),
        },
        openapi_extra=_BUCKET_PATH,
    )
    async def put_bucket(request: Request, response: Response) -> BucketCreated:
        """3-63 characters of a-z, 0-9, '-' and '.', as in S3. Creating it again changes nothing."""
        services = gateway.services
        name = requested_bucket(request.scope)
        idempotency_key = IdempotencyKey.of(fields_of(request.scope), method="PUT", bucket=name)
        with services.idempotency.running(idempotency_key):
            outcome = await services.idempotency.propose(
                CreateBucket(bucket=name, stamp=services.clock.stamp()), idempotency_key
            )
        result = outcome.result
        response.status_code = 201 if result.created else 200
        return BucketCreated(name=name, incarnation=result.incarnation, created=result.created)

    @router.delete(
        _BUCKET,
        summary="Delete an empty bucket",
        status_code=204,
        response_class=Response,
        responses=problems(400, 403, 404, 409, 422, 503, about="buckets"),
        openapi_extra=_BUCKET_PATH,
    )
    async def delete_bucket(request: Request) -> Response:
        """409 while it holds a file. The bucket `default` always exists."""
        services = gateway.services
        name = requested_bucket(request.scope)
        idempotency_key = IdempotencyKey.of(fields_of(request.scope), method="DELETE", bucket=name)
        with services.idempotency.running(idempotency_key):
            await services.idempotency.propose(DeleteBucket(bucket=name, stamp=services.clock.stamp()), idempotency_key)
        return Response(status_code=204)

    @router.get(
        "/buckets",
        summary="List buckets",
        responses=problems(400, 410, 503, about="buckets"),
        openapi_extra=_BUCKETS_DESCRIPTION,
    )
    async def list_buckets(request: Request) -> BucketList:
        """One page, by name. Later pages show the buckets as they are by then."""
        values = query_values(request.scope["query_string"], _BUCKETS_PARAMETERS)
        return BucketList.of(await gateway.services.listings.buckets(values))

    calls = FileCalls(gateway)

    @router.get(
        BUCKET_PATH,
        summary="List files",
        response_model=FileList,
        responses=problems(400, 404, 410, 503, about="buckets"),
        openapi_extra=_LIST_DESCRIPTION,
    )
    async def list_files() -> Response:
        """One page, keys in UTF-8 byte order. All pages of one cursor show the bucket at one log index."""
        return CallResponse(calls.list_files)

    return router


BUCKET_PARAMETER: Final[dict[str, Any]] = {
    "name": "bucket",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 3, "maxLength": 63},
    "example": "default",
}
_IDEMPOTENCY_KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": IDEMPOTENCY_KEY_DESCRIPTION,
    "schema": {"type": "string"},
}
_BUCKET_PATH: Final[dict[str, Any]] = {"parameters": [BUCKET_PARAMETER, _IDEMPOTENCY_KEY]}


def query_parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter of a query, as OpenAPI has it."""
    return {"name": name, "in": "query", "description": description, "schema": schema}


def limit_parameter(rows: str) -> dict[str, Any]:
    """How many rows a page has."""
    schema = {"type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX, "default": LIST_LIMIT_MAX}
    return query_parameter("limit", f"Most {rows} of one page.", schema)


CURSOR_PARAMETER: Final = query_parameter("cursor", "From the page before.", {"type": "string"})
_LIST_DESCRIPTION: Final[dict[str, Any]] = {
    "parameters": [
        BUCKET_PARAMETER,
        query_parameter("prefix", "Only keys that begin with this.", {"type": "string"}),
        query_parameter(
            "delimiter",
            "Keys that share everything up to the first delimiter after the prefix are shown as one prefix.",
            {"type": "string", "minLength": 1},
        ),
        limit_parameter("files and prefixes"),
        CURSOR_PARAMETER,
        query_parameter(
            "details",
            f"Rows say `digest` and `user_metadata`; a page has at most {DETAILS_LIMIT_MAX}. Needs the right to read all files.",
            {"type": "boolean", "default": False},
        ),
    ]
}
_BUCKETS_DESCRIPTION: Final[dict[str, Any]] = {"parameters": [limit_parameter("buckets"), CURSOR_PARAMETER]}
