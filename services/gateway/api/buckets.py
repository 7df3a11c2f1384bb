"""Buckets, and the lists of files in them."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from services.gateway.api.answers import CallResponse
from services.gateway.api.file_calls import BUCKET_PATH, FileCalls
from services.gateway.api.models import BucketCreated, BucketList, FileList
from services.gateway.api.problems import problems
from services.gateway.api.requests import fields_of, requested_bucket
from services.gateway.api.services import RunningGateway
from services.gateway.listings import BUCKETS_QUERY, FILES_QUERY
from services.gateway.semantics.parameters import described
from services.gateway.semantics.raw_names import BUCKET
from services.gateway.transfers.idempotency import IDEMPOTENCY_KEY, IdempotencyKey
from shared.contracts.metadata import CreateBucket, DeleteBucket

# The names come from the raw path (`raw_names`), so the routes do not declare them.
_BUCKET: Final = "/buckets/{bucket}"


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
        openapi_extra=described(BUCKET, IDEMPOTENCY_KEY),
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
        openapi_extra=described(BUCKET, IDEMPOTENCY_KEY),
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
        openapi_extra=described(BUCKETS_QUERY),
    )
    async def list_buckets(request: Request) -> BucketList:
        """One page, by name. Later pages show the buckets as they are by then."""
        values = BUCKETS_QUERY.values(request.scope["query_string"])
        return BucketList.of(await gateway.services.listings.buckets(values))

    calls = FileCalls(gateway)

    @router.get(
        BUCKET_PATH,
        summary="List files",
        response_model=FileList,
        responses=problems(400, 404, 410, 503, about="buckets"),
        openapi_extra=described(BUCKET, FILES_QUERY),
    )
    async def list_files() -> Response:
        """One page, keys in UTF-8 byte order. All pages of one cursor show the bucket at one log index."""
        return CallResponse(calls.list_files)

    return router
