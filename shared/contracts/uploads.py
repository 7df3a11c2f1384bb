"""Uploads by parts, and the pieces that files are read by: commands, queries and answers.

Part of the commands, queries and answers of `shared.contracts.metadata`, which says how they are sent. An upload is known by
the log index that began it, and by a nonce of the gateway that no one else can guess. Its parts are numbered; each is safe
from garbage from the moment its entry is applied. To complete an upload joins parts into a version without moving a byte.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import field
from pydantic import Field

from shared.contracts.base import WireModel, WireRow
from shared.contracts.calls import Command, Query
from shared.contracts.files import Durability, FileContent, Preconditions, Published
from shared.contracts.objects import VersionNumber
from shared.contracts.s3 import Checksum, S3Attributes, S3UploadAttributes
from shared.contracts.time import Stamp
from shared.units import GIB, MIB, TIB

INLINE_CHUNKS_MAX: Final = 4096
"""Most chunks in the list of a new version, and in one answer to those who ask for pages."""

MANIFEST_CHUNKS_MAX: Final = 8192
"""Most chunks of one part."""

PIECES_MAX: Final = 20_000
"""Most pieces of one file."""

PART_PIECES_MAX: Final = 4096
"""Most pieces of one part that is a range of another file."""

PART_NUMBER_MAX: Final = 10_000
PART_BYTES_MIN: Final = 5 * MIB
"""Of every part but the last one of the completed file."""

PART_BYTES_MAX: Final = 5 * GIB
FILE_BYTES_MAX: Final = 5 * TIB
UPLOAD_LIFETIME_S: Final = 7 * 86_400
"""For how long an upload may go on by default, and for how long a completed one gives the same answer, by the log's clock."""

UPLOADS_LIMIT_MAX: Final = 1000
PARTS_LIMIT_MAX: Final = 1000

Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
UploadIndex = Annotated[int, Field(ge=1, lt=2**63)]
PartNumber = Annotated[int, Field(ge=1, le=PART_NUMBER_MAX)]
PartEtag = Annotated[str, Field(min_length=1, max_length=128)]


def upload_id_of(upload: int, nonce: str) -> str:
    """The id that clients know an upload by."""
    return f"{upload:016x}-{nonce}"


# --- commands -----------------------------------------------------------------------------------------------------


class BegunUpload(WireModel):
    """Its log index."""

    upload: int


class BeginUpload(Command[BegunUpload]):
    """Begin an upload by parts. Rejected: bucket_not_found, bucket_recreated, invalid_tags.

    Attributes:
        incarnation: of the bucket, where it was read before; None for the bucket that exists.
        lifetime_s: after which the upload is aborted, by the log's clock; None for never.
        is_internal: it is how a gateway stores a single large body, and stands in no list.
        s3: what only S3 shows of the upload and of its version.
    """

    kind: Literal["begin_upload"] = "begin_upload"
    bucket: str
    incarnation: int | None = None
    key: str
    nonce: Nonce
    content_type: str
    user_metadata: dict[str, str] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    lifetime_s: int | None = Field(default=UPLOAD_LIFETIME_S, ge=1, le=2**31)
    is_internal: bool = False
    s3: S3UploadAttributes | None = None
    stamp: Stamp


class StoredPart(WireModel):
    """`part` is the log index that put it. `s3`: what only S3 shows of it."""

    part: int
    etag: str
    size_bytes: int
    s3: S3Attributes | None = None


class PutPart(Command[StoredPart]):
    """A part whose bytes are stored; it replaces one of the same number.

    Rejected: upload_not_found, payload_too_large, node_removed, node_replaced, node_draining, chunk_condemned.

    Attributes:
        content: its digest is that of the part, and becomes its etag.
        start_index, epoch, durability, fences: of this part; see `PublishFile`.
        s3: what only S3 shows of it.
        keep_s: the upload lives for at least so long from here on, by the log's clock; None to leave its end as it is.
    """

    kind: Literal["put_part"] = "put_part"
    upload: UploadIndex
    nonce: Nonce
    number: PartNumber
    content: FileContent
    start_index: int
    epoch: int
    durability: Durability
    fences: dict[str, int] | None = None
    s3: S3Attributes | None = None
    keep_s: int | None = Field(default=None, ge=1, le=2**31)
    stamp: Stamp


class CopyPart(Command[StoredPart]):
    """A part that is a range of a file that exists; no bytes move.

    Where it is all of a file whose MD5 is known, its `s3` has that, and what checksums the file has.

    Rejected: upload_not_found, bucket_not_found, file_not_found, version_not_found, source_is_marker, precondition_failed,
    range_not_satisfiable, payload_too_large.

    Attributes:
        source_version: None for the current one.
        range_start, range_end: bytes of the source, the end excluded; None for all that follow.
    """

    kind: Literal["copy_part"] = "copy_part"
    upload: UploadIndex
    nonce: Nonce
    number: PartNumber
    source_bucket: str
    source_key: str
    source_version: VersionNumber | None = None
    source_preconditions: Preconditions = Preconditions()
    range_start: int = Field(default=0, ge=0, lt=2**63)
    range_end: int | None = Field(default=None, ge=0, lt=2**63)
    stamp: Stamp


