"""What S3 tells of a version that `/v1` does not know. Part of the commands and answers of files and uploads.

`/v1` reads it never; a version that was put by `/v1` has none, and S3 then shows an ETag that no client takes for an MD5.
`shown_etag` is the one place that says which: what S3 shows, lists and accepts as a condition.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import WireModel

S3Etag = Annotated[str, Field(pattern=r"^[0-9a-f]{32}(-[0-9]{1,5})?$")]
"""MD5 of the bytes in lower-case hex; of an upload by parts that of the parts' MD5s, and how many parts. Without quotes."""

Checksum = Literal["crc32", "crc32c", "crc64nvme", "sha1", "sha256"]
ChecksumType = Literal["FULL_OBJECT", "COMPOSITE"]
StoredHeader = Literal[
    "content-encoding",
    "content-disposition",
    "content-language",
    "cache-control",
    "expires",
    "x-amz-website-redirect-location",
]


class S3Attributes(WireModel):
    """Of one version, or of one part.

    Attributes:
        etag: None where it is not known: of a part that is a range of a file.
        checksums: base64; of type COMPOSITE with the number of parts behind a dash.
        headers: answered as they came with GET and HEAD.
        storage_class: None for STANDARD.
        part_sizes: of an upload by parts, as runs of (bytes, how many parts of that size follow each other).
    """

    etag: S3Etag | None = None
    checksums: dict[Checksum, str] = Field(default_factory=dict)
    checksum_type: ChecksumType = "FULL_OBJECT"
    headers: dict[StoredHeader, str] = Field(default_factory=dict)
    storage_class: str | None = None
    part_sizes: list[tuple[int, int]] = Field(default_factory=list)


def shown_etag(etag: str, s3_etag: str | None) -> str:
    """What S3 shows of a version whose entity tag is `etag`, without quotes. No client compares what has a dash to an MD5."""
    return f"{etag}-0" if s3_etag is None else s3_etag


def shown_part_etag(etag: str, s3_etag: str | None) -> str:
    """The same of a part: 32 hex digits, the MD5 where it is known."""
    return etag[:32] if s3_etag is None else s3_etag


class S3UploadAttributes(WireModel):
    """Of an upload by parts: what its version will have, and which checksum its parts are to have."""

    checksum: Checksum | None = None
    checksum_type: ChecksumType = "FULL_OBJECT"
    headers: dict[StoredHeader, str] = Field(default_factory=dict)
    storage_class: str | None = None
