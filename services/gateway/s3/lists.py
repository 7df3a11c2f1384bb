"""Lists of objects, versions, uploads and parts, as documents.

One page is filled by as many reads as it takes: the log answers fewer rows than it was asked for where it had to walk over many
that the list does not show, and some clients take a short page for the last one. A name in a query is where to go on behind; one
that lies in a common prefix goes on behind all of it, so each common prefix comes once in a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

from services.gateway.s3.answers import send_xml
from services.gateway.s3.errors import S3Error
from services.gateway.s3.list_tokens import START, ListName, ListPosition, open_token, seal_token
from services.gateway.s3.owners import Owner, owner_of_all
from services.gateway.s3.requests import S3Request
from services.gateway.s3.upload_ids import open_upload_id, seal_upload_id
from services.gateway.s3.version_ids import NULL, VersionIds, version_ids
from services.gateway.s3.xml_documents import document, element, escape, iso_time
from services.gateway.transfers.part_publication import UploadId
from shared.contracts.metadata import FileEntry, FilePage, ListFiles
from shared.contracts.objects import ListVersions, VersionEntry, VersionPage
from shared.contracts.s3 import S3UploadAttributes, shown_etag, shown_part_etag
from shared.contracts.uploads import PART_NUMBER_MAX, ListUploads, Upload, UploadPage, UploadPart
from shared.errors import BucketNotFoundError, CursorExpiredError

LIMIT_MAX: Final = 1000
STANDARD: Final = "STANDARD"

_NUMBER_MAX: Final = 2**31 - 1
_READS_MAX: Final = 64
"""Of one page that shows something."""

_EMPTY_READS_MAX: Final = 1024
_BEFORE_ALL: Final = 2**63 - 1
_NUMBER: Final = re.compile(r"[0-9]{1,10}")

Names = Callable[[str], str]
"""How a name stands in the document."""


@dataclass(frozen=True, slots=True)
class _AskedList:
    """What lists of names are asked for. `limit` is at most `LIMIT_MAX`; 0 shows nothing."""

    bucket: str
    prefix: str
    delimiter: str | None
    limit: int
    is_encoded: bool

    @classmethod
    def of(cls, request: S3Request, limit_name: str = "max-keys") -> Self:
        target = request.target
        encoding = target.value("encoding-type") or ""
        if encoding not in {"", "url"}:
            raise invalid("encoding-type", encoding, "Invalid Encoding Method specified in Request")
        return cls(
            bucket=target.bucket,
            prefix=target.value("prefix") or "",
            delimiter=target.value("delimiter") or None,
            limit=number(request, limit_name, LIMIT_MAX),
            is_encoded=encoding == "url",
        )

    @property
    def name(self) -> ListName:
        return ListName(self.bucket, self.prefix, self.delimiter)

    @property
    def query(self) -> dict[str, Any]:
        """Of a query of the log; where nothing is to be shown, it still says whether there is such a bucket."""
        limit = max(self.limit, 1)
        return {"bucket": self.bucket, "prefix": self.prefix, "delimiter": self.delimiter, "limit": limit}

    def common_prefix(self, name: str) -> str | None:
        """The common prefix that `name` is shown as; None where it is shown itself."""
        if self.delimiter is None or not name.startswith(self.prefix):
            return None
        at = name.find(self.delimiter, len(self.prefix))
        return None if at < 0 else name[: at + len(self.delimiter)]

    def behind(self, name: str) -> ListPosition:
        """The position behind a name that a client gives."""
        common = self.common_prefix(name)
        return ListPosition(after_key=name) if common is None else ListPosition(after_prefix=common)

    def encode(self, name: str) -> str:
        """A key, a prefix or a marker, as it stands in the document."""
        return quote(name, safe="/") if self.is_encoded else escape(name)

    def name_element(self, name: str, value: str | None) -> str:
        """Nothing where the value is None."""
        return "" if value is None else f"<{name}>{self.encode(value)}</{name}>"

    def head(self) -> Iterable[str]:
        yield self.name_element("Prefix", self.prefix)
        yield self.name_element("Delimiter", self.delimiter)
        if self.is_encoded:
            yield element("EncodingType", "url")

    def common_prefixes(self, prefixes: Iterable[str]) -> Iterable[str]:
        return (f"<CommonPrefixes><Prefix>{self.encode(each)}</Prefix></CommonPrefixes>" for each in prefixes)


@dataclass(frozen=True, slots=True)
class _PagePlace:
    """How much of a page is there, and how the query goes on."""

    shown: int
    query: Mapping[str, Any]


PageT = TypeVar("PageT", FilePage, VersionPage, UploadPage)


async def _read(request: S3Request, query: Any, take: Callable[[PageT, int], _PagePlace]) -> None:
    """Read pages until one is full or the last. `take` gets each with its index."""
    limit, shown = query.limit, 0
    for reads in range(1, _EMPTY_READS_MAX):
        page, context = await request.services.metadata.read(query)
        if not page.has_bucket:
            raise BucketNotFoundError("There is no such bucket.", bucket=query.bucket)
        place = take(page, context.log_index)
        shown += place.shown
        if not page.has_more or shown >= limit or (shown and reads >= _READS_MAX):
            return
        query = query.model_copy(update={**place.query, "limit": limit - shown})


def number(request: S3Request, name: str, limit: int, default: int | None = None) -> int:
    """A number of the query, `limit` at most.

    Raises:
        S3Error: InvalidArgument, it is none.
    """
    text = request.target.value(name)
    if not text:
        return limit if default is None else default
    if not _NUMBER.fullmatch(text) or int(text) > _NUMBER_MAX:
        raise invalid(name, text, f"Argument {name} must be an integer between 0 and {_NUMBER_MAX}")
    return min(int(text), limit)


def invalid(name: str, value: str, message: str) -> S3Error:
    """InvalidArgument about one parameter."""
    return S3Error("InvalidArgument", message, ArgumentName=name, ArgumentValue=value[:1024])


# --- objects --------------------------------------------------------------------------------------------------------


async def list_objects(request: S3Request) -> None:
    """ListObjects, the first form: goes on behind a name that the client gives."""
    asked = _AskedList.of(request)
    marker = request.target.value("marker") or ""
    files = await _files(request, asked, asked.behind(marker))
    # Without a delimiter clients go on behind the last key; a page that shows nothing has none.
    has_marker = files.has_more and (asked.delimiter is not None or not files.rows)
    children = [
        element("Name", asked.bucket),
        *asked.head(),
        asked.name_element("Marker", marker),
        asked.name_element("NextMarker", files.last_name if has_marker else None),
        element("MaxKeys", asked.limit),
        element("IsTruncated", files.has_more),
        *files.elements(asked, owner_of_all(request.services).xml()),
    ]
    await send_xml(request, document("ListBucketResult", children))


async def list_objects_v2(request: S3Request) -> None:
    """ListObjectsV2: goes on where a token says; its pages are of one index of the log while that can be read."""
    asked, target, sealer = _AskedList.of(request), request.target, request.services.cursors
    token, start_after = target.value("continuation-token"), target.value("start-after")
    if token:
        position, at_index = open_token(sealer, asked.name, token)
        try:
            files = await _files(request, asked, position, at_index)
        except CursorExpiredError:
            files = await _files(request, asked, position)
    else:
        files = await _files(request, asked, asked.behind(start_after or ""))
    owner = owner_of_all(request.services).xml() if target.value("fetch-owner") == "true" else ""
    children = [
        element("Name", asked.bucket),
        *asked.head(),
        asked.name_element("StartAfter", start_after or None),
        "" if token is None else element("ContinuationToken", token),
        element("KeyCount", len(files.rows) + len(files.prefixes)),
        element("MaxKeys", asked.limit),
        element("IsTruncated", files.has_more),
    ]
    if files.has_more:
        next_token = seal_token(sealer, asked.name, files.position, files.at_index)
        children.append(element("NextContinuationToken", next_token))
    children += files.elements(asked, owner)
    await send_xml(request, document("ListBucketResult", children))


@dataclass(slots=True)
class _Files:
    """One page. `position` is where the next one begins."""

    rows: list[FileEntry] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    has_more: bool = False
    position: ListPosition = START
    at_index: int = 0

    def take(self, page: FilePage, log_index: int) -> _PagePlace:
        self.rows += page.files
        self.prefixes += page.prefixes
        self.has_more, self.position = page.has_more, ListPosition(page.last_key, page.last_prefix)
        self.at_index = page.at_index or log_index
        place = {"after_key": page.last_key, "after_prefix": page.last_prefix, "at_index": self.at_index}
        return _PagePlace(len(page.files) + len(page.prefixes), place)

    @property
    def last_name(self) -> str:
        """The greatest of what is shown; of a page that shows nothing, where it ended."""
        shown = [*(row.key for row in self.rows[-1:]), *self.prefixes[-1:]]
        return max(shown, key=str.encode, default=self.position.after_prefix or self.position.after_key or "")

    def elements(self, asked: _AskedList, owner: str) -> Iterable[str]:
        encode = asked.encode
        for row in self.rows:
            yield (
                f"<Contents><Key>{encode(row.key)}</Key>"
                f"<LastModified>{iso_time(row.stored_ns or row.modified_ns)}</LastModified>"
                f"<ETag>&quot;{shown_etag(row.etag, row.s3_etag)}&quot;</ETag><Size>{row.size_bytes}</Size>"
                f"{owner}<StorageClass>{row.storage_class or STANDARD}</StorageClass></Contents>"
            )
        yield from asked.common_prefixes(self.prefixes)


async def _files(request: S3Request, asked: _AskedList, position: ListPosition, at_index: int | None = None) -> _Files:
    place = {"after_key": position.after_key, "after_prefix": position.after_prefix, "at_index": at_index}
    files = _Files()
    await _read(request, ListFiles(**asked.query, **place), files.take)
    return files if asked.limit else _Files()


# --- versions -------------------------------------------------------------------------------------------------------


async def list_object_versions(request: S3Request) -> None:
    """ListObjectVersions: versions and delete markers, those of a key from the latest on, as they are by now."""
    asked, target, ids = _AskedList.of(request), request.target, version_ids(request.services)
    key_marker, version_marker = target.value("key-marker") or "", target.value("version-id-marker") or ""
    if version_marker and not key_marker:
        message = "A version-id marker cannot be specified without a key marker."
        raise invalid("version-id-marker", version_marker, message)
    place = await _version_place(request, asked, key_marker, version_marker)
    versions = _Versions()
    await _read(request, ListVersions(**asked.query, **place), versions.take)
    if not asked.limit:
        versions = _Versions()
    next_version = None if versions.last_version is None else ids.seal(versions.last_version, is_null=False)
    children = [
        element("Name", asked.bucket),
        *asked.head(),
        asked.name_element("KeyMarker", key_marker),
        element("VersionIdMarker", version_marker),
        asked.name_element("NextKeyMarker", versions.last_key),
        "" if next_version is None else element("NextVersionIdMarker", next_version),
        element("MaxKeys", asked.limit),
        element("IsTruncated", versions.has_more),
        *versions.elements(asked, ids, owner_of_all(request.services).xml()),
    ]
    await send_xml(request, document("ListVersionsResult", children))


@dataclass(slots=True)
class _Versions:
    """One page. The next one begins after `last_key` and `last_version`, None on the last page; see `VersionPage`.

    The marker that the next page is asked for with is made of the row's id in the log even where its version is called `null`.
    """

    rows: list[VersionEntry] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    has_more: bool = False
    last_key: str | None = None
    last_version: int | None = None

    def take(self, page: VersionPage, _log_index: int) -> _PagePlace:
        self.rows += page.versions
        self.prefixes += page.prefixes
        self.has_more, self.last_key, self.last_version = page.has_more, page.last_key, page.last_version
        place = {"after_key": page.last_key, "after_version": page.last_version}
        return _PagePlace(len(page.versions) + len(page.prefixes), place)

    def elements(self, asked: _AskedList, ids: VersionIds, owner: str) -> Iterable[str]:
        encode = asked.encode
        for row in self.rows:
            version_id = ids.seal(row.version_id or row.version, is_null=row.is_null)
            head = (
                f"<Key>{encode(row.key)}</Key><VersionId>{version_id}</VersionId>"
                f"<IsLatest>{'true' if row.is_current else 'false'}</IsLatest>"
                f"<LastModified>{iso_time(row.stored_ns or row.modified_ns)}</LastModified>"
            )
            if row.is_marker:
                yield f"<DeleteMarker>{head}{owner}</DeleteMarker>"
            else:
                etag = shown_etag(row.etag, row.s3_etag)
                yield (
                    f"<Version>{head}<ETag>&quot;{etag}&quot;</ETag><Size>{row.size_bytes}</Size>"
                    f"{owner}<StorageClass>{row.storage_class or STANDARD}</StorageClass></Version>"
                )
        yield from asked.common_prefixes(self.prefixes)


async def _version_place(request: S3Request, asked: _AskedList, key: str, version_id: str) -> Mapping[str, Any]:
    if not key:
        return {}
    if (common := asked.common_prefix(key)) is not None:
        return {"after_key": common}
    if not version_id:
        return {"after_key": key}
    try:
        version = version_ids(request.services).open(version_id)
    except S3Error as error:
        raise invalid("version-id-marker", version_id, "Invalid version id specified") from error
    return {
        "after_key": key,
        "after_version": await _place_of_null(request, asked.bucket, key) if version == NULL else version,
    }


async def _place_of_null(request: S3Request, bucket: str, key: str) -> int:
    """The id behind the word; where there is none, before all others: better shown twice than not at all."""
    versions = _Versions()
    await _read(request, ListVersions(bucket=bucket, key=key), versions.take)
    return next((row.version_id or row.version for row in versions.rows if row.is_null), _BEFORE_ALL)


# --- uploads --------------------------------------------------------------------------------------------------------


async def list_multipart_uploads(request: S3Request) -> None:
    """ListMultipartUploads: by key, and those of a key in the order in which they began, as they are by now."""
    asked, target = _AskedList.of(request, "max-uploads"), request.target
    key_marker, upload_marker = target.value("key-marker") or "", target.value("upload-id-marker") or ""
    uploads = _Uploads()
    place = _upload_place(request, asked, key_marker, upload_marker)
    await _read(request, ListUploads(**asked.query, **place), uploads.take)
    if not asked.limit:
        uploads = _Uploads()
    children = [
        element("Bucket", asked.bucket),
        *asked.head(),
        asked.name_element("KeyMarker", key_marker),
        element("UploadIdMarker", upload_marker),
        *uploads.next_markers(request, asked),
        element("MaxUploads", asked.limit),
        element("IsTruncated", uploads.has_more),
        *uploads.elements(request, asked),
    ]
    await send_xml(request, document("ListMultipartUploadsResult", children))


@dataclass(slots=True)
class _Uploads:
    """One page."""

    rows: list[Upload] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    has_more: bool = False
    last_prefix: str | None = None

    def take(self, page: UploadPage, _log_index: int) -> _PagePlace:
        self.rows += page.uploads
        self.prefixes += page.prefixes
        self.has_more = page.has_more
        self.last_prefix = page.last_key if page.last_upload is None else None
        place = {"after_key": page.last_key, "after_upload": page.last_upload}
        return _PagePlace(len(page.uploads) + len(page.prefixes), place)

    def next_markers(self, request: S3Request, asked: _AskedList) -> Iterable[str]:
        if not self.has_more:
            return
        if self.last_prefix is not None:
            yield asked.name_element("NextKeyMarker", self.last_prefix)
            yield element("NextUploadIdMarker", "")
        else:
            last = self.rows[-1]
            yield asked.name_element("NextKeyMarker", last.key)
            yield element("NextUploadIdMarker", upload_id(request, last))

    def elements(self, request: S3Request, asked: _AskedList) -> Iterable[str]:
        owner = owner_of_all(request.services)
        for upload in self.rows:
            yield (
                f"<Upload><Key>{asked.encode(upload.key)}</Key><UploadId>{upload_id(request, upload)}</UploadId>"
                f"<Initiated>{iso_time(upload.created_ns)}</Initiated>{''.join(_upload_facts(upload, owner))}</Upload>"
            )
        yield from asked.common_prefixes(self.prefixes)


def upload_id(request: S3Request, upload: Upload) -> str:
    """As clients know it."""
    return seal_upload_id(request.services.cursors, upload.bucket, upload.key, UploadId(upload.upload, upload.nonce))


def _upload_facts(upload: Upload, owner: Owner) -> Iterable[str]:
    s3 = upload.s3 or S3UploadAttributes()
    yield owner.xml("Initiator")
    yield owner.xml("Owner")
    yield element("StorageClass", s3.storage_class or STANDARD)
    if s3.checksum is not None:
        yield element("ChecksumAlgorithm", s3.checksum.upper())
        yield element("ChecksumType", s3.checksum_type)


def _upload_place(request: S3Request, asked: _AskedList, key: str, upload_text: str) -> Mapping[str, Any]:
    if not key:
        return {}
    if (common := asked.common_prefix(key)) is not None:
        return {"after_key": common}
    if not upload_text:
        return {"after_key": key}
    try:
        upload = open_upload_id(request.services.cursors, asked.bucket, key, upload_text)
    except S3Error as error:
        raise invalid("upload-id-marker", upload_text, "Invalid uploadId marker") from error
    return {"after_key": key, "after_upload": upload.upload}


# --- parts ----------------------------------------------------------------------------------------------------------


async def list_parts(request: S3Request) -> None:
    """ListParts: of an upload under way, by number."""
    text = request.target.value("uploadId") or ""
    asked_upload = open_upload_id(request.services.cursors, request.bucket, request.key, text)
    limit = number(request, "max-parts", LIMIT_MAX)
    after = number(request, "part-number-marker", PART_NUMBER_MAX, default=0)
    upload, answer = await request.services.multipart.page(asked_upload, after_part=after, limit=max(limit, 1))
    parts, has_more = (answer.parts, answer.has_more) if limit else ([], False)
    children = [
        element("Bucket", request.bucket),
        element("Key", request.key),
        element("UploadId", text),
        *_upload_facts(upload, owner_of_all(request.services)),
        element("PartNumberMarker", after),
        element("NextPartNumberMarker", parts[-1].number if parts else 0),
        element("MaxParts", limit),
        element("IsTruncated", has_more),
        *map(_part, parts),
    ]
    await send_xml(request, document("ListPartsResult", children))


def _part(part: UploadPart) -> str:
    checksums = "".join(checksum_elements(part.checksums))
    return (
        f"<Part><PartNumber>{part.number}</PartNumber><LastModified>{iso_time(part.modified_ns)}</LastModified>"
        f"<ETag>&quot;{shown_part_etag(part.etag, part.s3_etag)}&quot;</ETag><Size>{part.size_bytes}</Size>{checksums}</Part>"
    )


def checksum_elements(checksums: Mapping[Any, str]) -> Iterable[str]:
    """Such as `<ChecksumCRC32>`."""
    return (element(f"Checksum{name.upper()}", value) for name, value in checksums.items())
