"""Put, get, head and delete of one file and the list of a bucket, as plain ASGI calls (`answers.Call`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import structlog
from starlette.types import Receive, Scope, Send

from services.gateway.access.context import current_access
from services.gateway.api.answers import raw_headers, send_answer, send_json
from services.gateway.api.client_connection import ClientBody, while_connected
from services.gateway.api.early_refusal import announces_body
from services.gateway.api.file_stream import FileStream
from services.gateway.api.models import file_list_json, receipt_json
from services.gateway.api.requests import (
    Fields,
    client_of,
    read_quorums,
    record_version,
    requested_file,
    requested_version,
    write_quorums,
)
from services.gateway.api.services import RunningGateway, Services
from services.gateway.listings import FILES_QUERY
from services.gateway.replicas.quorum import Quorums
from services.gateway.semantics.body_digests import BodyDigests
from services.gateway.semantics.byte_ranges import requested_spans
from services.gateway.semantics.conditions import ConditionTarget, ReadConditions, write_preconditions
from services.gateway.semantics.file_headers import content_headers, content_type, user_metadata, version_headers
from services.gateway.semantics.raw_names import FILES_PREFIX, FileName, bucket_name, file_name
from services.gateway.transfers.admission import SMALL_BYTES, Client
from services.gateway.transfers.idempotency import IdempotencyKey
from services.gateway.transfers.uploads import UploadRequest, UploadResult
from shared.contracts.files import FileVersion, Preconditions
from shared.contracts.metadata import DeleteFile
from shared.errors import InvalidRequestError, TrivetError
from shared.web.http_exchange import exchange_of

logger = structlog.get_logger(__name__)

# The names come from the raw path (`raw_names`), so the routes do not declare them.
FILE_PATH: Final = "/files/{bucket}/{key:any}"
BUCKET_PATH: Final = "/files/{bucket}"


class FileCalls:
    """The calls over one gateway."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._gateway = gateway

    async def put(self, scope: Scope, receive: Receive, send: Send, fields: Fields) -> None:
        """Store the body; the answer is its receipt."""
        services = self._gateway.services
        name = requested_file(scope)
        headers = UploadHeaders.of(scope, fields, services)
        if "content-range" in fields:
            raise InvalidRequestError("A part of a file cannot be stored; send the whole.", header="Content-Range")
        # The server's parser has let only one decimal number pass.
        announced_bytes = None if (announced := fields.get("content-length")) is None else int(announced)
        upload = headers.request(
            name,
            content_type([value.decode("latin-1") for field, value in scope["headers"] if field == b"content-type"]),
            announced_bytes,
            BodyDigests.announced(fields),
        )
        uploaded = await services.uploads.put(upload, ClientBody(scope, receive, announced_bytes))
        services.downloads.published(uploaded.version)
        await send_receipt(send, uploaded)

    async def get(self, scope: Scope, receive: Receive, send: Send, fields: Fields) -> None:
        """Send the version that is current at one instant. One that fails on its way breaks the connection off."""
        services = self._gateway.services
        asked = _ReadRequest.of(scope, fields, services)
        stream: FileStream | None = None
        try:
            is_body_wanted = asked.conditions.is_unconditional
            async with services.downloads.open(
                asked.name, client_of(scope), version=asked.version, is_body_wanted=is_body_wanted
            ) as found:
                if asked.is_not_modified(scope, found.version):
                    await self._send_not_modified(send, found.version)
                    return
                spans = requested_spans(fields, found.version.content.size_bytes, found.version.etag)
                stream = FileStream(
                    services.downloads,
                    found,
                    spans,
                    asked.quorums,
                    headers=content_headers(found.version, read_now_ns=self._read_now_ns),
                    access=services.access.standing(current_access()),
                )
                # Of a small file without a body to take nothing is worth watching for.
                is_soon_over = found.version.content.size_bytes <= SMALL_BYTES and not announces_body(scope)
                await stream.send(None if is_soon_over else receive, send)
        except TrivetError as error:
            exchange = exchange_of(scope)
            if stream is None or not stream.has_started or exchange is None:
                raise
            # One line: a lack of replicas or of budget, or a client that is too slow, is no defect of ours.
            logger.warning("a download was broken off", path=scope["path"], code=error.code, reason=error.message)
            exchange.break_off()

    async def head(self, scope: Scope, receive: Receive, send: Send, fields: Fields) -> None:
        """Describe the current version from the log; the storage nodes are asked only where R is asked for."""
        services = self._gateway.services
        asked = _ReadRequest.of(scope, fields, services)
        async with services.downloads.open(asked.name, client_of(scope), version=asked.version) as found:
            if asked.is_not_modified(scope, found.version):
                await self._send_not_modified(send, found.version)
                return
            headers = content_headers(found.version, read_now_ns=self._read_now_ns)
            headers["content-length"] = str(found.version.content.size_bytes)
            if "x-trivet-read-quorum" in fields:
                confirmed: list[int] = []

                async def ask(_: asyncio.TaskGroup) -> None:
                    confirmed.append(await services.downloads.confirm(found, asked.quorums))

                # The nodes may have to read the whole file from their disks: not for a client that has gone.
                await while_connected(receive, ask)
                if not confirmed:
                    return
                headers["x-trivet-replicas-confirmed"] = str(confirmed[0])
            await send_answer(send, 200, raw_headers(headers))

    async def delete(self, scope: Scope, receive: Receive, send: Send, fields: Fields) -> None:  # noqa: ARG002 ASGI
        """Delete the file, or one version of it for good; the answer tells the log index that last changed the file."""
        services = self._gateway.services
        version, name = requested_version(scope), file_name(scope["raw_path"])
        conditions = write_preconditions(fields)
        idempotency_key = IdempotencyKey.of(
            fields, method="DELETE", bucket=name.bucket, key=name.key, preconditions=conditions, content=version
        )
        deletion = DeleteFile(
            bucket=name.bucket,
            key=name.key,
            version=version,
            preconditions=conditions,
            stamp=services.clock.stamp(),
        )
        with services.idempotency.running(idempotency_key):
            deleted = (await services.idempotency.propose(deletion, idempotency_key)).result
        headers = [(b"x-trivet-version", b"%d" % deleted.version)]
        if deleted.is_marker:
            headers.append((b"x-trivet-delete-marker", b"true"))
        await send_answer(send, 204, headers)

    async def list_files(self, scope: Scope, receive: Receive, send: Send, fields: Fields) -> None:  # noqa: ARG002 ASGI
        """One page of a bucket."""
        bucket = bucket_name(scope["raw_path"], FILES_PREFIX)
        values = FILES_QUERY.values(scope["query_string"])
        page = await self._gateway.services.listings.page(bucket, values)
        await send_json(send, 200, file_list_json(page))

    async def _send_not_modified(self, send: Send, version: FileVersion) -> None:
        await send_answer(send, 304, raw_headers(version_headers(version, read_now_ns=self._read_now_ns)))

    def _read_now_ns(self) -> int:
        return self._gateway.services.clock.stamp().approximate_ns


