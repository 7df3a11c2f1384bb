"""What commands change in uploads by parts. Every check comes before the first write.

A part refers to its chunks from its own entry on: one that was put has a manifest of its own; one that is a range of a file
shares the manifests of that file, or, where the file has its chunk list in its version, gets one of the chunks in the range.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import msgpack
from blake3 import blake3

from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.decisions import (
    STORED_INTEGER_MAX,
    check_content,
    check_stored_integer,
)
from services.consensus.metadata.manifests import Manifests
from services.consensus.metadata.pieces import PLACE_BYTES, ChunkList, Piece, PieceList, covering
from services.consensus.metadata.rows import BucketRow, decode_version, encode_version
from services.consensus.metadata.schema import Row
from services.consensus.metadata.stored_content import check_stored
from services.consensus.metadata.upload_records import (
    ABORTED,
    COMPLETED,
    OPEN,
    PartBody,
    PartRow,
    PartStorage,
    UploadBody,
    UploadRecords,
    UploadRow,
    decode_part_body,
    decode_s3,
    decode_stored,
    encode_s3,
    encode_stored,
)
from services.consensus.metadata.versions import bucket_of_file, make_current, present, require_version
from shared.contracts.etags import etag_of, list_digest
from shared.contracts.files import Durability, FileContent, FileVersion, Published
from shared.contracts.names import DIGEST_BYTES, check_tags
from shared.contracts.s3 import S3Attributes, shown_part_etag
from shared.contracts.uploads import (
    FILE_BYTES_MAX,
    MANIFEST_CHUNKS_MAX,
    PART_BYTES_MAX,
    PART_BYTES_MIN,
    PART_PIECES_MAX,
    PIECES_MAX,
    UPLOAD_LIFETIME_S,
    AbortedUpload,
    AbortUpload,
    BeginUpload,
    BegunUpload,
    CompleteUpload,
    CopyPart,
    PutPart,
    StoredPart,
)
from shared.errors import (
    BucketNotFoundError,
    BucketRecreatedError,
    InvalidPartError,
    InvalidPartOrderError,
    PartTooSmallError,
    PayloadTooLargeError,
    RangeNotSatisfiableError,
    UploadCompletedError,
    UploadNotFoundError,
)
from shared.units import MIB

_CHUNK_SIZE_BYTES: Final = MIB
"""Of content that has no pieces."""


def begin_upload(context: ApplyContext, command: BeginUpload) -> BegunUpload:
    """An upload under way, without parts. Raises the rejections of `BeginUpload`."""
    key = context.checked_key(command.key)
    check_tags(command.tags)
    bucket = context.existing_bucket(command.bucket)
    if command.incarnation is not None:
        _check_incarnation(bucket, command.incarnation)
    body = UploadBody(
        command.bucket,
        command.content_type,
        command.user_metadata,
        command.tags,
        context.stamp.approximate_ns,
        s3=None if command.s3 is None else tuple(dict(command.s3).values()),
    )
    row = UploadRow(
        upload=context.index,
        incarnation=bucket.incarnation,
        key=key,
        nonce=command.nonce,
        state=OPEN,
        is_internal=int(command.is_internal),
        closed_index=None,
        swept=0,
        expires_ms=None if command.lifetime_s is None else _in(context, command.lifetime_s),
        result_version=None,
        owner=context.owner,
        body=body.encode(),
    )
    UploadRecords(context.tables).insert(row)
    return BegunUpload(upload=context.index)


def put_part(context: ApplyContext, command: PutPart) -> StoredPart:
    """The part refers to its chunks from this entry on. Raises the rejections of `PutPart`."""
    upload = _open_upload(context, command.upload, command.nonce)
    content = command.content
    check_content(content)
    check_stored_integer("chunk_size_bytes", content.chunk_size_bytes)
    _check_part_size(content.size_bytes)
    if content.chunk_count > MANIFEST_CHUNKS_MAX:
        raise PayloadTooLargeError("The part has too many chunks; use larger ones.", limit_chunks=MANIFEST_CHUNKS_MAX)
    check_stored(context, command)
    assert content.digest is not None, "checked with the content"
    chunks = ChunkList(content.size_bytes, content.chunk_size_bytes, content.chunk_digests)
    piece = _own_piece(context, upload, chunks, 0, content.size_bytes)
    stored = encode_stored(command.epoch, command.durability)
    if command.keep_s is not None and upload.expires_ms is not None:
        expires_ms = max(upload.expires_ms, _in(context, command.keep_s))
        UploadRecords(context.tables).replace(upload, upload := upload._replace(expires_ms=expires_ms))
    return _store_part(context, command, upload, content.digest, pieces=[piece], stored=stored, s3=command.s3)


def copy_part(context: ApplyContext, command: CopyPart) -> StoredPart:
    """The part refers to bytes that a file refers to. Raises the rejections of `CopyPart`."""
    upload = _open_upload(context, command.upload, command.nonce)
    source = _source_of(context, command)
    content = source.content
    start, stop = _range_of(command, content.size_bytes)
    _check_part_size(stop - start)
    if content.composition is not None:
        manifests = Manifests(context.tables)
        pieces = manifests.known_composition(content.composition).cut(start, stop)
        if len(pieces) > PART_PIECES_MAX:
            raise PayloadTooLargeError(
                "The range has too many pieces; copy smaller ones.", pieces=len(pieces), limit_pieces=PART_PIECES_MAX
            )
        manifests.refer(upload.upload, {piece.manifest for piece in pieces})
    else:
        chunks, skip_bytes = covering(content, start, stop)
        if len(chunks.chunk_digests) > MANIFEST_CHUNKS_MAX * DIGEST_BYTES:
            raise PayloadTooLargeError(
                "The range has too many chunks; copy smaller ones.", limit_chunks=MANIFEST_CHUNKS_MAX
            )
        pieces = [_own_piece(context, upload, chunks, skip_bytes, stop - start)] if start < stop else []
    etag, stored = PieceList.of(pieces).content_id, encode_stored(source.epoch, source.durability)
    s3 = _s3_of_whole(source) if stop - start == content.size_bytes else None
    return _store_part(context, command, upload, etag, pieces=pieces, stored=stored, s3=s3)


def complete_upload(context: ApplyContext, command: CompleteUpload) -> Published:
    """The parts are the current version of the file from this entry on. Raises the rejections of `CompleteUpload`."""
    upload = _known_upload(context, command.upload, command.nonce)
    body = UploadBody.decode(upload.body)
    asked = _identity_of(command)
    if body.completed is not None:
        return _completed_again(upload, body.completed, asked)
    bucket = context.bucket(body.bucket)
    if bucket is None:
        raise BucketNotFoundError("There is no such bucket.", bucket=body.bucket)
    _check_incarnation(bucket, upload.incarnation)
    etags = _etags(command)
    with closing(UploadRecords(context.tables).named_parts(upload.upload, etags)) as rows:
        joined = _join(etags, upload, rows)
    before = present(context, bucket, upload.key)
    context.check_preconditions(command.preconditions, before.file, before.tombstone)
    version = make_current(context, before, _version_of(context, command, upload, joined), body.tags)
    result = Published(created=before.file is None, version=version)
    Manifests(context.tables).insert_composition(upload.upload, joined.pieces)
    completed = upload._replace(
        state=COMPLETED,
        closed_index=context.index,
        expires_ms=_in(context, UPLOAD_LIFETIME_S),
        result_version=context.index,
        body=body._replace(completed=(asked, result.created, encode_version(result.version))).encode(),
    )
    UploadRecords(context.tables).replace(upload, completed)
    return result


def abort_upload(context: ApplyContext, command: AbortUpload) -> AbortedUpload:
    """Its parts go as soon as nothing can need them. Raises UploadNotFoundError, UploadCompletedError."""
    upload = _known_upload(context, command.upload, command.nonce)
    if upload.state == COMPLETED:
        raise UploadCompletedError("The upload is completed; delete the file.", upload=upload.upload)
    abort(context, upload)
    return AbortedUpload(aborted=True)


def abort(context: ApplyContext, upload: UploadRow) -> None:
    """End one that is under way."""
    UploadRecords(context.tables).replace(
        upload, upload._replace(state=ABORTED, closed_index=context.index, expires_ms=None)
    )


# --- uploads --------------------------------------------------------------------------------------------------------


def _known_upload(context: ApplyContext, upload: int, nonce: str) -> UploadRow:
    row = UploadRecords(context.tables).upload(upload)
    if row is None or row.nonce != nonce or row.state == ABORTED:
        raise UploadNotFoundError("No such upload is under way.", upload=upload)
    return row


def _open_upload(context: ApplyContext, upload: int, nonce: str) -> UploadRow:
    row = _known_upload(context, upload, nonce)
    if row.state != OPEN:
        raise UploadNotFoundError("The upload is completed; no part can be added to it.", upload=upload)
    return row


def _check_incarnation(bucket: BucketRow, incarnation: int) -> None:
    if bucket.incarnation != incarnation:
        raise BucketRecreatedError(
            "The bucket was deleted and made again while this upload was under way; start it again.",
            bucket=bucket.name,
            incarnation=bucket.incarnation,
        )


def _in(context: ApplyContext, seconds: int) -> int:
    """The age of the log's clock in so many seconds."""
    return min(context.state.lived_ms + seconds * 1000, STORED_INTEGER_MAX)


