"""The rows of uploads by parts: those under way, what became of the others, and their parts."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Generator, Iterator
from typing import Final, NamedTuple

import msgpack

from services.consensus.metadata.database import checked, checked_all
from services.consensus.metadata.pieces import IDENTITY_BYTES, PLACE_BYTES
from services.consensus.metadata.rows import s3_fields
from services.consensus.metadata.schema import Row
from services.consensus.metadata.tables import Tables
from shared.contracts.files import Durability
from shared.contracts.s3 import Checksum, S3Attributes, S3UploadAttributes

OPEN: Final = "open"
COMPLETED: Final = "completed"
ABORTED: Final = "aborted"

_BODY: Final = 1
_PART_HEAD: Final = struct.Struct(">BIIQ")
_PART_HEAD_BYTES: Final = _PART_HEAD.size
_unpack_part_head: Final = _PART_HEAD.unpack_from
_SELECT: Final = (
    "SELECT upload, incarnation, key, nonce, state, is_internal, closed_index, swept, expires_ms, result_version, owner, "
    "body, checksum FROM uploads WHERE "
)
_PARTS: Final = "SELECT upload, number, part, size_bytes, etag, body, s3, checksum FROM parts WHERE upload=? AND "
_NAMED_PARTS: Final = _PARTS + "number IN (SELECT value FROM json_each(?)) ORDER BY number"  # noqa: S608 (our own constants)


class UploadRow(NamedTuple):
    """An upload.

    Attributes:
        closed_index: of the entry that completed or aborted it, as long as references that it may not need are kept.
        swept: the last manifest that was looked at since.
        expires_ms: the age of the log's clock at which it is aborted, or, once completed, forgotten; None for never.
        result_version: what it was completed to.
        owner: the identity that began it.
        body: what `encode_upload` made.
    """

    upload: int
    incarnation: int
    key: bytes
    nonce: str
    state: str
    is_internal: int
    closed_index: int | None
    swept: int
    expires_ms: int | None
    result_version: int | None
    owner: bytes | None
    body: bytes


class UploadBody(NamedTuple):
    """What an upload was begun with.

    Attributes:
        completed: what was asked for, the answer's `created`, and the body of its version; None before.
        s3: of `S3UploadAttributes`, by position.
    """

    bucket: str
    content_type: str
    user_metadata: dict[str, str]
    tags: dict[str, str]
    created_ns: int
    completed: tuple[bytes, bool, bytes] | None = None
    s3: Row | None = None

    @property
    def s3_attributes(self) -> S3UploadAttributes | None:
        """What only S3 shows of it."""
        if self.s3 is None:
            return None
        return S3UploadAttributes.model_validate(dict(zip(S3UploadAttributes.model_fields, self.s3, strict=True)))

    def encode(self) -> bytes:
        """The column: its form, then the fields by position."""
        packed: bytes = msgpack.packb(tuple(self))
        return bytes((_BODY,)) + packed

    @classmethod
    def decode(cls, body: bytes) -> UploadBody:
        """The inverse of `encode`."""
        assert body[0] == _BODY, "the version of the tables says which forms they hold"
        return cls(*msgpack.unpackb(memoryview(body)[1:]))


class PartRow(NamedTuple):
    """A part. `part` is the log index of the entry that put it; `body` what `PartBody.encode` made, `s3` what `encode_s3` did."""

    upload: int
    number: int
    part: int
    size_bytes: int
    etag: str
    body: bytes
    s3: bytes | None

    @property
    def s3_etag_and_checksums(self) -> tuple[str | None, dict[Checksum, str]]:
        """What only S3 shows of it. Not checked again: one entry reads ten thousand of them."""
        return decode_s3(self.s3)


def decode_s3(s3: bytes | None) -> tuple[str | None, dict[Checksum, str]]:
    """Of what `encode_s3` made, the etag and the checksums."""
    if s3 is None:
        return None, {}
    etag, checksums, *_ = msgpack.unpackb(s3)
    return etag, checksums


def encode_s3(s3: S3Attributes | None) -> bytes | None:
    """The column."""
    packed: bytes | None = None if s3 is None else msgpack.packb(s3_fields(s3))
    return packed


class PartBody(NamedTuple):
    """What a part consists of, and how it is stored. Packed by hand: one entry reads ten thousand of them.

    Attributes:
        identities, places: of a `PieceList`.
        chunk_count: how many chunks these lie in.
        stored: what `encode_stored` made. Few of them differ, so it is understood once for all that are equal.
    """

    identities: bytes
    places: bytes
    chunk_count: int
    stored: bytes
    modified_ns: int

    def encode(self) -> bytes:
        """The column: its form, the number of pieces, chunks and the time, then the bytes."""
        pieces = len(self.places) // PLACE_BYTES
        head = _PART_HEAD.pack(_BODY, pieces, self.chunk_count, self.modified_ns)
        return head + self.identities + self.places + self.stored

    @classmethod
    def decode(cls, body: bytes) -> PartBody:
        """The inverse of `encode`."""
        return cls._make(decode_part_body(body))


def decode_part_body(body: bytes) -> tuple[bytes, bytes, int, bytes, int]:
    """The fields of `PartBody` without one: of ten thousand it takes half."""
    form, pieces, chunk_count, modified_ns = _unpack_part_head(body)
    assert form == _BODY, "the version of the tables says which forms they hold"
    places = _PART_HEAD_BYTES + pieces * IDENTITY_BYTES
    stored = places + pieces * PLACE_BYTES
    return body[_PART_HEAD_BYTES:places], body[places:stored], chunk_count, body[stored:], modified_ns


def modified_ns_of(body: bytes) -> int:
    """The last field of `PartBody`, alone."""
    modified_ns: int = _unpack_part_head(body)[3]
    return modified_ns


class PartStorage(NamedTuple):
    """How a part is stored: see `FileVersion` and `Durability`."""

    epoch: int
    target: int
    acknowledged: int
    nodes: list[str]


def encode_stored(epoch: int, durability: Durability) -> bytes:
    """A part of `PartBody`."""
    packed: bytes = msgpack.packb((epoch, durability.target, durability.acknowledged, durability.nodes))
    return packed


def decode_stored(stored: bytes) -> PartStorage:
    """The inverse of `encode_stored`."""
    return PartStorage(*msgpack.unpackb(stored))


class UploadRecords:
    """On the same connection as `tables`."""

    def __init__(self, tables: Tables) -> None:
        self._database = tables.database
        self._usage = tables.usage
        self._execute = tables.database.execute
        self._one = tables.database.one

    # --- uploads --------------------------------------------------------------------------------------------------

    def upload(self, upload: int) -> UploadRow | None:
        """Whatever became of it, as long as that is known."""
        row = self._one(f"{_SELECT} upload=?", (upload,))
        return None if row is None else UploadRow(*checked("uploads", row))

    def insert(self, row: UploadRow) -> None:
        """One that is not there."""
        self._database.insert("uploads", *row)

    def replace(self, before: UploadRow, row: UploadRow) -> None:
        """Something about it changed."""
        self.remove(before)
        self.insert(row)
        if before.state == OPEN and row.state != OPEN:
            self._usage.close_upload(row.upload, row.incarnation, row.owner)

    def remove(self, row: UploadRow) -> None:
        """Forget it; its parts and references went before."""
        self._database.remove("uploads", *row)

    def scan(self, incarnation: int, lower: bytes, upper: bytes, after_upload: int) -> Iterator[UploadRow]:
        """Uploads that lists show, with lower <= key < upper; under the key `lower` only those after `after_upload`."""
        rows = self._execute(
            f"{_SELECT} incarnation=? AND (key, upload)>(?, ?) AND key<? AND state='open' AND is_internal=0 "
            "ORDER BY key, upload",
            (incarnation, lower, after_upload, upper),
        )
        try:
            for row in rows:
                yield UploadRow(*checked("uploads", row))
        finally:
            rows.close()

    def under_way(self, incarnation: int, limit: int) -> list[UploadRow]:
        """The first `limit` of the uploads that lists show."""
        rows = self._execute(
            f"{_SELECT} incarnation=? AND state='open' AND is_internal=0 ORDER BY key, upload LIMIT ?",
            (incarnation, limit),
        )
        return [UploadRow(*checked("uploads", row)) for row in rows.fetchall()]

    def expired(self, lived_ms: int, limit: int) -> list[UploadRow]:
        """Those whose time is over; completed ones only when they refer to nothing any more that they need not."""
        rows = self._execute(
            f"{_SELECT} expires_ms<=? AND (state='open' OR closed_index IS NULL) ORDER BY expires_ms, upload LIMIT ?",
            (lived_ms, limit),
        )
        return [UploadRow(*checked("uploads", row)) for row in rows.fetchall()]

    def closed(self, up_to_index: int, limit: int) -> list[UploadRow]:
        """The first that were completed or aborted, none after `up_to_index`, and may keep more than they need."""
        rows = self._execute(f"{_SELECT} closed_index<=? ORDER BY closed_index, upload LIMIT ?", (up_to_index, limit))
        return [UploadRow(*checked("uploads", row)) for row in rows.fetchall()]

    # --- parts ----------------------------------------------------------------------------------------------------

    def part(self, upload: int, number: int) -> PartRow | None:
        """The part that was put last under that number."""
        row = self._one(f"{_PARTS} number=?", (upload, number))
        return None if row is None else PartRow(*checked("parts", row))

    def parts(self, upload: int, *, after: int = 0, limit: int) -> list[PartRow]:
        """Parts by number, the first `limit` after `after`."""
        rows = self._execute(f"{_PARTS} number>? ORDER BY number LIMIT ?", (upload, after, limit))
        return [PartRow._make(columns) for columns in checked_all("parts", rows)]

    def named_parts(self, upload: int, numbers: Collection[int]) -> Generator[Row, None, None]:
        """Those of the parts that are there, by number, fetched as they are taken: nothing holds ten thousand rows.

        Each as a plain tuple of what `PartRow` has.
        """
        first, last = min(numbers), max(numbers)
        if len(numbers) == last - first + 1:
            # All of a range, as nearly always: a scan takes two thirds of the time.
            rows = self._execute(f"{_PARTS} number>=? AND number<=? ORDER BY number", (upload, first, last))
        else:
            rows = self._execute(_NAMED_PARTS, (upload, json.dumps(sorted(numbers))))
        try:
            yield from checked_all("parts", rows)
        finally:
            rows.close()

    def parts_within(self, upload: int, limit: int, *, bytes_per_row: int) -> tuple[list[PartRow], int]:
        """The first parts, which count `limit` or a little more together: each as one, and its body by its bytes."""
        found, counted = [], 0
        rows = self._execute(f"{_PARTS} number>0 ORDER BY number", (upload,))
        try:
            for columns in checked_all("parts", rows):
                found.append(PartRow._make(columns))
                counted += 1 + len(found[-1].body) // bytes_per_row
                if counted >= limit:
                    break
        finally:
            rows.close()
        return found, counted

    def put_part(self, upload: UploadRow, before: PartRow | None, row: PartRow) -> None:
        """A part of an upload under way, in place of the one of its number, if there is one."""
        if before is not None:
            self.remove_part(before)
        self._database.insert("parts", *row)
        more_bytes = row.size_bytes - (0 if before is None else before.size_bytes)
        self._usage.change_parts(upload.upload, upload.incarnation, upload.owner, more_bytes)

    def remove_part(self, row: PartRow) -> None:
        """It was replaced, or its upload is closed."""
        self._database.remove("parts", *row)
