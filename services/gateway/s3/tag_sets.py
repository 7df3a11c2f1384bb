"""Tags as XML, of buckets and of objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.gateway.s3.errors import S3Error
from services.gateway.s3.xml_documents import Element, document, element, group, malformed, text_of
from shared.contracts.names import TAG_NAME_MAX, TAG_VALUE_MAX

BUCKET_TAGS_MAX: Final = 50
_SYSTEM: Final = "aws:"


def tag_pairs(tagging: Element) -> list[tuple[str, str]]:
    """The tags of a document `Tagging`, in its order. Raises S3Error: MalformedXML."""
    sets = tagging.findall("TagSet")
    if len(sets) != 1 or len(tagging) != 1 or any(tag.tag != "Tag" for tag in sets[0]):
        raise malformed()
    pairs: list[tuple[str, str]] = []
    for tag in sets[0]:
        name, value = text_of(tag, "Key"), text_of(tag, "Value")
        if name is None or value is None:
            raise malformed()
        pairs.append((name, value))
    return pairs


def bucket_tags_of(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The tags of a bucket. Raises S3Error: BadRequest where they are too many, else InvalidTag."""
    tags = dict(pairs)
    if len(pairs) > BUCKET_TAGS_MAX:
        raise S3Error("BadRequest", f"Bucket tag count cannot be greater than {BUCKET_TAGS_MAX}")
    if len(tags) < len(pairs):
        raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key")
    for name, value in tags.items():
        if not 1 <= len(name) <= TAG_NAME_MAX:
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid", TagKey=name[:TAG_NAME_MAX])
        if name.startswith(_SYSTEM):
            raise S3Error("InvalidTag", "System tags cannot be added/updated by requester", TagKey=name)
        if len(value) > TAG_VALUE_MAX:
            raise S3Error("InvalidTag", "The TagValue you have provided is invalid", TagKey=name)
    return tags


def tagging_document(tags: Mapping[str, str]) -> bytes:
    """The document `Tagging`."""
    rows = (group("Tag", (element("Key", name), element("Value", value))) for name, value in tags.items())
    return document("Tagging", (group("TagSet", rows),))
