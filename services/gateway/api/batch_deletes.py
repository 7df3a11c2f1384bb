"""Deletion of many files by one call, with names in JSON."""

from __future__ import annotations

from fastapi import APIRouter, Request

from services.gateway.api.object_models import BATCH_MAX_BYTES, BatchDeleted, BatchDeleteRequest
from services.gateway.api.problems import problems
from services.gateway.api.requests import NO_QUERY, described_body, fields_of, large_json_body, refuse_conditions
from services.gateway.api.services import RunningGateway
from services.gateway.semantics.parameters import described
from services.gateway.transfers.idempotency import IDEMPOTENCY_KEY, IdempotencyKey


def create_router(gateway: RunningGateway) -> APIRouter:
    """The route over one gateway."""
    router = APIRouter(prefix="/v1", tags=["files"], dependencies=[NO_QUERY])

    @router.post(
        "/batch-delete",
        summary="Delete many files",
        responses=problems(400, 403, 404, 408, 409, 413, 422, 503, about="batches"),
        openapi_extra=described(IDEMPOTENCY_KEY) | described_body(BatchDeleteRequest),
    )
    async def batch_delete(request: Request) -> BatchDeleted:
        """At most 1,000, each of which is deleted or says why not; a file that is absent counts as deleted.

        They are deleted 250 at a time. An error after the first 250 is not definite: repeat the call.
        """
        fields = fields_of(request.scope)
        refuse_conditions(fields)
        admission = gateway.services.admission
        asked = await large_json_body(request, BatchDeleteRequest, admission, max_bytes=BATCH_MAX_BYTES)
        key = IdempotencyKey.of(
            fields, method="POST /v1/batch-delete", bucket=asked.bucket, key="0", content=asked.model_dump(mode="json")
        )
        deleted = await gateway.services.batch_deletes.delete(asked.bucket, asked.to_delete(), key)
        return BatchDeleted.of(deleted)

    return router
