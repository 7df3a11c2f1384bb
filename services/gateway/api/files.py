"""Files: put, get, head, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from starlette.convertors import PathConvertor, register_url_convertor

from services.gateway.api.client_connection import body_of
from services.gateway.api.file_descriptions import (
    ANSWERS_OF_HEAD,
    ANSWERS_OF_READ,
    BODY,
    DELETE_PARAMETERS,
    DELETION_HEADERS,
    FORM,
    READ_PARAMETERS,
    VERSION_HEADERS,
    WRITE_PARAMETERS,
    file_parameters,
    form_parameters,
)
from services.gateway.api.file_stream import FileStream, HeldResponse
from services.gateway.api.form_upload import open_form
from services.gateway.api.models import Receipt
from services.gateway.api.problems import header, problems
from services.gateway.api.requests import (
    client_of,
    headers_of,
    quorums_of,
    record_version,
    requested_file,
    requested_form_bucket,
)
from services.gateway.api.services import RunningGateway, Services
from services.gateway.replicas.quorum import Quorums
from services.gateway.semantics.body_digests import BodyDigests
from services.gateway.semantics.byte_ranges import requested_spans
from services.gateway.semantics.conditions import Present, ReadConditions, write_preconditions
from services.gateway.semantics.file_headers import content_headers, content_type, user_metadata, version_headers
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.downloads import FoundFile
from services.gateway.transfers.idempotency import IdempotencyKey
from services.gateway.transfers.uploads import UploadRequest, UploadResult
from shared.contracts.metadata import DeleteFile, Preconditions
from shared.contracts.names import check_key
from shared.errors import InvalidRequestError

# The names come from the raw path (`raw_names`), so the routes do not declare them; `file_descriptions` tells OpenAPI.
_PATH: Final = "/files/{bucket}/{key:any}"
_BUCKET: Final = "/files/{bucket}"


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    register_url_convertor("any", _AnyConvertor())
    router = APIRouter(prefix="/v1", tags=["files"])
    _add_uploads(router, gateway)
    _add_reads(router, gateway)
    _add_deletion(router, gateway)
    return router


def _add_uploads(router: APIRouter, gateway: RunningGateway) -> None:

    @router.put(
        _PATH,
        summary="Store a file",
        status_code=201,
        response_model=Receipt,
        responses={
            201: {"description": "Created; durable as the receipt says.", "headers": VERSION_HEADERS},
            200: {
                "model": Receipt,
                "description": "Replaced; durable as the receipt says.",
                "headers": VERSION_HEADERS,
            },
            **problems(400, 403, 404, 408, 409, 412, 413, 422, 503, 507, about="files"),
        },
        openapi_extra=file_parameters(*WRITE_PARAMETERS) | BODY,
    )
    async def put_file(request: Request, response: Response) -> Receipt:
        """Any type and size, with or without Content-Length.

        The answer comes when every chunk is fsynced on the write quorum and the version on a majority of the consensus
        members. An upload that breaks off changes nothing.
        """
        services = gateway.services
        name = requested_file(request)
        upload_headers = _UploadHeaders.of(request, services)
        if "content-range" in upload_headers.headers:
            raise InvalidRequestError("A part of a file cannot be stored; send the whole.", header="Content-Range")
        announced = upload_headers.headers.get("content-length")
        # The server's parser has let only one decimal number pass.
        announced_bytes = None if announced is None else int(announced)
        upload = upload_headers.request(
            name,
            content_type(request.headers.getlist("content-type")),
            announced_bytes,
            BodyDigests.announced(upload_headers.headers),
        )
        return _receipt(await services.uploads.put(upload, body_of(request)), response)

    @router.post(
        _BUCKET,
        summary="Store a file from a form",
        status_code=201,
        response_model=Receipt,
        responses={
            201: {
                "description": "Created; durable as the receipt says.",
                "headers": VERSION_HEADERS | {"Location": header("Where the file is.", "/v1/files/default/hello.txt")},
            },
            200: {
                "model": Receipt,
                "description": "Replaced; durable as the receipt says.",
                "headers": VERSION_HEADERS,
            },
            **problems(400, 403, 404, 408, 409, 412, 413, 422, 503, 507, about="files"),
        },
        openapi_extra=form_parameters() | FORM,
    )
    async def post_file(request: Request, response: Response) -> Receipt:
        """For browsers: the field `file` of a multipart form. Its file name becomes the key; everything else is as in PUT."""
        services = gateway.services
        bucket = requested_form_bucket(request)
        upload_headers = _UploadHeaders.of(request, services)
        for name in ("content-digest", "content-md5"):
            if name in upload_headers.headers:
                raise InvalidRequestError("A digest of a whole form cannot be checked; use PUT.", header=name)
        form = await open_form(request.headers.get("content-type"), body_of(request))
        file = FileName(bucket, check_key(form.file_name))
        media_type = content_type([] if form.content_type is None else [form.content_type])
        uploaded = await services.uploads.put(
            upload_headers.request(file, media_type, None, BodyDigests([])), form.body
        )
        response.headers["location"] = f"/v1/files/{bucket}/{quote(file.key, safe='/')}"
        return _receipt(uploaded, response)


def _add_reads(router: APIRouter, gateway: RunningGateway) -> None:
    @router.get(
        _PATH,
        summary="Read a file",
        response_class=Response,
        responses={**ANSWERS_OF_READ, **problems(400, 404, 412, 416, 503, about="files")},
        openapi_extra=file_parameters(*READ_PARAMETERS, "Range", "If-Range"),
    )
    async def get_file(request: Request) -> Response:
        """The version that is current at one instant between request and response, every byte checked.

        Several ranges come as `multipart/byteranges`. If the bytes are lost on the way, the connection breaks off.
        """
        services = gateway.services
        asked = _ReadRequest.of(request, services)

        @asynccontextmanager
        async def answer() -> AsyncIterator[Response]:
            async with services.downloads.open(asked.name, client_of(request)) as found:
                now_ns = services.clock.stamp().approximate_ns
                if (not_modified := asked.not_modified(request, found, now_ns)) is not None:
                    yield not_modified
                    return
                version = found.version
                spans = requested_spans(headers_of(request), version.content.size_bytes, version.etag)
                yield FileStream(services.downloads, found, spans, asked.quorums, now_ns=now_ns)

        return HeldResponse(answer())

    @router.head(
        _PATH,
        summary="Describe a file",
        response_class=Response,
        responses={**ANSWERS_OF_HEAD, **problems(400, 404, 412, 503, about="files")},
        openapi_extra=file_parameters(*READ_PARAMETERS),
    )
    async def head_file(request: Request) -> Response:
        """Answers from the log alone, so it says nothing about the replicas of the chunks.

        With `X-Trivet-Read-Quorum` the storage nodes are asked about every chunk, and `X-Trivet-Replicas-Confirmed` is the
        weakest chunk's replica count.
        """
        services = gateway.services
        asked = _ReadRequest.of(request, services)
        async with services.downloads.open(asked.name, client_of(request)) as found:
            now_ns = services.clock.stamp().approximate_ns
            if (not_modified := asked.not_modified(request, found, now_ns)) is not None:
                return not_modified
            headers = content_headers(found.version, now_ns=now_ns)
            headers["content-length"] = str(found.version.content.size_bytes)
            if asked.asks_about_replicas:
                confirmed = await services.downloads.confirm(found, asked.quorums)
                headers["x-trivet-replicas-confirmed"] = str(confirmed)
            return Response(headers=headers)


def _add_deletion(router: APIRouter, gateway: RunningGateway) -> None:
    @router.delete(
        _PATH,
        summary="Delete a file",
        status_code=204,
        response_class=Response,
        responses={
            204: {"description": "Deleted.", "headers": DELETION_HEADERS},
            **problems(400, 403, 404, 409, 412, 422, 503, about="files"),
        },
        openapi_extra=file_parameters(*DELETE_PARAMETERS),
    )
    async def delete_file(request: Request) -> Response:
        """The file is gone for every reader that asks after this answer. Its chunks are collected later."""
        services = gateway.services
        name = requested_file(request)
        headers = headers_of(request)
        conditions = write_preconditions(headers)
        idempotency_key = IdempotencyKey.of(
            headers, method="DELETE", bucket=name.bucket, key=name.key, preconditions=conditions
        )
        with services.idempotency.running(idempotency_key):
            outcome = await services.idempotency.propose(
                DeleteFile(bucket=name.bucket, key=name.key, preconditions=conditions, stamp=services.clock.stamp()),
                idempotency_key,
            )
        version = (outcome.result or {}).get("version", outcome.log_index)
        return Response(status_code=204, headers={"x-trivet-version": str(version)})


class _AnyConvertor(PathConvertor):
    """A path with line ends in it, too: the framework's own ends there, and the name would be 404 instead of refused."""

    regex = r"[\s\S]*"


