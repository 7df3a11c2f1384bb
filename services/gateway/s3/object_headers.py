"""Headers of objects: what a client wants kept with one, and what an answer says of one.

Those that are not understood do not come as far as here (`header_rules`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, get_args
from urllib.parse import parse_qsl

from services.gateway.s3.checksums import checksum_headers, encoded
from services.gateway.s3.errors import S3Error
from services.gateway.s3.requests import RequestTarget
from services.gateway.semantics.file_headers import MAX_METADATA_BYTES, checked_metadata, content_type
from services.gateway.semantics.http_dates import http_date
from shared.contracts.files import FileVersion
from shared.contracts.names import check_tags
from shared.contracts.s3 import S3Attributes, StoredHeader, shown_etag
from shared.errors import InvalidRequestError, InvalidTagsError

META_PREFIX: Final = "x-amz-meta-"
DEFAULT_CONTENT_TYPE: Final = "binary/octet-stream"
STORED_HEADERS: Final[tuple[StoredHeader, ...]] = get_args(StoredHeader)
TAGS_MAX: Final = 10

_RESPONSE_HEADERS: Final[Mapping[str, str]] = {
    "response-content-type": "content-type",
    "response-content-language": "content-language",
    "response-expires": "expires",
    "response-cache-control": "cache-control",
    "response-content-disposition": "content-disposition",
    "response-content-encoding": "content-encoding",
}
_OF_NOT_MODIFIED: Final = ("cache-control", "expires")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_REDIRECTS: Final = ("/", "http://", "https://")
_STANDARD: Final = "STANDARD"
_STORAGE_CLASSES: Final = frozenset(
    {"STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"}
)
"""Names that clients give objects; all are stored alike. Those that would have to be restored before a read are not offered."""


# --- what is to be kept -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Described:
    """What the headers of an upload or copy say of the object to be. `storage_class` is None for STANDARD."""

    content_type: str
    user_metadata: dict[str, str]
    headers: dict[StoredHeader, str]
    storage_class: str | None
    tags: dict[str, str] | None

    def attributes(self) -> S3Attributes | None:
        """What of it S3 alone knows; None where that is nothing."""
        if not self.headers and self.storage_class is None:
            return None
        return S3Attributes(headers=self.headers, storage_class=self.storage_class)


def described(headers: Mapping[str, str]) -> Described:
    """What is to be kept with an object.

    Raises:
        S3Error: one is malformed or too long, or asks for what is not offered.
    """
    metadata: dict[str, str] = {}
    for name, value in headers.items():
        if name.startswith(META_PREFIX):
            metadata[name.removeprefix(META_PREFIX)] = _metadata_value(value)
    tagging = headers.get("x-amz-tagging")
    return Described(
        content_type=_content_type(headers),
        user_metadata=_checked(metadata),
        headers=_stored_headers(headers),
        storage_class=_storage_class(headers.get("x-amz-storage-class")),
        tags=None if tagging is None else tags_of_header(tagging),
    )


def _content_type(headers: Mapping[str, str]) -> str:
    value = headers.get("content-type", "")
    if not value.strip():
        return DEFAULT_CONTENT_TYPE
    try:
        return content_type([value])
    except InvalidRequestError as error:
        raise S3Error("InvalidArgument", error.message, ArgumentName="Content-Type") from error


def _metadata_value(value: str) -> str:
    """As it is kept. What is not ASCII is encoded as S3 gives it back (RFC 2047)."""
    value = value.strip()
    return value if value.isascii() else f"=?UTF-8?B?{encoded(as_sent(value).encode())}?="


def as_sent(value: str) -> str:
    """The text of a header, whose bytes are one character each, as the client had it: UTF-8 where it is that."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _checked(metadata: dict[str, str]) -> dict[str, str]:
    try:
        return checked_metadata(metadata)
    except InvalidRequestError as error:
        if "value_limit_bytes" in error.facts:
            raise _too_large() from error
        raise S3Error("InvalidArgument", error.message, ArgumentName="x-amz-meta-") from error


def _stored_headers(headers: Mapping[str, str]) -> dict[StoredHeader, str]:
    found: dict[StoredHeader, str] = {}
    for name in STORED_HEADERS:
        if (value := headers.get(name)) is None:
            continue
        if name == "x-amz-website-redirect-location" and not value.startswith(_REDIRECTS):
            raise S3Error(
                "InvalidRedirectLocation",
                "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.",
            )
        if value:
            found[name] = value
    if found:
        if any(_CONTROL.search(value.replace("\t", " ")) for value in found.values()):
            raise S3Error("InvalidArgument", "A header has no control characters.")
        if sum(len(name) + len(value) for name, value in found.items()) > MAX_METADATA_BYTES:
            raise _too_large()
    return found


