"""PutObject, GetObject, HeadObject: one object in and out, over the same transfers as `/v1`.

What is asked for is read from the head of the request before anything else happens, so that a refusal comes before the body.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

from services.gateway.access.context import current_access
from services.gateway.api.early_refusal import announces_body
from services.gateway.api.file_stream import FileStream
from services.gateway.api.range_parts import content_range
from services.gateway.api.requests import client_of
from services.gateway.s3.answers import send_empty
from services.gateway.s3.body_hashing import BodyHashes
from services.gateway.s3.checksums import checksum_headers
from services.gateway.s3.conditions import as_shown, read_conditions, write_conditions
from services.gateway.s3.decisions import require_sight
from services.gateway.s3.errors import S3Error
from services.gateway.s3.object_headers import (
    Described,
    described,
    not_modified_headers,
    object_headers,
    published_headers,
    response_overrides,
    s3_etag_of,
)
from services.gateway.s3.object_versions import asked_version, name_of, refuse, shown_id
from services.gateway.s3.requests import S3Body, S3Request
from services.gateway.s3.retries import retry_key
from services.gateway.semantics.byte_ranges import ByteSpan, requested_spans
from services.gateway.semantics.conditions import ReadConditions
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.admission import SMALL_BYTES
from services.gateway.transfers.uploads import UploadRequest, UploadResult
from shared.contracts.access import ANONYMOUS
from shared.contracts.files import FileVersion, Preconditions
from shared.contracts.uploads import PART_NUMBER_MAX
from shared.errors import PreconditionFailedError, RangeNotSatisfiableError, TrivetError
from shared.units import GIB

PUT_BYTES_MAX: Final = 5 * GIB
"""Of one request; what is larger comes in parts."""

_PART_NUMBER: Final = re.compile(r"[0-9]{1,5}")
_CUSTOMER_KEY: Final = "x-amz-server-side-encryption-customer"


# --- put ----------------------------------------------------------------------------------------------------------


async def put_object(request: S3Request) -> None:
    """PutObject."""
    hashes, asked = BodyHashes.of(request.headers, body_of(request)), described(request.headers)
    name, conditions = name_of(request), write_conditions(request.headers)
    await require_sight(request, name, conditions)
    uploaded = await store(request, name, asked, hashes, conditions)
    await send_empty(request, 200, published_headers(uploaded.version, shown_id(request, uploaded.version)))


def body_of(request: S3Request) -> S3Body:
    """The body, whose length is known and not more than one request may bring. Raises S3Error."""
    body = request.body
    if body is None or body.size_bytes is None:
        raise S3Error("MissingContentLength", "You must provide the Content-Length HTTP header.")
    if body.size_bytes > PUT_BYTES_MAX:
        raise too_large(body.size_bytes)
    return body


def too_large(size_bytes: int, limit_bytes: int = PUT_BYTES_MAX) -> S3Error:
    """A body is longer than one request may bring."""
    return S3Error(
        "EntityTooLarge",
        "Your proposed upload exceeds the maximum allowed size",
        ProposedSize=str(size_bytes),
        MaxSizeAllowed=str(limit_bytes),
    )


async def store(
    request: S3Request,
    name: FileName,
    asked: Described,
    hashes: BodyHashes,
    conditions: Preconditions,
) -> UploadResult:
    """Store the body that is to be hashed as the current version of `name`.

    Raises:
        S3Error: it is not what was announced, or a condition does not hold.
        TrivetError: as `Uploads.put`.
    """
    services = request.services
    content = [asked.content_type, asked.user_metadata, asked.headers, asked.storage_class, asked.tags]
    upload = UploadRequest(
        name=name,
        content_type=asked.content_type,
        user_metadata=asked.user_metadata,
        quorums=services.quorums,
        preconditions=conditions,
        digests=hashes,
        announced_bytes=hashes.body.size_bytes,
        client=client_of(request.scope),
        idempotency_key=retry_key(request, content, preconditions=conditions),
        tags=asked.tags,
        s3=partial(hashes.attributes, asked.headers, asked.storage_class),
    )
    try:
        uploaded = await services.uploads.put(upload, hashes.body)
    except PreconditionFailedError as error:
        raise condition_failed(error, name.key) from error
    services.downloads.published(uploaded.version)
    return uploaded


def condition_failed(error: PreconditionFailedError, key: str) -> S3Error:
    """A condition of a change did not hold. Of what is absent nothing can match: then that is what is said."""
    condition = str(error.facts.get("precondition", ""))
    if condition == "If-Match" and error.facts.get("etag") is None:
        return S3Error("NoSuchKey", "The specified key does not exist.", Key=key)
    return S3Error(
        "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", Condition=condition
    )


# --- get and head -------------------------------------------------------------------------------------------------


async def get_object(request: S3Request) -> None:
    """GetObject. One that fails on its way raises when the answer has begun, and the connection is broken off."""
    services, scope = request.services, request.scope
    asked = _Read.of(request)
    try:
        async with services.downloads.open(
            name_of(request), client_of(scope), version=asked.version, is_body_wanted=asked.conditions.is_unconditional
        ) as found:
            version = found.version
            version_id = shown_id(request, version, keeps_versions=found.keeps_versions)
            if asked.is_not_modified(version):
                await send_empty(request, 304, not_modified_headers(version, version_id))
                return
            spans = asked.spans(request, version)
            stream = FileStream(
                services.downloads,
                found,
                spans,
                services.quorums,
                headers={**request.answer_headers, **asked.headers(request, version, version_id, spans)},
                access=services.access.standing(current_access()),
            )
            # Of a small object without a body to take nothing is worth watching for.
            is_soon_over = version.content.size_bytes <= SMALL_BYTES and not announces_body(scope)
            await stream.send(None if is_soon_over else request.receive, request.send)
    except TrivetError as error:
        await refuse(request, error)


async def head_object(request: S3Request) -> None:
    """HeadObject, from the log alone."""
    asked = _Read.of(request)
    try:
        async with request.services.downloads.open(
            name_of(request), client_of(request.scope), version=asked.version
        ) as found:
            version = found.version
            version_id = shown_id(request, version, keeps_versions=found.keeps_versions)
            if asked.is_not_modified(version):
                await send_empty(request, 304, not_modified_headers(version, version_id))
                return
            spans = asked.spans(request, version)
            headers = asked.headers(request, version, version_id, spans)
            size_bytes = version.content.size_bytes
            if spans is None:
                headers["content-length"] = str(size_bytes)
            else:
                headers["content-length"] = str(spans[0].size_bytes)
                headers["content-range"] = content_range(spans[0], size_bytes)
            await send_empty(request, 200 if spans is None else 206, headers)
    except TrivetError as error:
        await refuse(request, error)


@dataclass(frozen=True, slots=True)
class _Read:
    """What a GET or HEAD asks for.

    Attributes:
        version: its number; None for the current one.
        part: the number of the part that alone is asked for.
        overrides: headers of the answer that the query names.
    """

    version: int | None
    part: int | None
    conditions: ReadConditions
    overrides: dict[str, str]

    @classmethod
    def of(cls, request: S3Request) -> Self:
        """Raises S3Error where it is malformed."""
        headers, target = request.headers, request.target
        if any(name.startswith(_CUSTOMER_KEY) for name in headers):
            raise S3Error("InvalidRequest", "The encryption parameters are not applicable to this object.")
        conditions = read_conditions(headers)
        if not target.query:
            return cls(None, None, conditions, {})
        overrides = response_overrides(target, is_signed=current_access().principal.id != ANONYMOUS)
        return cls(asked_version(request), _asked_part(request), conditions, overrides)

    def is_not_modified(self, version: FileVersion) -> bool:
        """Whether the answer is 304. Raises S3Error, PreconditionFailed."""
        try:
            return self.conditions.is_not_modified(as_shown(version))
        except PreconditionFailedError as error:
            raise condition_failed(error, version.key) from error

    def spans(self, request: S3Request, version: FileVersion) -> list[ByteSpan] | None:
        """The one range that is asked for; None for all. Of several ranges none is given. Raises S3Error."""
        size_bytes = version.content.size_bytes
        if self.part is not None:
            span = part_span(version, self.part)
            return None if span is None else [span]
        value = request.headers.get("range")
        if value is None or "," in value:
            return None
        try:
            return requested_spans(request.headers, size_bytes, s3_etag_of(version))
        except RangeNotSatisfiableError as error:
            raise S3Error(
                "InvalidRange",
                "The requested range is not satisfiable",
                headers={"content-range": f"bytes */{size_bytes}"},
                RangeRequested=value[:256],
                ActualObjectSize=str(size_bytes),
            ) from error

    def headers(
        self, request: S3Request, version: FileVersion, version_id: str | None, spans: list[ByteSpan] | None
    ) -> dict[str, str]:
        """What the answer says of `version`."""
        headers = object_headers(version, version_id)
        if spans is None and request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
            headers.update(checksum_headers(version.s3))
        if self.part is not None and (count := part_count(version)) is not None:
            headers["x-amz-mp-parts-count"] = str(count)
        headers.update(self.overrides)
        return headers


def _asked_part(request: S3Request) -> int | None:
    text = request.target.value("partNumber")
    if text is None:
        return None
    if not _PART_NUMBER.fullmatch(text) or not 1 <= int(text) <= PART_NUMBER_MAX:
        raise S3Error(
            "InvalidArgument",
            f"Part number must be an integer between 1 and {PART_NUMBER_MAX}, inclusive",
            ArgumentName="partNumber",
            ArgumentValue=text[:64],
        )
    if "range" in request.headers:
        raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
    return int(text)


def part_count(version: FileVersion) -> int | None:
    """Of how many parts the object was made; None where it came as a whole, or nobody wrote down which."""
    sizes = [] if version.s3 is None else version.s3.part_sizes
    return sum(count for _, count in sizes) or None


def part_span(version: FileVersion, number: int) -> ByteSpan | None:
    """The bytes of a part; None for those of an object that has none. Raises S3Error, InvalidPartNumber."""
    start, left = 0, number
    whole = [(version.content.size_bytes, 1)]
    for size_bytes, count in whole if version.s3 is None else version.s3.part_sizes or whole:
        if left <= count:
            start += (left - 1) * size_bytes
            return ByteSpan(start, start + size_bytes) if size_bytes else None
        start += size_bytes * count
        left -= count
    raise S3Error(
        "InvalidPartNumber",
        "The requested partnumber is not satisfiable",
        PartNumberRequested=str(number),
        ActualPartCount=str(part_count(version) or 1),
    )
