"""Copy, rename and restore: calls with names in JSON, answered with receipts."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from services.gateway.api.object_models import CopyReceipt, CopyRequest, RenameRequest, RestoreRequest
from services.gateway.api.problems import Responses, problems
from services.gateway.api.requests import NO_QUERY, described_body, fields_of, json_body
from services.gateway.api.services import RunningGateway
from services.gateway.objects.copies import Copied, CopySource, CopyTarget
from services.gateway.semantics.conditions import WRITE_CONDITIONS, write_preconditions
from services.gateway.semantics.file_headers import PUBLISHED
from services.gateway.semantics.parameters import described
from services.gateway.transfers.idempotency import IDEMPOTENCY_KEY, IdempotencyKey
from shared.contracts.base import WireModel

_PARAMETERS: Final[dict[str, Any]] = described(*WRITE_CONDITIONS, IDEMPOTENCY_KEY)
_ANSWERS: Responses = {
    201: {"description": "Created; the same bytes, under another name.", "headers": PUBLISHED},
    200: {"model": CopyReceipt, "description": "Replaced what was there.", "headers": PUBLISHED},
    **problems(400, 403, 404, 408, 409, 412, 413, 422, 503, about="copies"),
}


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    router = APIRouter(prefix="/v1", tags=["files"], dependencies=[NO_QUERY])

    @router.post(
        "/copy",
        summary="Copy a file",
        status_code=201,
        responses=_ANSWERS,
        openapi_extra=_PARAMETERS | described_body(CopyRequest),
    )
    async def copy(request: Request, response: Response) -> CopyReceipt:
        """Within a bucket or to another one; no bytes move, and a copy of any size takes one entry in the log.

        Conditions in the header are about the target. Onto itself a file is copied only with another type, metadata or tags,
        or from an older version.
        """
        asked = await json_body(request, CopyRequest)
        source, target = asked.of_source(), asked.of_target(write_preconditions(fields_of(request.scope)))
        key = _key(request, "POST /v1/copy", asked, target)
        return _receipt(gateway, response, await gateway.services.copies.copy(source, target, key))

    @router.post(
        "/rename",
        summary="Rename a file",
        status_code=201,
        responses=_ANSWERS,
        openapi_extra=_PARAMETERS | described_body(RenameRequest),
    )
    async def rename(request: Request, response: Response) -> CopyReceipt:
        """The current version gets the new name and loses the old one in one step: no reader sees both, or neither.

        Older versions stay under the old name, and a delete marker with them where the bucket keeps versions. Conditions in
        the header are about the target; `If-None-Match: *` replaces nothing.
        """
        asked = await json_body(request, RenameRequest)
        source = CopySource(asked.source.name, None, asked.source.preconditions)
        target = CopyTarget(asked.target.name, write_preconditions(fields_of(request.scope)))
        key = _key(request, "POST /v1/rename", asked, target)
        return _receipt(gateway, response, await gateway.services.copies.move(source, target, key))

    @router.post(
        "/restore",
        summary="Make an older version the current one",
        status_code=201,
        responses=_ANSWERS,
        openapi_extra=_PARAMETERS | described_body(RestoreRequest),
    )
    async def restore(request: Request, response: Response) -> CopyReceipt:
        """Publishes the same bytes as a new version; the older one stays where it is."""
        asked = await json_body(request, RestoreRequest)
        source = CopySource(asked.name, asked.version)
        target = CopyTarget(asked.name, write_preconditions(fields_of(request.scope)))
        key = _key(request, "POST /v1/restore", asked, target)
        return _receipt(gateway, response, await gateway.services.copies.copy(source, target, key))

    return router


def _key(request: Request, operation: str, asked: WireModel, target: CopyTarget) -> IdempotencyKey | None:
    return IdempotencyKey.of(
        fields_of(request.scope),
        method=operation,
        bucket=target.name.bucket,
        key=target.name.key,
        preconditions=target.preconditions,
        content=asked.model_dump(mode="json"),
    )


def _receipt(gateway: RunningGateway, response: Response, copied: Copied) -> CopyReceipt:
    published = copied.published
    gateway.services.downloads.published(published.version)
    response.status_code = 201 if published.is_created else 200
    response.headers["etag"] = f'"{published.version.etag}"'
    response.headers["x-trivet-version"] = str(published.version.version)
    return CopyReceipt.of(copied)