async def send_receipt(send: Send, uploaded: UploadResult, headers: Mapping[str, str] | None = None) -> None:
    """The answer to an upload, with further headers."""
    version = uploaded.version
    described = {"etag": f'"{version.etag}"', "x-trivet-version": str(version.version), **(headers or {})}
    await send_json(send, 201 if uploaded.is_created else 200, receipt_json(uploaded), described)


@dataclass(frozen=True, slots=True)
class UploadHeaders:
    """What the headers of an upload ask for, checked before anything else is done."""

    method: str
    client: Client
    fields: Fields
    metadata: dict[str, str]
    preconditions: Preconditions
    quorums: Quorums

    @classmethod
    def of(cls, scope: Scope, fields: Fields, services: Services) -> Self:
        """Raises InvalidRequestError when one of them is malformed."""
        parsed = cls(
            method=scope["method"],
            client=client_of(scope),
            fields=fields,
            metadata=user_metadata(scope["headers"]),
            preconditions=write_preconditions(fields),
            quorums=write_quorums(fields, services.quorums),
        )
        IdempotencyKey.of(fields, method=scope["method"], bucket="")
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
                self.fields,
                method=self.method,
                bucket=name.bucket,
                key=name.key,
                preconditions=self.preconditions,
                content=[media_type, self.metadata],
            ),
        )


@dataclass(frozen=True, slots=True)
class _ReadRequest:
    """What the path and headers of a GET or HEAD ask for, checked before anything else is done."""

    name: FileName
    version: int | None
    conditions: ReadConditions
    quorums: Quorums

    @classmethod
    def of(cls, scope: Scope, fields: Fields, services: Services) -> Self:
        """Raises InvalidRequestError when one of them is malformed."""
        version, conditions = requested_version(scope), ReadConditions.of(fields)
        return cls(file_name(scope["raw_path"]), version, conditions, read_quorums(fields, services.quorums))

    def is_not_modified(self, scope: Scope, version: FileVersion) -> bool:
        """Whether the answer is 304. Raises PreconditionFailedError."""
        record_version(scope, version.version)
        return self.conditions.is_not_modified(ConditionTarget(version.version, version.etag, version.modified_ns))
