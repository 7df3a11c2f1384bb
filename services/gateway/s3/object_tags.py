"""GetObjectTagging, PutObjectTagging, DeleteObjectTagging: the tags of an object, or of one version of it."""

from __future__ import annotations

from typing import Final

from services.gateway.s3.answers import send_empty, send_xml
from services.gateway.s3.object_headers import tags_of
from services.gateway.s3.object_versions import asked_id, asked_version, name_of, refuse
from services.gateway.s3.request_documents import read_document
from services.gateway.s3.requests import S3Request
from services.gateway.s3.retries import retry_key
from services.gateway.s3.tag_sets import tag_pairs, tagging_document
from services.gateway.s3.version_ids import NULL
from services.gateway.s3.xml_documents import Element
from shared.errors import TrivetError
from shared.units import KIB

DOCUMENT_BYTES_MAX: Final = 64 * KIB


async def get_object_tagging(request: S3Request) -> None:
    """GetObjectTagging. Without tags the set is empty."""
    try:
        tagged = await request.services.tags.read(name_of(request), asked_version(request))
    except TrivetError as error:
        await refuse(request, error)
    await send_xml(request, tagging_document(tagged.tags), headers=_version_header(request))


async def put_object_tagging(request: S3Request) -> None:
    """PutObjectTagging: all tags are replaced."""
    tags = tag_set(await read_document(request, "Tagging", limit_bytes=DOCUMENT_BYTES_MAX))
    await _set(request, tags)
    await send_empty(request, 200, _version_header(request))


async def delete_object_tagging(request: S3Request) -> None:
    """DeleteObjectTagging."""
    await _set(request, None)
    await send_empty(request, 204, _version_header(request))


async def _set(request: S3Request, tags: dict[str, str] | None) -> None:
    try:
        version = asked_version(request)
        await request.services.tags.set(name_of(request), version, tags, retry_key(request, [version, tags]))
    except TrivetError as error:
        await refuse(request, error)


def tag_set(root: Element) -> dict[str, str]:
    """The tags of a document. Raises S3Error: MalformedXML, or as `tags_of`."""
    return tags_of(tag_pairs(root))


def _version_header(request: S3Request) -> dict[str, str]:
    """The version that was asked for; without one none is told."""
    text = asked_id(request)
    return {} if text is None or text == NULL else {"x-amz-version-id": text}