# --- parts ----------------------------------------------------------------------------------------------------------


def _own_piece(context: ApplyContext, upload: UploadRow, chunks: ChunkList, skip_bytes: int, take_bytes: int) -> Piece:
    """Bytes of a chunk list that this entry logs."""
    manifests = Manifests(context.tables)
    manifests.insert(context.index, chunks)
    manifests.refer(upload.upload, {context.index})
    digest = list_digest(chunks.chunk_digests)
    return Piece(context.index, skip_bytes, take_bytes, chunks.chunk_size_bytes, digest)


def _store_part(
    context: ApplyContext,
    command: PutPart | CopyPart,
    upload: UploadRow,
    etag: str,
    *,
    pieces: list[Piece],
    stored: bytes,
    s3: S3Attributes | None,
) -> StoredPart:
    """In place of an earlier part of that number: the last one that is applied counts."""
    records = UploadRecords(context.tables)
    if (before := records.part(upload.upload, command.number)) is not None:
        body = PartBody.decode(before.body)
        if before.part in PieceList(body.identities, body.places).manifests():
            # Nothing else can refer to it: only the parts of files that exist are copied from.
            Manifests(context.tables).drop_ref(upload.upload, before.part)
            context.garbage.release(before.part, context.index)
    size_bytes, packed = sum(piece.take_bytes for piece in pieces), PieceList.of(pieces)
    body = PartBody(
        packed.identities,
        packed.places,
        sum(piece.chunk_count for piece in pieces),
        stored,
        # A lying clock may stamp what no column holds: it must not end the members that apply the entry.
        min(max(context.stamp.approximate_ns, 0), STORED_INTEGER_MAX),
    )
    part = PartRow(upload.upload, command.number, context.index, size_bytes, etag, body.encode(), encode_s3(s3))
    records.put_part(upload, before, part)
    return StoredPart(part=context.index, etag=etag, size_bytes=size_bytes, s3=s3)


