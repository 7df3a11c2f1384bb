"""The JSON bodies of uploads by parts."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from services.gateway.api.models import PATH_UNSAFE, example
from services.gateway.api.object_models import CopySourceReference, FileReference, Metadata, NoSurplus, Tags
from services.gateway.listings import UploadListPage
from services.gateway.semantics.file_headers import content_type
from services.gateway.transfers.multipart import PartSource, UploadBegin
from shared.contracts.base import WireModel
from shared.contracts.names import is_path_safe
from shared.contracts.time import rfc3339
from shared.contracts.uploads import (
    PART_NUMBER_MAX,
    UPLOAD_LIFETIME_S,
    StoredPart,
    Upload,
    UploadAnswer,
    UploadPart,
    upload_id_of,
)
from shared.units import MIB

COMPLETION_MAX_BYTES: Final = 2 * MIB
"""As many parts as there may be."""

_ID: Final = "0000000000000011-8f14e45fceea167a5a36dedd4bea2543"
_DIGEST: Final = "53b63a6fc8605d0c0ce559317a00177d72adb24d669235e4c914f443a8831ca1"

_PART: Final[dict[str, Any]] = {
    "number": 1,
    "etag": _DIGEST,
    "size_bytes": 8388608,
    "part": 18,
    "modified": "2026-11-25T16:35:12.106710Z",
}
_UPLOAD: Final[dict[str, Any]] = {
    "upload_id": _ID,
    "bucket": "default",
    "key": "film.mp4",
    "path_unsafe": False,
    "content_type": "video/mp4",
    "user_metadata": {},
    "tags": {},
    "created": "2026-11-25T16:35:10.000000Z",
    "expires_in_s": 604798,
}


class UploadToBegin(FileReference):
    """Which file is to be made of parts, and what is to be kept with it."""

    model_config = example(bucket="default", key="film.mp4", content_type="video/mp4")

    content_type: str | None = None
    user_metadata: Metadata = Field(default_factory=dict)
    tags: Tags = Field(default_factory=dict)
    lifetime_s: int = Field(
        default=UPLOAD_LIFETIME_S,
        ge=1,
        le=2**31,
        strict=True,
        description="An upload that is not completed by then is aborted.",
    )

    def begun(self) -> UploadBegin:
        """As the service takes it. Raises InvalidRequestError."""
        media_type = content_type([] if self.content_type is None else [self.content_type])
        return UploadBegin(self.name, media_type, self.user_metadata, self.tags, self.lifetime_s)


class UploadBegun(WireModel):
    """The upload may take parts; `upload_id` names it in every call."""

    model_config = example(upload_id=_ID, bucket="default", key="film.mp4")

    upload_id: str
    bucket: str
    key: str


class PartReceipt(WireModel):
    """A part that is durable; `part` is the log index that put it."""

    model_config = example(number=1, etag=_DIGEST, size_bytes=8388608, part=18)

    number: int
    etag: str = Field(description="Names the bytes of the part; the completion repeats it.")
    size_bytes: int
    part: int

    @classmethod
    def of(cls, number: int, part: StoredPart) -> PartReceipt:
        """One part."""
        return cls(number=number, etag=part.etag, size_bytes=part.size_bytes, part=part.part)


class PartCopy(WireModel):
    """The part is a range of a file that exists; no bytes are moved."""

    model_config = example(
        source={"bucket": "default", "key": "hello.txt", "version": 17}, range_start=0, range_end=5242880
    )

    source: CopySourceReference
    range_start: int = Field(default=0, ge=0, lt=2**63, strict=True)
    range_end: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        strict=True,
        description="The first byte behind the range; null for all that follow.",
    )

    def of_source(self) -> PartSource:
        """As the service takes it."""
        source = self.source
        return PartSource(source.name, source.version, source.preconditions, self.range_start, self.range_end)


class ChosenPart(NoSurplus):
    """A part of the file, by number, with the entity tag that it was stored under."""

    number: int = Field(ge=1, le=PART_NUMBER_MAX, strict=True)
    etag: Annotated[str, Field(min_length=1, max_length=128)]


class Completion(NoSurplus):
    """Of which parts the file is made, in ascending order of their numbers. Every one but the last has 5 MiB at least."""

    model_config = example(parts=[{"number": 1, "etag": _DIGEST}])

    parts: list[ChosenPart] = Field(min_length=1, max_length=PART_NUMBER_MAX, fail_fast=True)


class ListedPart(WireModel):
    """One part of an upload under way."""

    number: int
    etag: str
    size_bytes: int
    part: int
    modified: str

    @classmethod
    def of(cls, part: UploadPart) -> ListedPart:
        """One part."""
        return cls(
            number=part.number,
            etag=part.etag,
            size_bytes=part.size_bytes,
            part=part.part,
            modified=rfc3339(part.modified_ns),
        )


class UploadInfo(WireModel):
    """An upload under way. It is aborted in `expires_in_s` seconds; null: never."""

    upload_id: str
    bucket: str
    key: str
    path_unsafe: bool = Field(description=PATH_UNSAFE)
    content_type: str
    user_metadata: dict[str, str]
    tags: dict[str, str]
    created: str
    expires_in_s: int | None

    @classmethod
    def of(cls, upload: Upload) -> UploadInfo:
        """As the log has it."""
        return cls(**cls.fields_of(upload))

    @staticmethod
    def fields_of(upload: Upload) -> dict[str, Any]:
        """As the log has it."""
        return {
            "upload_id": upload_id_of(upload.upload, upload.nonce),
            "bucket": upload.bucket,
            "key": upload.key,
            "path_unsafe": not is_path_safe(upload.key),
            "content_type": upload.content_type,
            "user_metadata": upload.user_metadata,
            "tags": upload.tags,
            "created": rfc3339(upload.created_ns),
            "expires_in_s": upload.expires_in_s,
        }


class UploadWithParts(UploadInfo):
    """And a page of its parts, by number. `next_after` is the `after` of the next page, null on the last one."""

    model_config = example(**_UPLOAD, parts=[_PART], next_after=None)

    parts: list[ListedPart]
    next_after: int | None

    @classmethod
    def of_answer(cls, upload: Upload, answer: UploadAnswer) -> UploadWithParts:
        """One page."""
        parts = [ListedPart.of(part) for part in answer.parts]
        next_after = parts[-1].number if parts and answer.has_more else None
        return cls(**cls.fields_of(upload), parts=parts, next_after=next_after)


class UploadList(WireModel):
    """Uploads under way, by key and in the order in which they began; `cursor` is null on the last page."""

    model_config = example(uploads=[_UPLOAD], prefixes=[], cursor=None)

    uploads: list[UploadInfo]
    prefixes: list[str]
    cursor: str | None

    @classmethod
    def of(cls, page: UploadListPage) -> UploadList:
        """One page."""
        uploads = [UploadInfo.of(upload) for upload in page.rows.uploads]
        return cls(uploads=uploads, prefixes=page.rows.prefixes, cursor=page.cursor)