class CompleteUpload(Command[Published]):
    """Join parts into a version, which is the file's current one from here on.

    The same again gives the same answer for `UPLOAD_LIFETIME_S`. Rejected: upload_not_found; bucket_not_found and
    bucket_recreated, where the bucket was deleted; upload_completed, with other parts than before; invalid_part_order,
    invalid_part, part_too_small, payload_too_large, precondition_failed.

    Attributes:
        parts: numbers and etags, ascending. An etag is that of the part or the one that S3 shows of it
            (`shared.contracts.s3.shown_part_etag`).
        digest: BLAKE3-256 of all bytes, hex, where one request carried them.
        s3: what only S3 shows of the version; None for the headers and the storage class of the upload. It does not count when
            the same is asked for again.
    """

    kind: Literal["complete_upload"] = "complete_upload"
    upload: UploadIndex
    nonce: Nonce
    parts: list[tuple[PartNumber, PartEtag]] = Field(min_length=1, max_length=PART_NUMBER_MAX)
    digest: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    s3: S3Attributes | None = None
    preconditions: Preconditions = Preconditions()
    stamp: Stamp


class AbortedUpload(WireModel):
    """It was under way, and is not any more."""

    aborted: bool


class AbortUpload(Command[AbortedUpload]):
    """Give an upload up. Rejected: upload_not_found, upload_completed."""

    kind: Literal["abort_upload"] = "abort_upload"
    upload: UploadIndex
    nonce: Nonce
    stamp: Stamp


# --- answers ------------------------------------------------------------------------------------------------------


class PieceExtent(WireModel):
    """Bytes of a version that lie in one chunk list, and the chunks that cover them, in order.

    Every chunk has `chunk_size_bytes` but the last of these, which has `last_chunk_bytes`.

    Attributes:
        offset_bytes: in the version.
        size_bytes: bytes of the version that the chunks show.
        skip_bytes: of the first chunk, which are not shown.
        chunk_digests: raw, 32 bytes each.
    """

    offset_bytes: int
    size_bytes: int
    skip_bytes: int
    chunk_size_bytes: int
    chunk_digests: bytes
    last_chunk_bytes: int


class PiecePage(WireModel):
    """One page. `next_offset` is where the next one begins; None at the end of the version, which has `size_bytes`."""

    kind: Literal["pieces"] = "pieces"
    size_bytes: int
    pieces: list[PieceExtent]
    next_offset: int | None


class UploadPart(WireRow, frozen=True, gc=False, omit_defaults=True):
    """A part. `part` is the log index that put it. `s3_etag` and `checksums` (base64): what only S3 shows of it."""

    number: int
    part: int
    size_bytes: int
    etag: str
    modified_ns: int
    s3_etag: str | None = None
    checksums: dict[Checksum, str] = field(default_factory=dict)


class Upload(WireModel):
    """An upload under way.

    Attributes:
        expires_in_s: by the log's clock; None for never.
        owner: the identity that its parts count for.
        s3: what only S3 shows of it; None where `/v1` began it.
    """

    upload: int
    nonce: str
    bucket: str
    key: str
    content_type: str
    user_metadata: dict[str, str]
    tags: dict[str, str]
    created_ns: int
    expires_in_s: int | None
    is_internal: bool = False
    owner: str | None = None
    s3: S3UploadAttributes | None = None


class UploadAnswer(WireModel):
    """`upload` is None when none of that id is under way. `parts` by number; `has_more` is false on the last page."""

    kind: Literal["upload"] = "upload"
    upload: Upload | None
    parts: list[UploadPart] = Field(default_factory=list)
    has_more: bool = False


class UploadPage(WireModel):
    """One page. The next one starts after (`last_key`, `last_upload`); `last_key` may be a common prefix."""

    kind: Literal["uploads"] = "uploads"
    has_bucket: bool
    uploads: list[Upload] = Field(default_factory=list)
    prefixes: list[str] = Field(default_factory=list)
    has_more: bool = False
    last_key: str | None = None
    last_upload: int | None = None


# --- queries ------------------------------------------------------------------------------------------------------


class ListPieces(Query[PiecePage]):
    """The chunks of a version from `offset_bytes` on. Answer: PiecePage. Rejected: version_gone, invalid_request.

    Attributes:
        limit_chunks: an answer has no more; and no more than `PIECES_PER_PAGE_MAX` pieces.
    """

    kind: Literal["list_pieces"] = "list_pieces"
    version: int = Field(ge=1, lt=2**63)
    offset_bytes: int = Field(default=0, ge=0, lt=2**63)
    limit_chunks: int = Field(default=INLINE_CHUNKS_MAX, ge=1, le=INLINE_CHUNKS_MAX)


class GetUpload(Query[UploadAnswer]):
    """An upload under way and a page of its parts. Answer: UploadAnswer."""

    kind: Literal["get_upload"] = "get_upload"
    upload: UploadIndex
    nonce: Nonce
    after_part: int = Field(default=0, ge=0, le=PART_NUMBER_MAX)
    limit: int = Field(default=PARTS_LIMIT_MAX, ge=1, le=PARTS_LIMIT_MAX)


class ListUploads(Query[UploadPage]):
    """Uploads under way by key, and of one key in the order in which they began. Answer: UploadPage.

    Attributes:
        after_key, after_upload: where the page before ended; without `after_upload` the whole key is skipped. `after_key` may
            be a common prefix that the page before reported.
    """

    kind: Literal["list_uploads"] = "list_uploads"
    bucket: str
    prefix: str = ""
    delimiter: str | None = None
    after_key: str | None = None
    after_upload: int | None = Field(default=None, ge=0, lt=2**63)
    limit: int = Field(default=UPLOADS_LIMIT_MAX, ge=1, le=UPLOADS_LIMIT_MAX)