def _storage_class(value: str | None) -> str | None:
    if value is None or value == _STANDARD:
        return None
    if value not in _STORAGE_CLASSES:
        raise S3Error("InvalidStorageClass", "The storage class you specified is not valid")
    return value


def _too_large() -> S3Error:
    return S3Error(
        "MetadataTooLarge",
        "Your metadata headers exceed the maximum allowed metadata size",
        MaxSizeAllowed=str(MAX_METADATA_BYTES),
    )


def tags_of_header(value: str) -> dict[str, str]:
    """Tags written as the query of a URL. Raises S3Error, InvalidArgument; otherwise as `tags_of`."""
    try:
        pairs = parse_qsl(as_sent(value), keep_blank_values=True, errors="strict", max_num_fields=64)
    except ValueError as error:
        raise S3Error(
            "InvalidArgument",
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name "
            "duplicates.",
            ArgumentName="x-amz-tagging",
            ArgumentValue=value[:256],
        ) from error
    return tags_of(pairs)


def tags_of(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The tags of an object. Raises S3Error: BadRequest where they are too many, else InvalidTag."""
    tags = dict(pairs)
    if len(pairs) > TAGS_MAX:
        raise S3Error("BadRequest", f"Object tags cannot be greater than {TAGS_MAX}")
    if len(tags) < len(pairs):
        raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key")
    try:
        return check_tags(tags)
    except InvalidTagsError as error:
        raise S3Error("InvalidTag", error.message) from error


# --- what answers say ---------------------------------------------------------------------------------------------


def s3_etag_of(version: FileVersion) -> str:
    """The entity tag that S3 shows, without quotes."""
    return shown_etag(version.etag, None if version.s3 is None else version.s3.etag)


def published_headers(version: FileVersion, version_id: str | None) -> dict[str, str]:
    """Of the answer to what made `version` the current one. `version_id`: as S3 shows it; None where it shows none."""
    return _validators(version, version_id) | checksum_headers(version.s3)


def not_modified_headers(version: FileVersion, version_id: str | None) -> dict[str, str]:
    """Of a 304."""
    headers = _validators(version, version_id)
    headers["last-modified"] = http_date(version.stored_ns)
    if version.s3 is not None:
        headers.update({name: value for name, value in version.s3.headers.items() if name in _OF_NOT_MODIFIED})
    return headers


def object_headers(version: FileVersion, version_id: str | None) -> dict[str, str]:
    """Of an answer that has the object or describes it, without those that depend on what of it is sent."""
    headers = _validators(version, version_id)
    headers["last-modified"] = http_date(version.stored_ns)
    headers["accept-ranges"] = "bytes"
    headers["content-type"] = version.content_type
    if (s3 := version.s3) is not None:
        for stored, value in s3.headers.items():
            headers[stored] = value
        if s3.storage_class is not None:
            headers["x-amz-storage-class"] = s3.storage_class
    if version.tags:
        headers["x-amz-tagging-count"] = str(len(version.tags))
    for name, value in version.user_metadata.items():
        headers[META_PREFIX + name] = value
    return headers


def _validators(version: FileVersion, version_id: str | None) -> dict[str, str]:
    headers = {"etag": f'"{s3_etag_of(version)}"'}
    if version_id is not None:
        headers["x-amz-version-id"] = version_id
    return headers


def response_overrides(target: RequestTarget, *, is_signed: bool) -> dict[str, str]:
    """The headers of the answer that the query names.

    Raises:
        S3Error: InvalidRequest, nobody has signed them; InvalidArgument, one would not be a header.
    """
    found: dict[str, str] = {}
    for name, value in target.query:
        if (header := _RESPONSE_HEADERS.get(name)) is None:
            continue
        if not is_signed:
            raise S3Error(
                "InvalidRequest", "Request specific response headers cannot be used for anonymous GET requests."
            )
        if _CONTROL.search(value):
            raise S3Error("InvalidArgument", "A header has no control characters.", ArgumentName=name)
        # Header fields are bytes, which ASGI has as one character each.
        found[header] = value.encode("utf-8", "surrogatepass").decode("latin-1")
    return found
