"""Moves one version from one server to another: bytes in the parts that they had, headers, metadata and tags.

Nothing is published that was not read whole: the length, and the MD5 where the source's ETag is one, are compared before the last
chunk goes out; and the target compares a CRC32 of what it got with that of what was read (a trailer, as SDKs send it).
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final
from urllib.parse import urlencode

import httpx

from trivet.import_s3.histories import Version
from trivet.import_s3.signing import ClientRequest, Query
from trivet.import_s3.store import Store, StoreError, version_query
from trivet.import_s3.units import KIB, MIB
from trivet.import_s3.xml_documents import document, element, group, parse

TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
CHECKSUM: Final = "x-amz-checksum-crc32"
CHUNKED: Final = "aws-chunked"
MIN_PART_BYTES: Final = 5 * MIB

_PIECE_BYTES: Final = 256 * KIB
_KEPT_HEADERS: Final = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
)
_METADATA: Final = "x-amz-meta-"
_ENCRYPTION: Final = "x-amz-server-side-encryption"
_PARTS_COUNT: Final = "x-amz-mp-parts-count"


class SourceChangedError(Exception):
    """What came was not what the list had said; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Place:
    """A key in a bucket."""

    bucket: str
    key: str

    @property
    def path(self) -> str:
        """Of a request."""
        return f"/{self.bucket}/{self.key}"


