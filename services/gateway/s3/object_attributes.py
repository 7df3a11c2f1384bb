"""GetObjectAttributes: what is known of an object, as a document."""

from __future__ import annotations

import re
from typing import Final

from services.gateway.api.requests import client_of
from services.gateway.s3.answers import send_xml
from services.gateway.s3.errors import S3Error
from services.gateway.s3.object_headers import s3_etag_of
from services.gateway.s3.object_versions import asked_version, name_of, refuse, shown_id
from services.gateway.s3.objects import part_count
from services.gateway.s3.requests import S3Request
from services.gateway.s3.xml_documents import document, element, group
from services.gateway.semantics.http_dates import http_date
from shared.contracts.files import FileVersion
from shared.errors import TrivetError

_HEADER: Final = "x-amz-object-attributes"
_NAMES: Final = ("ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_PAGING: Final = ("x-amz-max-parts", "x-amz-part-number-marker")


async def get_object_attributes(request: S3Request) -> None:
    """GetObjectAttributes. Of the parts only their number is told: checksums of single parts are not kept."""
    wanted = _wanted(request)
    for name in _PAGING:
        if not _NUMBER.fullmatch(request.headers.get(name, "0")):
            raise S3Error("InvalidArgument", f"{name} is a number.", ArgumentName=name)
    try:
        async with request.services.downloads.open(
            name_of(request), client_of(request.scope), version=asked_version(request)
        ) as found:
            version, keeps_versions = found.version, found.keeps_versions
    except TrivetError as error:
        await refuse(request, error)
    headers = {"last-modified": http_date(version.stored_ns)}
    if (shown := shown_id(request, version, keeps_versions=keeps_versions)) is not None:
        headers["x-amz-version-id"] = shown
    children = [text for name in _NAMES if name in wanted for text in _attribute(name, version)]
    await send_xml(request, document("GetObjectAttributesResponse", children), headers=headers)


def _wanted(request: S3Request) -> set[str]:
    names = {name for each in request.headers.get(_HEADER, "").split(",") if (name := each.strip())}
    if not names or not names.issubset(_NAMES):
        raise S3Error(
            "InvalidArgument",
            "Invalid attribute name specified.",
            ArgumentName=_HEADER,
            ArgumentValue=", ".join(_NAMES),
        )
    return names


def _attribute(name: str, version: FileVersion) -> list[str]:
    s3 = version.s3
    if name == "ETag":
        return [element("ETag", s3_etag_of(version))]
    if name == "ObjectSize":
        return [element("ObjectSize", version.content.size_bytes)]
    if name == "StorageClass":
        return [element("StorageClass", (None if s3 is None else s3.storage_class) or "STANDARD")]
    if name == "ObjectParts":
        count = part_count(version)
        return [] if count is None else [group("ObjectParts", [element("PartsCount", count)])]
    if s3 is None or not s3.checksums:
        return []
    checksums = [element(f"Checksum{each.upper()}", value) for each, value in s3.checksums.items()]
    return [group("Checksum", [*checksums, element("ChecksumType", s3.checksum_type)])]
