"""Short ways to say commands about uploads by parts; reading a version piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from shared.contracts.files import Durability, FileContent
from shared.contracts.metadata import DeleteFile, FileAnswer, GetFile, PassTime
from shared.contracts.uploads import (
    AbortUpload,
    BeginUpload,
    CompleteUpload,
    CopyPart,
    GetUpload,
    ListPieces,
    PiecePage,
    PutPart,
    UploadAnswer,
    UploadPart,
)
from shared.errors import TrivetError
from shared.units import MIB
from tests.unit.consensus.metadata.builders import Log, stamp

CHUNK = MIB
NONCE = "0123456789abcdef" * 2
DAY_S = 86_400
OBJECT_TABLES = ("uploads", "parts", "manifests", "manifest_refs", "compositions", "composition_refs")
LEFTOVERS = (*OBJECT_TABLES, "versions", "chunk_refs", "released", "doomed", "kept", "past")


def large_content(chunks: int, *, fill: int = 1, short_bytes: int = 0) -> FileContent:
    """So many chunks of 1 MiB, the last one shorter by `short_bytes`. The same fill has the same chunks."""
    digests = b"".join(fill.to_bytes(8) + number.to_bytes(24) for number in range(chunks))
    return FileContent(
        size_bytes=chunks * CHUNK - short_bytes, chunk_size_bytes=CHUNK, chunk_digests=digests, digest=f"{fill:064x}"
    )


@dataclass
class UploadOf:
    """An upload under way in `log`, and the part that was put last under each number."""

    log: Log
    upload: int
    parts: dict[int, str]

    @classmethod
    def begin(cls, log: Log, key: str = "a", **changes: Any) -> UploadOf:
        fields: dict[str, Any] = {"bucket": "default", "key": key, "nonce": NONCE, "content_type": "text/plain"}
        result = log.apply(BeginUpload(**fields | changes, stamp=stamp()), retain_s=0)
        return cls(log, result["upload"], {})

    def put(self, number: int, content: FileContent, **changes: Any) -> int:
        """The index of the part."""
        fields: dict[str, Any] = {
            "upload": self.upload,
            "nonce": NONCE,
            "number": number,
            "content": content,
            "start_index": self.log.store.last_applied,
            "epoch": 3,
            "durability": Durability(target=3, acknowledged=2, nodes=["storage-1", "storage-2"]),
            "stamp": stamp(),
        }
        result = self.log.apply(PutPart(**fields | changes), retain_s=0)
        self.parts[number] = result["etag"]
        return int(result["part"])

    def copy(self, number: int, key: str, start: int = 0, end: int | None = None, **changes: Any) -> dict[str, Any]:
        fields: dict[str, Any] = {"source_bucket": "default", "source_key": key}
        fields |= {"range_start": start, "range_end": end, "number": number, "upload": self.upload, "nonce": NONCE}
        result = self.log.apply(CopyPart(**fields | changes, stamp=stamp()), retain_s=0)
        self.parts[number] = result["etag"]
        return result

    def command(self, numbers: list[int] | None = None, **changes: Any) -> CompleteUpload:
        parts = [(number, self.parts[number]) for number in (sorted(self.parts) if numbers is None else numbers)]
        fields: dict[str, Any] = {"upload": self.upload, "nonce": NONCE, "parts": parts, "stamp": stamp()}
        return CompleteUpload(**fields | changes)

    def complete(self, numbers: list[int] | None = None, **changes: Any) -> dict[str, Any]:
        return self.log.apply(self.command(numbers, **changes), retain_s=0)

    def abort(self) -> dict[str, Any]:
        return self.log.apply(AbortUpload(upload=self.upload, nonce=NONCE, stamp=stamp()), retain_s=0)

    def ask(self, **changes: Any) -> UploadAnswer:
        answer = self.log.ask(GetUpload(upload=self.upload, nonce=NONCE, **changes))
        assert isinstance(answer, UploadAnswer)
        return answer

    def listed(self) -> list[UploadPart]:
        return self.ask().parts


def put_large(log: Log, key: str, contents: list[FileContent], **changes: Any) -> int:
    """A file of parts; its version."""
    upload = UploadOf.begin(log, key, **changes)
    for number, content in enumerate(contents, 1):
        upload.put(number, content)
    return int(upload.complete()["version"]["version"])


def read_pieces(log: Log, version: int, *, offset: int = 0, limit: int = 4096) -> list[tuple[bytes, int, int]]:
    """(chunk, first byte shown, byte after the last) of a version from `offset` on, page by page; checks the sizes."""
    shown: list[tuple[bytes, int, int]] = []
    at: int | None = offset
    while at is not None:
        page = log.ask(ListPieces(version=version, offset_bytes=at, limit_chunks=limit))
        assert isinstance(page, PiecePage)
        assert sum(len(piece.chunk_digests) for piece in page.pieces) <= limit * 32
        for piece in page.pieces:
            assert piece.offset_bytes == at
            count, left, skip = len(piece.chunk_digests) // 32, piece.size_bytes, piece.skip_bytes
            for index in range(count):
                size = piece.last_chunk_bytes if index == count - 1 else piece.chunk_size_bytes
                stop = min(size, skip + left)
                assert skip < stop, "no chunk is named in vain"
                shown.append((piece.chunk_digests[index * 32 :][:32], skip, stop))
                left, skip = left - (stop - skip), 0
            assert left == 0
            at += piece.size_bytes
        assert page.next_offset in {None, at}
        at = page.next_offset
    return shown


def shown_of(content: FileContent, start: int = 0, stop: int | None = None) -> list[tuple[bytes, int, int]]:
    """What `read_pieces` gives for those bytes of a chunk list."""
    stop = content.size_bytes if stop is None else stop
    found = []
    for index in range(content.chunk_count):
        digest, size = content.chunk(index)
        at = index * content.chunk_size_bytes
        first, last = max(start - at, 0), min(stop - at, size)
        if first < last:
            found.append((bytes.fromhex(digest), first, last))
    return found


def pass_time(log: Log, seconds: int, *, entries: int = 10_000) -> int:
    """Time passes, and all that is then old enough is forgotten, in so many entries at most; how many it took."""
    elapsed_ms = seconds * 1000
    for number in range(1, entries + 1):
        command = PassTime(
            elapsed_ms=elapsed_ms,
            cursor_retention_s=900,
            tombstone_retention_s=DAY_S,
            reference_retention_s=DAY_S,
            condemned_retention_s=7 * DAY_S,
            stamp=stamp(),
        )
        elapsed_ms = 0
        if not log.apply(command, retain_s=0)["has_more"]:
            return number
    assert entries < 10_000, "it never ends"
    return entries


def count(log: Log, table: str) -> int:
    row = log.store._reader.database.one(f"SELECT count(*) FROM {table}")
    assert row is not None
    return int(row[0])


def get(log: Log, key: str = "a") -> FileAnswer:
    answer = log.ask(GetFile(bucket="default", key=key))
    assert isinstance(answer, FileAnswer)
    return answer


def delete(log: Log, key: str = "a", bucket: str = "default") -> None:
    log.apply(DeleteFile(bucket=bucket, key=key, stamp=stamp()), retain_s=0)


def rows(log: Log) -> dict[str, int]:
    return {table: count(log, table) for table in LEFTOVERS}


def refused(log: Log, kind: type[TrivetError], call: Any, *arguments: Any, **options: Any) -> TrivetError:
    """The call is refused, and nothing but the log index has changed."""
    before = log.store.summary().content_sum
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    assert log.store.summary().content_sum == before
    assert caught.value.definite
    return caught.value