class VersionTransfer:
    """From `source` to `target`. Every call raises StoreError, SourceChangedError or httpx.HTTPError."""

    def __init__(self, source: Store, target: Store) -> None:
        self._source = source
        self._target = target

    def copy(self, place: Place, version: Version) -> None:
        """Bring one version over, or make its delete marker anew."""
        if version.is_marker:
            self._target.call("DELETE", place.path)
            return
        head = self._source.call("HEAD", place.path, version_query(version)).headers
        sent = carried(head)
        if tags := self._source.tags(place.bucket, place.key, version):
            sent["x-amz-tagging"] = urlencode(tags)
        if version.part_count is None:
            self._copy_whole(place, version, sent, has_md5="kms" not in head.get(_ENCRYPTION, ""))
        else:
            self._copy_parts(place, version, sent)

    def digests(self, place: Place, ours: Version, theirs: Version) -> tuple[str, str]:
        """SHA-256 of the bytes of a version at the source and at the target, read whole."""
        return _digest(self._source, place, ours), _digest(self._target, place, theirs)

    def _copy_whole(self, place: Place, version: Version, sent: Mapping[str, str], *, has_md5: bool) -> None:
        with self._source.stream(ClientRequest("GET", place.path, version_query(version))) as answer:
            body = _checked(answer, version.size, version.md5 if has_md5 else None)
            self._put(place, (), sent, body, version.size)

    def _copy_parts(self, place: Place, version: Version, sent: Mapping[str, str]) -> None:
        started = self._target.send(ClientRequest("POST", place.path, [("uploads", "")], sent))
        upload = parse(started.content, "InitiateMultipartUploadResult").findtext("UploadId") or ""
        try:
            parts = [
                (number, self._copy_part(place, version, upload, number, piece))
                for number, piece in enumerate(self._pieces(place, version), 1)
            ]
            rows = [group("Part", [element("PartNumber", number), element("ETag", etag)]) for number, etag in parts]
            named = [("uploadId", upload)]
            done = self._target.call("POST", place.path, named, body=document("CompleteMultipartUpload", rows))
            # An error after the answer has begun comes with 200.
            parse(done.content, "CompleteMultipartUploadResult")
        except BaseException:
            self._give_up(place, upload)
            raise

    def _copy_part(self, place: Place, version: Version, upload: str, number: int, piece: range) -> str:
        """One part; its ETag at the target."""
        span = {"range": f"bytes={piece.start}-{piece.stop - 1}"} if piece else {}
        with self._source.stream(ClientRequest("GET", place.path, version_query(version), span)) as answer:
            named = [("partNumber", str(number)), ("uploadId", upload)]
            return self._put(place, named, {}, _checked(answer, len(piece), None), len(piece))

    def _pieces(self, place: Place, version: Version) -> list[range]:
        """Where the parts of a version begin and end: as the source says, or of one length that gives as many, in whole MiB."""
        count = version.part_count or 1
        each = self._part_size(place, version, 1)
        if each is None:
            each = max(MIN_PART_BYTES, -(-version.size // count // MIB) * MIB)
        elif not each * (count - 1) < version.size <= each * count:
            sizes = [self._part_size(place, version, number) or 0 for number in range(1, count + 1)]
            return [range(start, stop) for start, stop in pairwise(accumulate(sizes, initial=0))]
        starts = [*range(0, version.size, each), version.size]
        return [range(start, stop) for start, stop in pairwise(starts)] or [range(0)]

    def _part_size(self, place: Place, version: Version, number: int) -> int | None:
        """None where the source does not know parts."""
        try:
            named = [("partNumber", str(number)), *version_query(version)]
            head = self._source.call("HEAD", place.path, named).headers
        except StoreError:
            return None
        return int(head["content-length"]) if _PARTS_COUNT in head else None

    def _put(self, place: Place, query: Query, sent: Mapping[str, str], body: Iterable[bytes], size: int) -> str:
        """Store a body under a checksum; its ETag."""
        framing = {
            "content-encoding": ",".join(filter(None, (sent.get("content-encoding"), CHUNKED))),
            "content-length": str(framed_size(size)),
            "x-amz-decoded-content-length": str(size),
            "x-amz-trailer": CHECKSUM,
        }
        request = ClientRequest("PUT", place.path, query, {**sent, **framing})
        with self._target.stream(request, framed(body), TRAILER) as answer:
            answer.read()
            return answer.headers["etag"].strip('"')

    def _give_up(self, place: Place, upload: str) -> None:
        try:
            self._target.call("DELETE", place.path, [("uploadId", upload)])
        except (StoreError, httpx.HTTPError):
            return


def carried(head: Mapping[str, str]) -> dict[str, str]:
    """The headers of an answer that are an object's own, as they go out with its upload."""
    kept = {name: head[name] for name in _KEPT_HEADERS if name in head}
    # Some servers take the framing of an upload for a coding of the object.
    codings = [coding for coding in kept.pop("content-encoding", "").replace(" ", "").split(",") if coding != CHUNKED]
    if any(codings):
        kept["content-encoding"] = ",".join(codings)
    return kept | {name: value for name, value in head.items() if name.startswith(_METADATA)}


def framed(body: Iterable[bytes]) -> Iterator[bytes]:
    """`aws-chunked` with a CRC32 as its trailer. `body`: pieces of `_PIECE_BYTES`, but for the last."""
    crc = 0
    for piece in body:
        crc = zlib.crc32(piece, crc)
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n%b:%b\r\n\r\n" % (CHECKSUM.encode(), base64.b64encode(crc.to_bytes(4, "big")))


def framed_size(size: int) -> int:
    """Bytes of `framed` for a body of `size`."""
    whole, rest = divmod(size, _PIECE_BYTES)
    trailer = len("0\r\n") + len(CHECKSUM) + len(":") + len("AAAAAA==") + len("\r\n\r\n")
    return size + whole * len(f"{_PIECE_BYTES:x}\r\n\r\n") + (len(f"{rest:x}\r\n\r\n") if rest else 0) + trailer


def _checked(answer: httpx.Response, size: int, md5: str | None) -> Iterator[bytes]:
    """The body in pieces. Raises SourceChangedError before the end of one that is longer, shorter or another."""
    digest, count = hashlib.md5(usedforsecurity=False), 0
    # As stored: a body that says `Content-Encoding: gzip` stays what it is.
    for piece in _pieces_of(answer.iter_raw(_PIECE_BYTES)):
        count += len(piece)
        digest.update(piece)
        if count > size:
            break
        yield piece
    if count != size or (md5 is not None and digest.hexdigest() != md5):
        raise SourceChangedError(f"{answer.request.url}: {count} bytes came with the MD5 {digest.hexdigest()}")


def _pieces_of(raw: Iterator[bytes]) -> Iterator[bytes]:
    """Joined and cut to `_PIECE_BYTES`, but for the last."""
    held = bytearray()
    for data in raw:
        held += data
        while len(held) >= _PIECE_BYTES:
            yield bytes(held[:_PIECE_BYTES])
            del held[:_PIECE_BYTES]
    if held:
        yield bytes(held)


def _digest(store: Store, place: Place, version: Version) -> str:
    digest = hashlib.sha256()
    with store.stream(ClientRequest("GET", place.path, version_query(version))) as answer:
        for piece in answer.iter_raw():
            digest.update(piece)
    return digest.hexdigest()