def _check_part_size(size_bytes: int) -> None:
    if size_bytes > PART_BYTES_MAX:
        raise PayloadTooLargeError("The part is too large.", size_bytes=size_bytes, limit_bytes=PART_BYTES_MAX)


def _source_of(context: ApplyContext, command: CopyPart) -> FileVersion:
    """The version that is copied from, which exists. Raises the rejections of `CopyPart` about it."""
    key = context.checked_key(command.source_key)
    source = present(context, bucket_of_file(context, command.source_bucket, key), key)
    found = require_version(context, source, command.source_key, command.source_version)
    context.check_preconditions(command.source_preconditions, found.file, None)
    return context.tables.version(found.file.version)


def _s3_of_whole(source: FileVersion) -> S3Attributes | None:
    """Of a part that is all of a file; None where that was put in parts itself: its etag is no MD5 then."""
    s3 = source.s3
    if s3 is None or s3.etag is None or "-" in s3.etag:
        return None
    return S3Attributes(etag=s3.etag, checksums=s3.checksums)


def _range_of(command: CopyPart, size_bytes: int) -> tuple[int, int]:
    """The bytes that are asked for. Raises RangeNotSatisfiableError: the file has no such bytes."""
    start = command.range_start
    stop = size_bytes if command.range_end is None else command.range_end
    is_all_of_nothing = start == stop == size_bytes == 0
    if not (start < stop <= size_bytes or is_all_of_nothing):
        raise RangeNotSatisfiableError("The file has no such bytes.", size_bytes=size_bytes)
    return start, stop


# --- completing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Joined:
    """Parts one after the other. Invariant: all but the last one are large enough."""

    pieces: PieceList
    size_bytes: int
    chunk_count: int
    stored: list[PartStorage]


