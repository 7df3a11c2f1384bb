"""Files: put, get, head, delete."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from services.gateway.api.file_stream import FileStream
from services.gateway.api.models import Receipt
from services.gateway.api.parts import Parts, RunningGateway
from services.gateway.api.problems import problems
from services.gateway.api.requests import IDEMPOTENCY_KEY_DESCRIPTION, headers_of, quorums_of
from services.gateway.body_digests import BodyDigests
from services.gateway.byte_ranges import MAX_RANGES, requested_spans
from services.gateway.client_connection import body_of
from services.gateway.conditions import is_not_modified, write_preconditions
from services.gateway.downloads import FoundFile
from services.gateway.file_headers import content_headers, content_type, user_metadata, version_headers
from services.gateway.form_upload import open_form
from services.gateway.idempotency import OnceOnly
from services.gateway.raw_names import FILES_PREFIX, FileName, bucket_name, file_name
from services.gateway.uploads import Published, UploadOrder
from shared.contracts.metadata import DeleteFile
from shared.contracts.names import check_key

# The names come from the raw path (`raw_names`), so the routes do not declare them; OpenAPI is told below.
_PATH: Final = "/files/{bucket}/{key:path}"
_BUCKET: Final = "/files/{bucket}"


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    router = APIRouter(prefix="/v1", tags=["files"])

    @router.put(
        _PATH,
        summary="Store a file",
        status_code=201,
        response_model=Receipt,
        responses={
            201: {"description": "Created; durable as the receipt says.", "headers": _VERSION_HEADERS},
            200: {
                "model": Receipt,
                "description": "Replaced; durable as the receipt says.",
                "headers": _VERSION_HEADERS,
            },
            **problems(400, 404, 408, 409, 412, 413, 422, 503, 507),
        },
        openapi_extra=_parameters(*_WRITE_PARAMETERS) | _BODY,
    )
    async def put_file(request: Request, response: Response) -> Receipt:
        """Any type and size, with or without Content-Length.

        The answer comes when every chunk is fsynced on the write quorum and the version on a majority of the consensus
        members. An upload that breaks off changes nothing.
        """
        parts = gateway.parts
        name = file_name(request.scope["raw_path"])
        headers = headers_of(request)
        announced = headers.get("content-length")
        # The server's parser has let only one decimal number pass.
        announced_bytes = None if announced is None else int(announced)
        order = _upload_order(request, name, headers.get("content-type"), announced_bytes, parts)
        return _receipt(await parts.uploads.put(order, body_of(request)), response)

    @router.post(
        _BUCKET,
        summary="Store a file from a form",
        status_code=201,
        response_model=Receipt,
        responses={
            201: {"description": "Created; durable as the receipt says.", "headers": _VERSION_HEADERS},
            200: {
                "model": Receipt,
                "description": "Replaced; durable as the receipt says.",
                "headers": _VERSION_HEADERS,
            },
            **problems(400, 404, 408, 409, 412, 413, 422, 503, 507),
        },
        openapi_extra={"parameters": [_BUCKET_PARAMETER, *_described(*_FORM_PARAMETERS)]} | _FORM,
    )
    async def post_file(request: Request, response: Response) -> Receipt:
        """For browsers: the field `file` of a multipart form. Its file name becomes the key; everything else is as in PUT."""
        parts = gateway.parts
        bucket = bucket_name(request.scope["raw_path"], FILES_PREFIX)
        form = await open_form(request.headers.get("content-type"), body_of(request))
        name = FileName(bucket, check_key(form.file_name))
        order = _upload_order(request, name, form.content_type, None, parts)
        return _receipt(await parts.uploads.put(order, form.body), response)

    @router.get(
        _PATH,
        summary="Read a file",
        response_class=Response,
        responses={
            200: {"description": "The whole file.", "headers": _FILE_HEADERS, "content": _ANY_BYTES},
            206: {"description": "The ranges asked for.", "headers": _RANGE_HEADERS, "content": _RANGES},
            304: {"description": "Not modified.", "headers": _VERSION_HEADERS},
            **problems(400, 404, 412, 416, 503),
        },
        openapi_extra=_parameters(*_READ_PARAMETERS, "Range", "If-Range"),
    )
    async def get_file(request: Request) -> Response:
        """The version that is current at one instant between request and response, every byte checked.

        Several ranges come as `multipart/byteranges`. If the bytes are lost on the way, the connection breaks off.
        """
        parts = gateway.parts
        found = await parts.downloads.find(file_name(request.scope["raw_path"]))
        if (unmodified := _not_modified(request, found)) is not None:
            return unmodified
        version = found.version
        spans = requested_spans(headers_of(request), version.content.size_bytes, version.etag)
        return FileStream(parts.downloads, found, spans, quorums_of(request, parts.quorums))

    @router.head(
        _PATH,
        summary="Describe a file",
        response_class=Response,
        responses={
            200: {"description": "The headers of GET, without the bytes.", "headers": _FILE_HEADERS},
            304: {"description": "Not modified.", "headers": _VERSION_HEADERS},
            **problems(400, 404, 412, 503),
        },
        openapi_extra=_parameters(*_READ_PARAMETERS),
    )
    async def head_file(request: Request) -> Response:
        """Asks the storage nodes about every chunk: `X-Trivet-Replicas-Confirmed` is the weakest chunk's replica count."""
        parts = gateway.parts
        found = await parts.downloads.find(file_name(request.scope["raw_path"]))
        if (unmodified := _not_modified(request, found)) is not None:
            return unmodified
        confirmed = await parts.downloads.confirm(found, quorums_of(request, parts.quorums))
        headers = content_headers(found.version)
        headers["content-length"] = str(found.version.content.size_bytes)
        headers["x-trivet-replicas-confirmed"] = str(confirmed)
        return Response(headers=headers)

    @router.delete(
        _PATH,
        summary="Delete a file",
        status_code=204,
        response_class=Response,
        responses={
            204: {"description": "Deleted.", "headers": _DELETION_HEADERS},
            **problems(400, 404, 409, 412, 422, 503),
        },
        openapi_extra=_parameters("If-Match", "Idempotency-Key"),
    )
    async def delete_file(request: Request) -> Response:
        """The file is gone for every reader that asks after this answer. Its chunks are collected later."""
        parts = gateway.parts
        name = file_name(request.scope["raw_path"])
        headers = headers_of(request)
        conditions = write_preconditions(headers)
        once = OnceOnly.of(headers, method="DELETE", bucket=name.bucket, key=name.key, preconditions=conditions)
        with parts.keeper.running(once):
            outcome = await parts.keeper.propose(
                DeleteFile(bucket=name.bucket, key=name.key, preconditions=conditions, stamp=parts.clock.stamp()), once
            )
        version = (outcome.result or {}).get("version", outcome.log_index)
        return Response(status_code=204, headers={"x-trivet-version": str(version)})

    return router