@dataclass(frozen=True, slots=True)
class _UploadHeaders:
    """What the headers of an upload ask for, checked before anything else is done."""

    method: str
    client: str
    headers: Mapping[str, str]
    metadata: dict[str, str]
    preconditions: Preconditions
    quorums: Quorums

    @classmethod
    def of(cls, request: Request, services: Services) -> Self:
        """Raises InvalidRequestError when one of them is malformed."""
        headers = headers_of(request)
        parsed = cls(
            method=request.method,
            client=client_of(request),
            headers=headers,
            metadata=user_metadata(request.headers.raw),
            preconditions=write_preconditions(headers),
            quorums=quorums_of(request, services.quorums),
        )
        IdempotencyKey.of(headers, method=request.method, bucket="")
        return parsed

    def request(
        self, name: FileName, media_type: str, announced_bytes: int | None, digests: BodyDigests
    ) -> UploadRequest:
        """The upload of a body under `name`."""
        return UploadRequest(
            name=name,
            content_type=media_type,
            user_metadata=self.metadata,
            quorums=self.quorums,
            preconditions=self.preconditions,
            digests=digests,
            announced_bytes=announced_bytes,
            client=self.client,
            idempotency_key=IdempotencyKey.of(
                self.headers,
                method=self.method,
                bucket=name.bucket,
                key=name.key,
                preconditions=self.preconditions,
                content=[media_type, self.metadata],
            ),
        )


