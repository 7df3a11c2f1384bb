"""Files: put, get, head, delete."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Response
from starlette.types import Receive, Scope, Send

from services.gateway.access.context import AccessContext, current_access
from services.gateway.api.answers import CallResponse
from services.gateway.api.any_path import register_any
from services.gateway.api.client_connection import body_of
from services.gateway.api.file_calls import BUCKET_PATH, FILE_PATH, FileCalls, UploadHeaders, send_receipt
from services.gateway.api.file_stream import CONFIRMED, RANGE, STREAM
from services.gateway.api.form_upload import open_form
from services.gateway.api.models import Receipt
from services.gateway.api.problems import Responses, problems
from services.gateway.api.requests import BINARY, BODY, VERSION_QUERY, Fields, requested_form_bucket
from services.gateway.api.services import RunningGateway
from services.gateway.replicas.quorum import READ_QUORUM, WRITE_QUORUM
from services.gateway.semantics.body_digests import DIGESTS, BodyDigests
from services.gateway.semantics.byte_ranges import RANGES
from services.gateway.semantics.conditions import READ_CONDITIONS, WRITE_CONDITIONS
from services.gateway.semantics.file_headers import (
    CONTENT,
    DELETED,
    PUBLISHED,
    USER_METADATA,
    VERSION,
    content_type,
)
from services.gateway.semantics.parameters import answer_header, described
from services.gateway.semantics.raw_names import BUCKET, KEY, FileName
from services.gateway.transfers.idempotency import IDEMPOTENCY_KEY
from shared.contracts.names import check_key
from shared.errors import InvalidRequestError

_NAME: Final = (BUCKET, KEY)
_UPLOAD: Final = (WRITE_QUORUM, USER_METADATA, *WRITE_CONDITIONS, IDEMPOTENCY_KEY)
_READ: Final = (*_NAME, VERSION_QUERY, READ_QUORUM, *READ_CONDITIONS)
_FORM: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": BINARY}},
            }
        },
    }
}
_NOT_MODIFIED: Final = {"description": "Not modified.", "headers": VERSION}
_ANSWERS_OF_GET: Final[Responses] = {
    200: {
        "description": "The whole file.",
        "headers": CONTENT | STREAM,
        "content": {"application/octet-stream": {"schema": BINARY}},
    },
    206: {
        "description": "The ranges asked for.",
        "headers": CONTENT | STREAM | RANGE,
        "content": {"application/octet-stream": {"schema": BINARY}, "multipart/byteranges": {"schema": BINARY}},
    },
    304: _NOT_MODIFIED,
}
_ANSWERS_OF_HEAD: Final[Responses] = {
    200: {"description": "The headers of GET, without the bytes.", "headers": CONTENT | CONFIRMED},
    304: _NOT_MODIFIED,
}


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    register_any()
    router = APIRouter(prefix="/v1", tags=["files"])
    calls = FileCalls(gateway)
    _add_uploads(router, calls, gateway)
    _add_reads(router, calls)
    _add_deletion(router, calls)
    return router


def _add_uploads(router: APIRouter, calls: FileCalls, gateway: RunningGateway) -> None:
    @router.put(
        FILE_PATH,
        summary="Store a file",
        status_code=201,
        response_model=Receipt,
        responses={
            201: {"description": "Created; durable as the receipt says.", "headers": PUBLISHED},
            200: {
                "model": Receipt,
                "description": "Replaced; durable as the receipt says.",
                "headers": PUBLISHED,
            },
            **problems(400, 403, 404, 408, 409, 412, 413, 422, 503, 507, about="files"),
        },
        openapi_extra=described(*_NAME, *_UPLOAD, *DIGESTS) | BODY,
    )
    async def put_file() -> Response:
        """Any type and size, with or without Content-Length.

        The answer comes when every chunk is fsynced on the write quorum and the version on a majority of the consensus
        members. An upload that breaks off changes nothing.
        """
        return CallResponse(calls.put)

    @router.post(
        BUCKET_PATH,
        summary="Store a file from a form",
        status_code=201,
        response_model=Receipt,
        responses={
            201: {
                "description": "Created; durable as the receipt says.",
                "headers": PUBLISHED | {"Location": answer_header("Where the file is.", "/v1/files/default/hello.txt")},
            },
            200: {
                "model": Receipt,
                "description": "Replaced; durable as the receipt says.",
                "headers": PUBLISHED,
            },
            **problems(400, 403, 404, 408, 409, 412, 413, 422, 503, 507, about="files"),
        },
        openapi_extra=described(BUCKET, *_UPLOAD) | _FORM,
    )
    async def post_file() -> Response:
        """For browsers: the field `file` of a multipart form. Its file name becomes the key; everything else is as in PUT."""
        return CallResponse(post)

    async def post(scope: Scope, receive: Receive, send: Send, fields: Fields) -> None:
        services = gateway.services
        bucket = requested_form_bucket(scope)
        headers = UploadHeaders.of(scope, fields, services)
        for name in ("content-digest", "content-md5"):
            if name in fields:
                raise InvalidRequestError("A digest of a whole form cannot be checked; use PUT.", header=name)
        form = await open_form(fields.get("content-type"), body_of(receive))
        file = FileName(bucket, check_key(form.file_name))
        context = current_access()
        context.key = file.key  # which no path said to the door
        await services.access.decide(context, AccessContext.require_target)
        media_type = content_type([] if form.content_type is None else [form.content_type])
        uploaded = await services.uploads.put(headers.request(file, media_type, None, BodyDigests([])), form.body)
        await send_receipt(send, uploaded, {"location": f"/v1/files/{bucket}/{quote(file.key, safe='/')}"})


def _add_reads(router: APIRouter, calls: FileCalls) -> None:
    @router.get(
        FILE_PATH,
        summary="Read a file",
        response_class=Response,
        responses={**_ANSWERS_OF_GET, **problems(400, 404, 405, 412, 416, 503, about="files")},
        openapi_extra=described(*_READ, *RANGES),
    )
    async def get_file() -> Response:
        """The version that is current at one instant between request and response, or the one asked for, every byte checked.

        Several ranges come as `multipart/byteranges`. If the bytes are lost on the way, the connection breaks off.
        """
        return CallResponse(calls.get)

    @router.head(
        FILE_PATH,
        summary="Describe a file",
        response_class=Response,
        responses={**_ANSWERS_OF_HEAD, **problems(400, 404, 405, 412, 503, about="files")},
        openapi_extra=described(*_READ),
    )
    async def head_file() -> Response:
        """Answers from the log alone, so it says nothing about the replicas of the chunks.

        With `X-Trivet-Read-Quorum` the storage nodes are asked about every chunk, and `X-Trivet-Replicas-Confirmed` is the
        weakest chunk's replica count.
        """
        return CallResponse(calls.head)


def _add_deletion(router: APIRouter, calls: FileCalls) -> None:
    @router.delete(
        FILE_PATH,
        summary="Delete a file",
        status_code=204,
        response_class=Response,
        responses={
            204: {"description": "Deleted.", "headers": DELETED},
            **problems(400, 403, 404, 409, 412, 422, 503, about="files"),
        },
        openapi_extra=described(*_NAME, VERSION_QUERY, *WRITE_CONDITIONS, IDEMPOTENCY_KEY),
    )
    async def delete_file() -> Response:
        """The file is gone for every reader that asks after this answer. Its chunks are collected later.

        A bucket that keeps versions keeps the current one behind a delete marker. With `version` that version or marker is
        removed for good; when it was the current one, the one before is current again.
        """
        return CallResponse(calls.delete)