def _upload_order(
    request: Request, name: FileName, media_type: str | None, announced_bytes: int | None, parts: Parts
) -> UploadOrder:
    headers = headers_of(request)
    kept_type, metadata = content_type(media_type), user_metadata(request.headers.raw)
    preconditions = write_preconditions(headers)
    return UploadOrder(
        name=name,
        content_type=kept_type,
        user_metadata=metadata,
        quorums=quorums_of(request, parts.quorums),
        preconditions=preconditions,
        digests=BodyDigests.announced(headers),
        announced_bytes=announced_bytes,
        once=OnceOnly.of(
            headers,
            method=request.method,
            bucket=name.bucket,
            key=name.key,
            preconditions=preconditions,
            content=[kept_type, metadata],
        ),
    )


def _receipt(published: Published, response: Response) -> Receipt:
    response.status_code = 201 if published.is_created else 200
    response.headers["etag"] = f'"{published.version.etag}"'
    response.headers["x-trivet-version"] = str(published.version.version)
    return Receipt.of(published)


def _not_modified(request: Request, found: FoundFile) -> Response | None:
    version = found.version
    if not is_not_modified(headers_of(request), version.etag, version.modified_ns):
        return None
    return Response(status_code=304, headers=version_headers(version))


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "description": "The bytes of the file, as they are.",
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_ANY_BYTES: Final[dict[str, Any]] = {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
}
_DELETION_HEADERS: Final = {"X-Trivet-Version": _header("Log index that last changed this key.")}
_VERSION_HEADERS: Final = {"ETag": _header("Strong entity tag of this version.")} | _DELETION_HEADERS
_FILE_HEADERS: Final = _VERSION_HEADERS | {
    "Last-Modified": _header("When this version was published."),
    "X-Trivet-Digest": _header("BLAKE3-256 of the whole file, hex."),
    "X-Trivet-Replicas-Confirmed": _header("Proved replicas of the weakest chunk looked at."),
}
_RANGE_HEADERS: Final = _FILE_HEADERS | {"Content-Range": _header("Of a single range: which bytes, of how many.")}
_RANGES: Final = _ANY_BYTES | {"multipart/byteranges": {"schema": {"type": "string", "format": "binary"}}}
_WRITE_PARAMETERS: Final = (
    "X-Trivet-Write-Quorum",
    "If-Match",
    "If-None-Match",
    "Content-Digest",
    "Content-MD5",
    "Idempotency-Key",
)
_FORM_PARAMETERS: Final = ("X-Trivet-Write-Quorum", "If-Match", "If-None-Match", "Idempotency-Key")
_READ_PARAMETERS: Final = (
    "X-Trivet-Read-Quorum",
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
)
_DESCRIPTIONS: Final = {
    "X-Trivet-Write-Quorum": "Replicas of every chunk that must be durable before the answer, 1 to N.",
    "X-Trivet-Read-Quorum": "Replicas of every chunk that must be proved; fewer are answered 503.",
    "Content-Digest": "Checked before publishing: `sha-256=:<base64>:` or `sha-512=:<base64>:`.",
    "Content-MD5": "Checked before publishing: base64.",
    "Idempotency-Key": IDEMPOTENCY_KEY_DESCRIPTION,
    "If-Match": "Only if the current entity tag is one of these, or `*`: if there is a file.",
    "If-None-Match": "Only if the current entity tag is none of these; `*`: only if there is no file.",
    "If-Modified-Since": "Only if it was published later.",
    "If-Unmodified-Since": "Only if it was not published later.",
    "Range": f"Ranges of bytes, e.g. `bytes=0-99` or `bytes=0-0,-1`: at most {MAX_RANGES}, together not more than the file.",
    "If-Range": "The range only if this is the current entity tag, else the whole file.",
}


_BUCKET_PARAMETER: Final[dict[str, Any]] = {
    "name": "bucket",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "example": "default",
}
_KEY_PARAMETER: Final[dict[str, Any]] = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "1-1024 bytes of UTF-8; `/` may be written as it is or as `%2F`.",
    "schema": {"type": "string"},
    "example": "hello.txt",
}
_FORM: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


def _described(*headers: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "description": _DESCRIPTIONS[name], "schema": {"type": "string"}}
        for name in headers
    ]


def _parameters(*headers: str) -> dict[str, Any]:
    return {"parameters": [_BUCKET_PARAMETER, _KEY_PARAMETER, *_described(*headers)]}
