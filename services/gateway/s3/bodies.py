"""Which of S3's forms a body has, and the bytes that it means (`S3Body`).

A plain body is received straight into the place where it stays. One with the framing of `aws-chunked` is decoded on its way
(`chunked_bodies`); what it says of itself is proved before it is given out or, where only its end can tell, at its end.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

from starlette.types import Receive, Scope

from services.gateway.api.client_connection import ClientBody
from services.gateway.s3.body_hashing import INLINE_BYTES
from services.gateway.s3.chunked_bodies import ChunkedDecoder
from services.gateway.s3.errors import S3Error
from services.gateway.s3.signatures import UNSIGNED_PAYLOAD, SignatureChain
from services.gateway.transfers.admission import Transfer
from services.gateway.transfers.chunking import PacedBody

SIGNED_CHUNKS: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_CHUNKS_TRAILER: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_CHUNKS_TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

_STREAMING: Final = frozenset({SIGNED_CHUNKS, SIGNED_CHUNKS_TRAILER, UNSIGNED_CHUNKS_TRAILER})
_WITH_SIGNATURES: Final = frozenset({SIGNED_CHUNKS, SIGNED_CHUNKS_TRAILER})
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")
_LENGTH: Final = re.compile(r"[0-9]{1,20}")
_DECODED_LENGTH: Final = "x-amz-decoded-content-length"
_TRAILER: Final = re.compile(r"x-amz-checksum-(?:crc32|crc32c|crc64nvme|sha1|sha256)")
_CODING: Final = "aws-chunked"


@dataclass(frozen=True, slots=True)
class BodyForm:
    """What a head says of its body.

    Attributes:
        size_bytes: of what is meant; None where the head does not say.
        sha256: what all of it must hash to as it is sent; None where the head does not say.
        is_chunked: it has the framing of `aws-chunked`.
        has_signatures: its chunks are signed, and the trailer if there is one.
        trailer: the header that follows the bytes, in lower case.
    """

    size_bytes: int | None
    sha256: bytes | None = None
    is_chunked: bool = False
    has_signatures: bool = False
    trailer: str | None = None


def body_form(payload: str, headers: Mapping[str, str]) -> BodyForm:
    """By what stands for the body in what was signed (`x-amz-content-sha256`), and by the headers that go with it.

    Raises:
        S3Error: it is a form that is not known here, or its headers are missing or malformed.
    """
    if payload.startswith("STREAMING-AWS4-ECDSA-"):
        raise S3Error("NotImplemented", "Bodies that are signed with Signature Version 4A are not offered.")
    sha256 = bytes.fromhex(payload) if _SHA256.fullmatch(payload) else None
    if sha256 is None and payload != UNSIGNED_PAYLOAD and payload not in _STREAMING:
        raise S3Error(
            "InvalidArgument",
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, "
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, or a valid sha256 value.",
        )
    is_chunked = payload in _STREAMING or _CODING in _codings(headers)
    trailer = _trailer(headers)
    if trailer is not None and (not is_chunked or payload == SIGNED_CHUNKS):
        raise S3Error("InvalidRequest", "x-amz-trailer needs a body that has a trailer.")
    if trailer is None and payload == SIGNED_CHUNKS_TRAILER:
        raise S3Error("InvalidRequest", "A body whose trailer is signed needs x-amz-trailer.")
    size_bytes = _decoded_length(headers) if is_chunked else _content_length(headers)
    return BodyForm(size_bytes, sha256, is_chunked, payload in _WITH_SIGNATURES, trailer)


def without_framing(headers: Mapping[str, str]) -> Mapping[str, str]:
    """`headers` without what tells of the framing and not of the file: `aws-chunked` is no content coding."""
    if _CODING not in _codings(headers):
        return headers
    stored = ",".join(coding for coding in headers["content-encoding"].split(",") if coding.strip().lower() != _CODING)
    kept = {name: value for name, value in headers.items() if name != "content-encoding"}
    return {**kept, "content-encoding": stored.strip()} if stored.strip() else kept


def body_of_request(
    scope: Scope, receive: Receive, form: BodyForm, chain: SignatureChain | None
) -> PlainBody | ChunkedBody:
    """The bytes that a client means. `chain`: of the head, where the body has signatures."""
    if not form.is_chunked:
        return PlainBody(scope, receive, form)
    assert form.size_bytes is not None, "the size of a body in chunks is announced"
    decoder = ChunkedDecoder(form.size_bytes, chain=chain if form.has_signatures else None, announced=form.trailer)
    return ChunkedBody(ClientBody(scope, receive, None), form, decoder)


class PlainBody(ClientBody):
    """Bytes as they are sent. See `S3Body`."""

    def __init__(self, scope: Scope, receive: Receive, form: BodyForm) -> None:
        super().__init__(scope, receive, form.size_bytes)
        self.size_bytes = form.size_bytes
        self.sha256 = form.sha256
        self.announced_trailer: str | None = None
        self.trailers: Mapping[str, str] = {}

    async def __anext__(self) -> bytes:
        """See `ClientBody`. For what is empty nothing is asked for."""
        if self.size_bytes == 0:
            raise StopAsyncIteration
        return await super().__anext__()

    async def read(self, limit_bytes: int, transfer: Transfer | None = None) -> bytes:
        """See `S3Body`."""
        data = await joined(self, self.size_bytes, limit_bytes, transfer)
        if self.sha256 is not None:
            check_sha256(self.sha256, hashlib.sha256(data).digest())
        return data


class ChunkedBody(AsyncIterator[bytes]):
    """Bytes out of the framing of `aws-chunked`. See `S3Body`.

    What the head says that the body hashes to is said of the body as it was sent, so it is compared here and not by whoever
    takes the bytes.
    """

    def __init__(self, body: ClientBody, form: BodyForm, decoder: ChunkedDecoder) -> None:
        self.size_bytes = form.size_bytes
        self.sha256: bytes | None = None
        self.announced_trailer = form.trailer
        self._body = body
        self._decoder = decoder
        self._sent_sha256 = form.sha256
        self._hash = None if form.sha256 is None else hashlib.sha256()
        self._is_hashed = form.has_signatures or self._hash is not None
        self._ready: list[bytes] = []

    @property
    def trailers(self) -> Mapping[str, str]:
        """See `S3Body`."""
        return self._decoder.trailers

    async def __anext__(self) -> bytes:
        """The next bytes. Raises S3Error, as `ChunkedDecoder`; RequestTimeoutError, as `ClientBody`."""
        while not self._ready:
            try:
                piece = await anext(self._body)
            except StopAsyncIteration:
                self._end()
                raise
            # Chunks may be of one byte each: 64 KiB of those are a tenth of a second of work.
            is_work = self._is_hashed or not self._decoder.is_within_chunk(len(piece))
            if is_work and len(piece) > INLINE_BYTES:
                self._ready = await asyncio.get_running_loop().run_in_executor(None, self._decoded, piece)
            else:
                self._ready = self._decoded(piece)
            self._ready.reverse()
        return self._ready.pop()

    def _decoded(self, piece: bytes) -> list[bytes]:
        if self._hash is not None:
            self._hash.update(piece)
        return self._decoder.feed(piece)

    async def read(self, limit_bytes: int, transfer: Transfer | None = None) -> bytes:
        """See `S3Body`."""
        return await joined(self, self.size_bytes, limit_bytes, transfer)

    def _end(self) -> None:
        self._decoder.finish()
        if self._hash is not None and self._sent_sha256 is not None:
            check_sha256(self._sent_sha256, self._hash.digest())


def check_sha256(expected: bytes, sha256: bytes) -> None:
    """Return when the body is the one that was signed.

    Raises:
        S3Error: XAmzContentSHA256Mismatch.
    """
    if not hmac.compare_digest(expected, sha256):
        raise S3Error(
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
            ClientComputedContentSHA256=expected.hex(),
            S3ComputedContentSHA256=sha256.hex(),
        )


async def joined(
    body: AsyncIterator[bytes], size_bytes: int | None, limit_bytes: int, transfer: Transfer | None
) -> bytes:
    """All of a body, see `S3Body.read`. Raises S3Error, EntityTooLarge: it has more than `limit_bytes`."""
    too_large = S3Error("EntityTooLarge", f"The body of this request has at most {limit_bytes} bytes.")
    if size_bytes is not None and size_bytes > limit_bytes:
        raise too_large
    pieces: list[bytes] = []
    read_bytes = 0
    async for piece in body if transfer is None else PacedBody(body, transfer):
        read_bytes += len(piece)
        if read_bytes > limit_bytes:
            raise too_large
        pieces.append(piece)
    return b"".join(pieces)


def _codings(headers: Mapping[str, str]) -> list[str]:
    value = headers.get("content-encoding")
    return [] if value is None else [coding.strip().lower() for coding in value.split(",")]


def _trailer(headers: Mapping[str, str]) -> str | None:
    value = headers.get("x-amz-trailer")
    if value is None:
        return None
    name = value.strip().lower()
    if not _TRAILER.fullmatch(name):
        raise S3Error("InvalidRequest", "The value specified in the x-amz-trailer header is not supported")
    return name


def _decoded_length(headers: Mapping[str, str]) -> int:
    if (value := headers.get(_DECODED_LENGTH)) is None:
        raise S3Error("MissingContentLength", f"You must provide the {_DECODED_LENGTH} HTTP header.")
    return _number(_DECODED_LENGTH, value)


def _content_length(headers: Mapping[str, str]) -> int | None:
    """None where the body is in chunks of HTTP."""
    if "transfer-encoding" in headers:
        return None
    return _number("content-length", headers.get("content-length", "0"))


def _number(name: str, value: str) -> int:
    if not _LENGTH.fullmatch(value.strip()):
        raise S3Error("InvalidArgument", f"{name} is a number of bytes.")
    return int(value)