def _receipt(uploaded: UploadResult, response: Response) -> Receipt:
    response.status_code = 201 if uploaded.is_created else 200
    response.headers["etag"] = f'"{uploaded.version.etag}"'
    response.headers["x-trivet-version"] = str(uploaded.version.version)
    return Receipt.of(uploaded)


@dataclass(frozen=True, slots=True)
class _ReadRequest:
    """What the path and headers of a GET or HEAD ask for, checked before anything else is done."""

    name: FileName
    conditions: ReadConditions
    quorums: Quorums
    asks_about_replicas: bool

    @classmethod
    def of(cls, request: Request, services: Services) -> Self:
        """Raises InvalidRequestError when one of them is malformed."""
        headers = headers_of(request)
        conditions = ReadConditions.of(headers)
        quorums = quorums_of(request, services.quorums)
        return cls(requested_file(request), conditions, quorums, "x-trivet-read-quorum" in headers)

    def not_modified(self, request: Request, found: FoundFile, now_ns: int) -> Response | None:
        """The whole answer where that is 304. Raises PreconditionFailedError."""
        version = found.version
        record_version(request, version.version)
        if not self.conditions.is_not_modified(Present(version.etag, version.version, version.modified_ns)):
            return None
        return Response(status_code=304, headers=version_headers(version, now_ns=now_ns))
