"""Answers about uploads by parts and about the pieces of a version. One function per query; nothing is changed."""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from typing import Final

from services.consensus.metadata.manifests import Manifests
from services.consensus.metadata.page_rows import PageRows, end_of_prefix
from services.consensus.metadata.pieces import ChunkList, PieceList, extent_of
from services.consensus.metadata.rows import State
from services.consensus.metadata.tables import Tables
from services.consensus.metadata.upload_records import (
    OPEN,
    PartRow,
    UploadBody,
    UploadRecords,
    UploadRow,
    modified_ns_of,
)
from shared.contracts.names import DIGEST_BYTES
from shared.contracts.uploads import (
    GetUpload,
    ListPieces,
    ListUploads,
    PieceExtent,
    PiecePage,
    Upload,
    UploadAnswer,
    UploadPage,
    UploadPart,
)
from shared.errors import VersionGoneError
from shared.units import MIB

PIECES_PER_PAGE_MAX: Final = 1000
"""Pieces in one answer; those of a few bytes each are many."""

_LIST_BYTES_MAX: Final = 2 * MIB
"""Chunk lists that one answer reads, of which it may show a part only."""

_PART_BYTES: Final = 160
_S3_BYTES: Final = 240
_UPLOAD_BYTES: Final = 400


def answer_about_uploads(
    tables: Tables, state: State, query: ListPieces | GetUpload | ListUploads
) -> PiecePage | UploadAnswer | UploadPage:
    """The answer. Raises VersionGoneError."""
    match query:
        case ListPieces():
            return list_pieces(tables, query)
        case GetUpload():
            return get_upload(tables, state, query)
        case ListUploads():
            return list_uploads(tables, state, query)


def size_bytes_of(answer: PiecePage | UploadAnswer | UploadPage) -> int:
    """About as many bytes as the long parts of it have in JSON."""
    match answer:
        case PiecePage():
            return sum(len(extent.chunk_digests) + _PART_BYTES for extent in answer.pieces)
        case UploadAnswer():
            return sum(_PART_BYTES + (_S3_BYTES if part.s3_etag or part.checksums else 0) for part in answer.parts)
        case UploadPage():
            return sum(map(_upload_bytes, answer.uploads)) + sum(map(len, answer.prefixes))


def _upload_bytes(upload: Upload) -> int:
    metadata = sum(len(name) + len(value) for name, value in (upload.user_metadata | upload.tags).items())
    return _UPLOAD_BYTES + len(upload.key) + metadata


# --- pieces ---------------------------------------------------------------------------------------------------------


def list_pieces(tables: Tables, query: ListPieces) -> PiecePage:
    """The chunks of a version from an offset on."""
    content = tables.readable_content(query.version)
    if content is None:
        raise VersionGoneError("The version was removed, and its bytes are not kept any more.", version=query.version)
    if query.offset_bytes >= content.size_bytes:
        return PiecePage(size_bytes=content.size_bytes, pieces=[], next_offset=None)
    if content.composition is None:
        chunks = ChunkList(content.size_bytes, content.chunk_size_bytes, content.chunk_digests)
        at = query.offset_bytes
        extents = [extent_of(chunks, at, at, content.size_bytes - at, query.limit_chunks)]
    else:
        manifests = Manifests(tables)
        extents = _extents(manifests, manifests.known_composition(content.composition), query)
    end = extents[-1].offset_bytes + extents[-1].size_bytes
    next_offset = end if end < content.size_bytes else None
    return PiecePage(size_bytes=content.size_bytes, pieces=extents, next_offset=next_offset)


def _extents(manifests: Manifests, pieces: PieceList, query: ListPieces) -> list[PieceExtent]:
    offsets = pieces.offsets()
    first = bisect_right(offsets, query.offset_bytes) - 1
    end = min(first + PIECES_PER_PAGE_MAX, len(pieces))
    extents: list[PieceExtent] = []
    room, list_bytes = query.limit_chunks, 0
    number, chunks = 0, ChunkList(0, 1, b"")
    for start, piece in zip(offsets[first:end], pieces.between(first, end), strict=True):
        if piece.take_bytes == 0:
            continue
        if room <= 0 or (extents and list_bytes >= _LIST_BYTES_MAX):
            break
        if piece.manifest != number:
            number, chunks = piece.manifest, manifests.known_manifest(piece.manifest)
            list_bytes += len(chunks.chunk_digests)
        offset = max(start, query.offset_bytes)
        skipped = offset - start
        extents.append(extent_of(chunks, offset, piece.skip_bytes + skipped, piece.take_bytes - skipped, room))
        room -= len(extents[-1].chunk_digests) // DIGEST_BYTES
    return extents


# --- uploads --------------------------------------------------------------------------------------------------------


def get_upload(tables: Tables, state: State, query: GetUpload) -> UploadAnswer:
    """An upload under way, and a page of its parts."""
    records = UploadRecords(tables)
    row = records.upload(query.upload)
    if row is None or row.state != OPEN or row.nonce != query.nonce:
        return UploadAnswer(upload=None)
    parts = records.parts(query.upload, after=query.after_part, limit=query.limit + 1)
    return UploadAnswer(
        upload=_upload(state, row),
        parts=[_part(part) for part in parts[: query.limit]],
        has_more=len(parts) > query.limit,
    )


def list_uploads(tables: Tables, state: State, query: ListUploads) -> UploadPage:
    """Uploads under way, by key and then in the order in which they began."""
    bucket = tables.bucket(query.bucket)
    if bucket is None:
        return UploadPage(has_bucket=False)
    page, records = PageRows[Upload].of(query.limit, query.prefix, query.delimiter), UploadRecords(tables)
    lower, after = page.prefix, -1
    if query.after_key is not None:
        number = -1 if query.after_upload is None else query.after_upload
        lower, after = max((lower, after), (page.start_behind(query.after_key, query.after_upload), number))
    upper = end_of_prefix(page.prefix)
    going_on: bytes | None = lower
    while going_on is not None and going_on < upper:
        going_on = page.collect(records.scan(bucket.incarnation, going_on, upper, after), partial(_upload, state))
        after = -1
    return UploadPage(
        has_bucket=True,
        uploads=page.entries,
        prefixes=page.prefixes,
        has_more=page.has_more,
        last_key=page.last_prefix if page.last is None else page.last.key,
        last_upload=None if page.last is None else page.last.upload,
    )


def _upload(state: State, row: UploadRow) -> Upload:
    body = UploadBody.decode(row.body)
    return Upload(
        upload=row.upload,
        nonce=row.nonce,
        bucket=body.bucket,
        key=row.key.decode(),
        content_type=body.content_type,
        user_metadata=body.user_metadata,
        tags=body.tags,
        created_ns=body.created_ns,
        expires_in_s=None if row.expires_ms is None else max(row.expires_ms - state.lived_ms, 0) // 1000,
        is_internal=bool(row.is_internal),
        owner=None if row.owner is None else row.owner.hex(),
        s3=body.s3_attributes,
    )


def _part(row: PartRow) -> UploadPart:
    s3_etag, checksums = row.s3_etag_and_checksums
    return UploadPart(
        number=row.number,
        part=row.part,
        size_bytes=row.size_bytes,
        etag=row.etag,
        modified_ns=modified_ns_of(row.body),
        s3_etag=s3_etag,
        checksums=checksums,
    )
