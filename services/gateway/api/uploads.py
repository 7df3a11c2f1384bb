"""Uploads by parts: begin, put, copy, list, complete, abort."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from services.gateway.api.answers import CallResponse, send_json
from services.gateway.api.client_connection import ClientBody
from services.gateway.api.models import Receipt, receipt_json
from services.gateway.api.problems import problems
from services.gateway.api.requests import (
    BODY,
    Fields,
    client_of,
    described_body,
    fields_of,
    json_body,
    large_json_body,
    refuse_conditions,
    refuse_query,
    write_quorums,
)
from services.gateway.api.services import RunningGateway
from services.gateway.api.upload_models import (
    COMPLETION_MAX_BYTES,
    Completion,
    PartCopy,
    PartReceipt,
    UploadBegun,
    UploadList,
    UploadToBegin,
    UploadWithParts,
)
from services.gateway.listings import UPLOADS_QUERY
from services.gateway.replicas.quorum import WRITE_QUORUM
from services.gateway.semantics.body_digests import DIGESTS, BodyDigests
from services.gateway.semantics.conditions import WRITE_CONDITIONS, write_preconditions
from services.gateway.semantics.file_headers import PUBLISHED
from services.gateway.semantics.parameters import Parameter, QueryParameters, described, number
from services.gateway.transfers.idempotency import IDEMPOTENCY_KEY, IdempotencyKey
from services.gateway.transfers.multipart import PartRequest
from services.gateway.transfers.part_publication import UploadId
from shared.contracts.uploads import PART_NUMBER_MAX, PARTS_LIMIT_MAX
from shared.errors import InvalidRequestError

_UPLOAD: Final = "/uploads/{upload_id}"
_PART: Final = "/uploads/{upload_id}/parts/{number}"
_UPLOAD_ID: Final = Parameter(
    "upload_id",
    "From the answer that began the upload.",
    {"type": "string"},
    UploadId.parse,
    default=None,
    place="path",
)
_NUMBER: Final = number(
    "number",
    "The place of the part among those of the file; numbers may be left out.",
    1,
    PART_NUMBER_MAX,
    default=None,
    place="path",
)
_AFTER: Final = number("after", "Only parts with a higher number.", 0, PART_NUMBER_MAX, default=0)
_LIMIT: Final = number("limit", "Most parts of one page.", 1, PARTS_LIMIT_MAX, default=PARTS_LIMIT_MAX)
_PARTS_QUERY: Final = QueryParameters(_AFTER, _LIMIT)


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    router = APIRouter(prefix="/v1", tags=["uploads"])
    _add_upload(router, gateway)
    _add_parts(router, gateway)
    _add_lists(router, gateway)
    return router


def _add_upload(router: APIRouter, gateway: RunningGateway) -> None:
    @router.post(
        "/uploads",
        summary="Begin an upload by parts",
        status_code=201,
        responses=problems(400, 403, 404, 408, 409, 413, 422, 503, about="uploads"),
        openapi_extra=described(IDEMPOTENCY_KEY) | described_body(UploadToBegin),
    )
    async def begin_upload(request: Request) -> UploadBegun:
        """Parts may then be sent in any order, in parallel, through any gateway. Nothing is visible before it is completed."""
        services = gateway.services
        refuse_query(request.scope)
        refuse_conditions(fields_of(request.scope))
        asked = await json_body(request, UploadToBegin)
        begin = asked.begun()
        key = IdempotencyKey.of(
            fields_of(request.scope),
            method="POST /v1/uploads",
            bucket=asked.bucket,
            key=asked.key,
            content=[begin.content_type, begin.user_metadata, begin.tags, begin.lifetime_s],
        )
        upload = await services.multipart.begin(begin, key)
        return UploadBegun(upload_id=str(upload), bucket=asked.bucket, key=asked.key)

    @router.post(
        f"{_UPLOAD}/complete",
        summary="Complete an upload",
        status_code=201,
        response_model=Receipt,
        responses={
            201: {"description": "Created.", "headers": PUBLISHED},
            200: {"model": Receipt, "description": "Replaced.", "headers": PUBLISHED},
            **problems(400, 403, 404, 408, 409, 412, 413, 422, 503, about="uploads"),
        },
        openapi_extra=described(_UPLOAD_ID, *WRITE_CONDITIONS, IDEMPOTENCY_KEY) | described_body(Completion),
    )
    async def complete_upload(request: Request) -> Response:
        """Joins parts into the file's new version, in one entry and without moving a byte.

        The same again gets the same receipt for 7 days.
        """
        refuse_query(request.scope)
        upload = _UPLOAD_ID.read(request.path_params["upload_id"])
        fields = fields_of(request.scope)
        services = gateway.services
        asked = await large_json_body(request, Completion, services.admission, max_bytes=COMPLETION_MAX_BYTES)
        parts = [(part.number, part.etag) for part in asked.parts]
        conditions = write_preconditions(fields)
        key = IdempotencyKey.of(
            fields, method="POST", bucket="", key=f"{upload}/complete", preconditions=conditions, content=parts
        )

        uploaded = await services.multipart.complete(upload, parts, conditions, key)
        services.downloads.published(uploaded.version)
        version = uploaded.version
        return Response(
            receipt_json(uploaded),
            201 if uploaded.is_created else 200,
            {"etag": f'"{version.etag}"', "x-trivet-version": str(version.version)},
            "application/json",
        )

    @router.delete(
        _UPLOAD,
        summary="Abort an upload",
        status_code=204,
        response_class=Response,
        responses=problems(400, 403, 404, 409, 422, 503, about="uploads"),
        openapi_extra=described(_UPLOAD_ID, IDEMPOTENCY_KEY),
    )
    async def abort_upload(request: Request) -> Response:
        """Its parts are gone, and collected later."""
        refuse_query(request.scope)
        fields = fields_of(request.scope)
        refuse_conditions(fields)
        upload = _UPLOAD_ID.read(request.path_params["upload_id"])
        key = IdempotencyKey.of(fields, method="DELETE", bucket="", key=str(upload))
        await gateway.services.multipart.abort(upload, key)
        return Response(status_code=204)


def _add_parts(router: APIRouter, gateway: RunningGateway) -> None:
    @router.put(
        _PART,
        summary="Store a part",
        response_model=PartReceipt,
        responses=problems(400, 403, 404, 408, 409, 413, 503, 507, about="uploads"),
        openapi_extra=described(_UPLOAD_ID, _NUMBER, WRITE_QUORUM, *DIGESTS) | BODY,
    )
    async def put_part() -> Response:
        """As a file is stored, durable before the answer. Of several under one number the last one counts.

        From 5 MiB, the last part of a file less, to 5 GiB.
        """
        return CallResponse(put)

    async def put(scope: Scope, receive: Receive, send: Send, fields: Fields) -> None:
        services = gateway.services
        refuse_query(scope)
        refuse_conditions(fields)
        if "content-range" in fields:
            raise InvalidRequestError("A part is sent as a whole.", header="Content-Range")
        part_number = _NUMBER.read(scope["path_params"]["number"])
        announced_bytes = None if (announced := fields.get("content-length")) is None else int(announced)
        request = PartRequest(
            upload=_UPLOAD_ID.read(scope["path_params"]["upload_id"]),
            number=part_number,
            quorums=write_quorums(fields, services.quorums),
            digests=BodyDigests.announced(fields),
            announced_bytes=announced_bytes,
            client=client_of(scope),
        )
        part = await services.multipart.put(request, ClientBody(scope, receive, announced_bytes))
        stored = PartReceipt.of(part_number, part)
        await send_json(send, 200, stored.model_dump_json().encode(), {"etag": f'"{stored.etag}"'})

    @router.post(
        f"{_PART}/copy",
        summary="Make a part of bytes of a file",
        responses=problems(400, 403, 404, 408, 409, 412, 413, 416, 503, about="uploads"),
        openapi_extra=described(_UPLOAD_ID, _NUMBER) | described_body(PartCopy),
    )
    async def copy_part(request: Request) -> PartReceipt:
        """No bytes are moved: the part refers to those of the file, whatever becomes of it later."""
        refuse_query(request.scope)
        refuse_conditions(fields_of(request.scope))
        upload = _UPLOAD_ID.read(request.path_params["upload_id"])
        part_number = _NUMBER.read(request.path_params["number"])
        asked = await json_body(request, PartCopy)
        part = await gateway.services.multipart.copy(upload, part_number, asked.of_source())
        return PartReceipt.of(part_number, part)


def _add_lists(router: APIRouter, gateway: RunningGateway) -> None:
    @router.get(
        _UPLOAD,
        summary="Show an upload and its parts",
        responses=problems(400, 404, 503, about="uploads"),
        openapi_extra=described(_UPLOAD_ID, _PARTS_QUERY),
    )
    async def get_upload(request: Request) -> UploadWithParts:
        """While it is under way. The parts as they are now, a page at a time."""
        values = _PARTS_QUERY.values(request.scope["query_string"])
        upload = _UPLOAD_ID.read(request.path_params["upload_id"])
        page = await gateway.services.multipart.page(upload, after_part=_AFTER.of(values), limit=_LIMIT.of(values))
        return UploadWithParts.of_answer(*page)

    @router.get(
        "/uploads",
        summary="List uploads under way",
        responses=problems(400, 404, 410, 503, about="uploads"),
        openapi_extra=described(UPLOADS_QUERY),
    )
    async def list_uploads(request: Request) -> UploadList:
        """One page of a bucket, by key and in the order in which they began. Later pages show them as they are by then."""
        values = UPLOADS_QUERY.values(request.scope["query_string"])
        return UploadList.of(await gateway.services.listings.uploads(values))