def _join(etags: dict[int, str], upload: UploadRow, rows: Iterable[Row]) -> _Joined:
    """The parts that are asked for, which must all be there and not too small.

    `rows` of them (`UploadRecords.named_parts`) are taken one at a time: there may be ten thousand in one entry.
    """
    sizes: dict[int, int] = {}
    identities: list[bytes] = []
    places: list[bytes] = []
    stored: set[bytes] = set()
    chunk_count = pieces_bytes = 0
    for _, number, _, size_bytes, etag, body, s3 in rows:
        if etags[number] != etag and etags[number] != shown_part_etag(etag, decode_s3(s3)[0]):
            raise InvalidPartError("The upload has another part of that number.", number=number, has_number=True)
        part_identities, part_places, part_chunks, part_stored, _ = decode_part_body(body)
        sizes[number] = size_bytes
        identities.append(part_identities)
        places.append(part_places)
        stored.add(part_stored)
        chunk_count += part_chunks
        pieces_bytes += len(part_places)
        if (pieces := pieces_bytes // PLACE_BYTES) > PIECES_MAX:
            # At once: ten thousand parts may have forty million pieces.
            raise PayloadTooLargeError("The file has too many pieces.", pieces=pieces, limit_pieces=PIECES_MAX)
    if missing := etags.keys() - sizes.keys():
        raise InvalidPartError("The upload has no such part.", number=min(missing), has_number=False)
    _check_sizes(upload, sizes)
    joined = PieceList(b"".join(identities), b"".join(places))
    return _Joined(joined, sum(sizes.values()), chunk_count, [decode_stored(each) for each in sorted(stored)])


def _etags(command: CompleteUpload) -> dict[int, str]:
    before = 0
    for number, _ in command.parts:
        if number <= before:
            raise InvalidPartOrderError("Name the parts in the order of their numbers, each once.", number=number)
        before = number
    return dict(command.parts)


def _check_sizes(upload: UploadRow, sizes: dict[int, int]) -> None:
    """Of parts, by number in their order, and of the file."""
    if not upload.is_internal:
        last = next(reversed(sizes))
        for number, size_bytes in sizes.items():
            if size_bytes < PART_BYTES_MIN and number != last:
                raise PartTooSmallError(
                    "Only the last part of a file may be so small.",
                    number=number,
                    size_bytes=size_bytes,
                    minimum_bytes=PART_BYTES_MIN,
                )
    file_bytes = sum(sizes.values())
    if file_bytes > FILE_BYTES_MAX:
        raise PayloadTooLargeError("The file is too large.", size_bytes=file_bytes, limit_bytes=FILE_BYTES_MAX)


def _version_of(context: ApplyContext, command: CompleteUpload, upload: UploadRow, joined: _Joined) -> FileVersion:
    """The version that the parts make; its place among those of its key is not decided here."""
    body, identity = UploadBody.decode(upload.body), joined.pieces.content_id
    content = FileContent(
        size_bytes=joined.size_bytes,
        chunk_size_bytes=joined.pieces.chunk_size_bytes or _CHUNK_SIZE_BYTES,
        chunk_digests=b"",
        digest=command.digest,
        composition=upload.upload,
        composed_chunks=joined.chunk_count,
    )
    durability = Durability(
        target=max(stored.target for stored in joined.stored),
        acknowledged=min(stored.acknowledged for stored in joined.stored),
        nodes=sorted({node for stored in joined.stored for node in stored.nodes}),
    )
    return FileVersion(
        bucket=body.bucket,
        key=upload.key.decode(),
        version=context.index,
        term=context.term,
        etag=etag_of(command.digest or identity, body.content_type, body.user_metadata),
        content=content,
        content_type=body.content_type,
        user_metadata=body.user_metadata,
        epoch=max(stored.epoch for stored in joined.stored),
        durability=durability,
        stamp=context.stamp,
        modified_ns=0,
        content_id=identity,
        owner=None if upload.owner is None else upload.owner.hex(),
        s3=command.s3 or _s3_of_upload(body),
    )


def _s3_of_upload(body: UploadBody) -> S3Attributes | None:
    s3 = body.s3_attributes
    return None if s3 is None else S3Attributes(headers=s3.headers, storage_class=s3.storage_class)


def _identity_of(command: CompleteUpload) -> bytes:
    """What tells one completion from another."""
    return blake3(msgpack.packb((command.digest, command.parts))).digest()


def _completed_again(upload: UploadRow, completed: tuple[bytes, bool, bytes], asked: bytes) -> Published:
    identity, created, version = completed
    if identity != asked:
        raise UploadCompletedError("The upload is completed already, of other parts.", upload=upload.upload)
    return Published(created=created, version=decode_version(version))
