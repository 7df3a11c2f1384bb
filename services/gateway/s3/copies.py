"""CopyObject and UploadPartCopy: one entry in the log each, and no byte is moved.

The source is what `x-amz-copy-source` names, parsed once: whoever is asked whether it may be read, and whatever is copied, gets
the same names. It is looked at first, for S3 has conditions and limits that the log does not know; then that very version is
copied, so what was decided about it still holds.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

from services.gateway.objects.copies import Copied, CopySource, CopyTarget
from services.gateway.s3.answers import send_xml
from services.gateway.s3.conditions import COPY_SOURCE, as_shown, read_conditions, write_conditions
from services.gateway.s3.decisions import require, require_sight
from services.gateway.s3.errors import S3Error
from services.gateway.s3.lists import checksum_elements
from services.gateway.s3.multipart import part_number, upload_of
from services.gateway.s3.object_headers import Described, described, s3_etag_of
from services.gateway.s3.object_versions import number_of, shown_id
from services.gateway.s3.objects import condition_failed
from services.gateway.s3.requests import S3Request
from services.gateway.s3.retries import retry_key
from services.gateway.s3.version_ids import version_ids
from services.gateway.s3.xml_documents import document, element, iso_time
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.multipart import PartSource
from shared.contracts.access import Action
from shared.contracts.files import FileVersion
from shared.contracts.metadata import FileAnswer, GetFile
from shared.contracts.names import MAX_KEY_BYTES, check_bucket_name
from shared.contracts.s3 import S3Attributes, StoredHeader, shown_part_etag
from shared.contracts.uploads import PART_BYTES_MAX, StoredPart
from shared.errors import InvalidNameError, PreconditionFailedError, VersionNotFoundError

ResultT = TypeVar("ResultT")

COPY_BYTES_MAX: Final = PART_BYTES_MAX
_HEADER: Final = "x-amz-copy-source"
_ATTEMPTS_MAX: Final = 4
_REDIRECT: Final[StoredHeader] = "x-amz-website-redirect-location"
_MALFORMED_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_RANGE: Final = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class NamedSource:
    """What a client wants copied. `version` is its id as S3 shows it; None for the current one."""

    name: FileName
    version: str | None


def source_of(header: str) -> NamedSource:
    """What `x-amz-copy-source` names: `[/]bucket/key[?versionId=id]`, of which names are percent-encoded.

    The question mark splits before anything is decoded, so one that belongs to a key is written `%3F`; dots and slashes of the
    key mean nothing.

    Raises:
        S3Error: InvalidArgument.
    """
    path, question, query = header.strip().partition("?")
    name, _, version = query.partition("=")
    if question and (name != "versionId" or not version):
        raise _invalid_source(header, "Invalid copy source query: only versionId is known")
    bucket, slash, key = _decoded(header, path).removeprefix("/").partition("/")
    if not slash or not key:
        raise _invalid_source(header, "Copy NamedSource must mention the source bucket and key: sourcebucket/sourcekey")
    try:
        check_bucket_name(bucket)
    except InvalidNameError as error:
        raise _invalid_source(header, "Invalid copy source bucket name") from error
    if len(key.encode()) > MAX_KEY_BYTES or "\0" in key:
        raise _invalid_source(header, "Invalid copy source object key")
    return NamedSource(FileName(bucket, key), version or None)


def _decoded(header: str, path: str) -> str:
    raw = path.encode("latin-1", "replace")
    if _MALFORMED_ESCAPE.search(raw):
        raise _invalid_source(header, "Invalid copy source encoding.")
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise _invalid_source(header, "Invalid copy source encoding.") from error


def _invalid_source(header: str, message: str) -> S3Error:
    return S3Error("InvalidArgument", message, ArgumentName="x-amz-copy-source", ArgumentValue=header[:1024])


# --- objects --------------------------------------------------------------------------------------------------------


async def copy_object(request: S3Request) -> None:
    """CopyObject: a version of one object becomes the current one of another, or of its own with another description."""
    source, headers = source_of(request.headers[_HEADER]), request.headers
    name, preconditions = FileName(request.bucket, request.key), write_conditions(headers)
    asked = described(headers)
    replaces = _replaces(request, "x-amz-metadata-directive")
    await require_sight(request, name, preconditions)
    tags = (asked.tags or {}) if _replaces(request, "x-amz-tagging-directive") else None

    content = [
        headers[_HEADER],
        replaces,
        asked.content_type,
        asked.user_metadata,
        asked.headers,
        asked.storage_class,
        tags,
    ]
    key = retry_key(request, content, preconditions=preconditions)

    async def copy(found: FileVersion, attempt: int) -> Copied:
        _check_size(found.content.size_bytes)
        target = CopyTarget(
            name=name,
            preconditions=preconditions,
            content_type=asked.content_type if replaces else None,
            user_metadata=asked.user_metadata if replaces else None,
            tags=tags,
            s3=_replaced(asked) if replaces else _kept(request, asked, found, source),
        )
        key_of_attempt = None if key is None else key.of_entry(attempt)
        try:
            return await request.services.copies.copy(CopySource(source.name, found.version), target, key_of_attempt)
        except PreconditionFailedError as error:
            raise condition_failed(error, request.key) from error

    source_id, copied = await _of_source(request, source, copy)
    version = copied.published.version
    request.services.downloads.published(version)
    children = _result(version.stored_ns, s3_etag_of(version), version.s3)
    answer_headers = _source_header(source_id)
    if (version_id := shown_id(request, version)) is not None:
        answer_headers["x-amz-version-id"] = version_id
    await send_xml(request, document("CopyObjectResult", children), 200, answer_headers)


def _replaces(request: S3Request, header: str) -> bool:
    """What a directive says. Raises S3Error, InvalidArgument."""
    value = request.headers.get(header, "COPY")
    if value not in {"COPY", "REPLACE"}:
        raise S3Error("InvalidArgument", "Unknown directive.", ArgumentName=header, ArgumentValue=value[:256])
    return value == "REPLACE"


def _check_size(size_bytes: int) -> None:
    if size_bytes > COPY_BYTES_MAX:
        raise S3Error(
            "InvalidRequest",
            f"The specified copy source is larger than the maximum allowable size for a copy source: {COPY_BYTES_MAX}",
        )


def _replaced(asked: Described) -> S3Attributes:
    return S3Attributes(headers=asked.headers, storage_class=asked.storage_class)


def _kept(request: S3Request, asked: Described, found: FileVersion, source: NamedSource) -> S3Attributes | None:
    """The headers of the source go along; its storage class and where it redirects to do not. None: all is as it was."""
    is_itself = source.version is None and source.name == FileName(request.bucket, request.key)
    asks = "x-amz-storage-class" in request.headers or _REDIRECT in asked.headers
    if is_itself and not asks:
        return None  # without any change, which is refused
    s3 = found.s3 or S3Attributes()
    headers = {name: value for name, value in s3.headers.items() if name != _REDIRECT}
    if _REDIRECT in asked.headers:
        headers[_REDIRECT] = asked.headers[_REDIRECT]
    if not asks and (headers, None) == (s3.headers, s3.storage_class):
        return None
    return S3Attributes(headers=headers, storage_class=asked.storage_class)


def _result(stored_ns: int, etag: str, s3: S3Attributes | None) -> Iterable[str]:
    yield element("LastModified", iso_time(stored_ns))
    yield element("ETag", f'"{etag}"')
    if s3 is not None and s3.checksums:
        yield from checksum_elements(s3.checksums)
        yield element("ChecksumType", s3.checksum_type)


# --- parts ----------------------------------------------------------------------------------------------------------


async def upload_part_copy(request: S3Request) -> None:
    """UploadPartCopy: a part that has bytes of an object."""
    source, services = source_of(request.headers[_HEADER]), request.services
    upload, number = upload_of(request), part_number(request)
    asked_range = _range_of(request.headers.get("x-amz-copy-source-range"))

    async def copy(found: FileVersion, _attempt: int) -> StoredPart:
        size_bytes = found.content.size_bytes
        start, end = asked_range or (0, size_bytes)
        if end > size_bytes:
            raise S3Error("InvalidRange", "The requested range is not satisfiable", ActualObjectSize=str(size_bytes))
        _check_size(end - start)
        part_source = PartSource(source.name, found.version, range_start=start, range_end=end)
        return await services.multipart.copy(upload, number, part_source)

    source_id, part = await _of_source(request, source, copy)
    now_ns = services.clock.stamp().approximate_ns
    children = _result(now_ns, shown_part_etag(part.etag, None if part.s3 is None else part.s3.etag), part.s3)
    await send_xml(request, document("CopyPartResult", children), 200, _source_header(source_id))


def _range_of(header: str | None) -> tuple[int, int] | None:
    """First byte and the one after the last. Raises S3Error, InvalidArgument: another form than `bytes=first-last`."""
    if header is None:
        return None
    match = _RANGE.fullmatch(header.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise S3Error(
            "InvalidArgument",
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
            "zero-based offsets of the first and last bytes to copy",
            ArgumentName="x-amz-copy-source-range",
            ArgumentValue=header[:256],
        )
    return int(match[1]), int(match[2]) + 1


# --- the source -----------------------------------------------------------------------------------------------------


async def _of_source(
    request: S3Request, source: NamedSource, copy: Callable[[FileVersion, int], Awaitable[ResultT]]
) -> tuple[str | None, ResultT]:
    """The id of the version that `source` names, if it shows one, and what `copy` made of it: of one that is still there."""
    for attempt in range(1, _ATTEMPTS_MAX + 1):
        found, keeps_versions = await _look_up(request, source)
        is_shown = keeps_versions or source.version is not None or not found.is_null
        try:
            return version_ids(request.services).of(found) if is_shown else None, await copy(found, attempt)
        except VersionNotFoundError:
            # Replaced meanwhile, in a bucket that keeps no versions.
            if source.version is not None or attempt == _ATTEMPTS_MAX:
                raise
    raise AssertionError("the last attempt returns or raises")


async def _look_up(request: S3Request, source: NamedSource) -> tuple[FileVersion, bool]:
    """The version that `source` names, which meets the conditions of the request about it; whether its bucket keeps versions."""
    name, version = source.name, None
    if source.version is not None:
        version = number_of(request, source.version)
    # Here, for of the file that the path names the log is only asked for what the route does with it: to write it.
    await require(request, Action.READ, name, version)
    answer, _ = await request.services.metadata.read(
        GetFile(bucket=name.bucket, key=name.key, version=version, pages=True)
    )
    if answer.file is None:
        # Whoever may not list it is not told that it is absent.
        await require(request, Action.LIST, name)
        raise _no_source(answer, source)
    conditions = read_conditions(request.headers, COPY_SOURCE)
    if conditions.is_not_modified(as_shown(answer.file)):
        raise S3Error("PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    return answer.file, answer.keeps_versions


def _no_source(answer: FileAnswer, source: NamedSource) -> S3Error:
    if not answer.has_bucket:
        return S3Error("NoSuchBucket", "The specified bucket does not exist", BucketName=source.name.bucket)
    if source.version is None:
        headers = {"x-amz-delete-marker": "true"} if answer.is_marker else {}
        return S3Error("NoSuchKey", "The specified key does not exist.", headers=headers, Key=source.name.key)
    if answer.is_marker:
        return S3Error(
            "InvalidRequest",
            "The source of a copy request may not specifically refer to a delete marker by version id.",
        )
    message = "The specified version does not exist."
    return S3Error("NoSuchVersion", message, Key=source.name.key, VersionId=source.version)


def _source_header(version_id: str | None) -> dict[str, str]:
    return {} if version_id is None else {"x-amz-copy-source-version-id": version_id}
