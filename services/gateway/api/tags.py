"""Tags of files."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.types import Scope

from services.gateway.api.object_models import TagsAnswer, TagsRequest
from services.gateway.api.problems import problems
from services.gateway.api.requests import (
    VERSION_QUERY,
    described_body,
    fields_of,
    json_body,
    refuse_conditions,
    requested_version,
)
from services.gateway.api.services import RunningGateway
from services.gateway.semantics.parameters import described
from services.gateway.semantics.raw_names import BUCKET, KEY, TAGS_PREFIX, FileName, file_name
from services.gateway.transfers.idempotency import IDEMPOTENCY_KEY, IdempotencyKey

# The names come from the raw path (`raw_names`), so the routes do not declare them.
_PATH: Final = "/tags/{bucket}/{key:any}"
_READ: Final = (BUCKET, KEY, VERSION_QUERY)
_CHANGE: Final = (*_READ, IDEMPOTENCY_KEY)


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    router = APIRouter(prefix="/v1", tags=["files"])

    @router.get(
        _PATH,
        summary="Read the tags of a file",
        responses=problems(400, 404, 503, about="tags"),
        openapi_extra=described(*_READ),
    )
    async def get_tags(request: Request) -> TagsAnswer:
        """Of the current version, or of the one that `version` names."""
        name, version = _asked(request.scope)
        return TagsAnswer.of(name, await gateway.services.tags.read(name, version))

    @router.put(
        _PATH,
        summary="Replace the tags of a file",
        responses=problems(400, 403, 404, 408, 409, 413, 422, 503, about="tags"),
        openapi_extra=described(*_CHANGE) | described_body(TagsRequest),
    )
    async def put_tags(request: Request) -> TagsAnswer:
        """All of them at once. The file keeps its version, entity tag and date."""
        name, version = _asked(request.scope)
        asked = await json_body(request, TagsRequest)
        tags = gateway.services.tags
        return TagsAnswer.of(name, await tags.set(name, version, asked.tags, _key(request, name, version, asked.tags)))

    @router.delete(
        _PATH,
        summary="Remove the tags of a file",
        status_code=204,
        response_class=Response,
        responses=problems(400, 403, 404, 409, 422, 503, about="tags"),
        openapi_extra=described(*_CHANGE),
    )
    async def delete_tags(request: Request) -> Response:
        """All of them. Of a file without tags there is nothing to remove, and the answer is the same."""
        name, version = _asked(request.scope)
        await gateway.services.tags.set(name, version, None, _key(request, name, version, None))
        return Response(status_code=204)

    return router


def _asked(scope: Scope) -> tuple[FileName, int | None]:
    return file_name(scope["raw_path"], TAGS_PREFIX), requested_version(scope)


def _key(request: Request, name: FileName, version: int | None, tags: dict[str, str] | None) -> IdempotencyKey | None:
    fields = fields_of(request.scope)
    refuse_conditions(fields)
    return IdempotencyKey.of(
        fields,
        method=f"{request.method} /v1/tags",
        bucket=name.bucket,
        key=name.key,
        content=[version, tags],
    )
