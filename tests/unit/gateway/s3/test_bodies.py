"""Which form a body has, and what comes out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest
from starlette.types import Message

from services.gateway.s3.bodies import BodyForm, ChunkedBody, PlainBody, body_form, body_of_request, without_framing
from services.gateway.s3.errors import S3Error
from services.gateway.s3.signatures import SignatureChain, signing_key
from services.gateway.transfers.chunking import DirectBody
from shared.units import KIB
from tests.unit.gateway.s3 import aws_chunks
from tests.unit.gateway.s3.aws_chunks import MOMENT, REGION, SECRET, ChunkSigner

DATA = b"0\r\n\r\nbytes" * 20_000
SHA256 = hashlib.sha256(DATA).hexdigest()
STREAMING = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"


class Client:
    """Sends pieces, and counts how often it was asked for one."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = list(pieces)
        self.asked = 0

    async def receive(self) -> Message:
        self.asked += 1
        if not self._pieces:
            return {"type": "http.disconnect"}
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}


def body(data: bytes, form: BodyForm, chain: SignatureChain | None = None, piece_bytes: int = 100_000):
    client = Client(data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes))
    return body_of_request({}, client.receive, form, chain)


async def bytes_of(it: PlainBody | ChunkedBody) -> bytes:
    return b"".join([piece async for piece in it])


@pytest.mark.parametrize(
    ("payload", "headers", "expected"),
    [
        (SHA256, {"content-length": "5"}, BodyForm(5, bytes.fromhex(SHA256))),
        (SHA256.upper(), {"content-length": "5"}, BodyForm(5, bytes.fromhex(SHA256))),
        ("UNSIGNED-PAYLOAD", {"content-length": "5"}, BodyForm(5)),
        ("UNSIGNED-PAYLOAD", {}, BodyForm(0)),
        ("UNSIGNED-PAYLOAD", {"transfer-encoding": "chunked"}, BodyForm(None)),
        (STREAMING, {"x-amz-decoded-content-length": "5"}, BodyForm(5, is_chunked=True)),
        (
            STREAMING,
            {"x-amz-decoded-content-length": "5", "x-amz-trailer": " X-Amz-Checksum-CRC32 "},
            BodyForm(5, is_chunked=True, trailer="x-amz-checksum-crc32"),
        ),
        (SIGNED, {"x-amz-decoded-content-length": "5"}, BodyForm(5, is_chunked=True, has_signatures=True)),
        (
            SIGNED + "-TRAILER",
            {"x-amz-decoded-content-length": "5", "x-amz-trailer": "x-amz-checksum-sha256"},
            BodyForm(5, is_chunked=True, has_signatures=True, trailer="x-amz-checksum-sha256"),
        ),
        (
            "UNSIGNED-PAYLOAD",
            {"content-encoding": "gzip, AWS-chunked", "x-amz-decoded-content-length": "5", "content-length": "9"},
            BodyForm(5, is_chunked=True),
        ),
    ],
)
def test_the_form_of_a_body(payload: str, headers: dict[str, str], expected: BodyForm) -> None:
    """By what was signed in its place, and by its headers."""
    assert body_form(payload, headers) == expected


@pytest.mark.parametrize(
    ("payload", "headers", "code"),
    [
        ("x", {}, "InvalidArgument"),
        ("", {}, "InvalidArgument"),
        (SHA256 + "0", {}, "InvalidArgument"),
        ("STREAMING-PAYLOAD", {}, "InvalidArgument"),
        ("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER", {}, "NotImplemented"),
        (STREAMING, {}, "MissingContentLength"),
        (STREAMING, {"x-amz-decoded-content-length": "-1"}, "InvalidArgument"),
        (STREAMING, {"x-amz-decoded-content-length": "9" * 5000}, "InvalidArgument"),
        (STREAMING, {"x-amz-decoded-content-length": "1", "x-amz-trailer": "x-amz-meta-a"}, "InvalidRequest"),
        (STREAMING, {"x-amz-decoded-content-length": "1", "x-amz-trailer": ""}, "InvalidRequest"),
        (SIGNED, {"x-amz-decoded-content-length": "1", "x-amz-trailer": "x-amz-checksum-crc32"}, "InvalidRequest"),
        (SIGNED + "-TRAILER", {"x-amz-decoded-content-length": "1"}, "InvalidRequest"),
        ("UNSIGNED-PAYLOAD", {"x-amz-trailer": "x-amz-checksum-crc32"}, "InvalidRequest"),
        ("UNSIGNED-PAYLOAD", {"content-length": "x"}, "InvalidArgument"),
        ("UNSIGNED-PAYLOAD", {"content-encoding": "aws-chunked"}, "MissingContentLength"),
    ],
)
def test_a_form_that_is_not_one_is_refused(payload: str, headers: dict[str, str], code: str) -> None:
    """Before any byte of the body is asked for."""
    with pytest.raises(S3Error) as refusal:
        body_form(payload, headers)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    ("coding", "stored"),
    [
        ("aws-chunked", None),
        ("gzip,aws-chunked", "gzip"),
        ("aws-chunked, gzip", "gzip"),
        ("gzip, br , aws-chunked", "gzip, br"),
        ("Aws-Chunked", None),
        ("gzip", "gzip"),
        ("gzip,br", "gzip,br"),
    ],
)
def test_the_framing_is_no_content_coding(coding: str, stored: str | None) -> None:
    """A file that is given out as aws-chunked is one that nobody can read."""
    headers = {"content-encoding": coding, "content-type": "text/plain"}
    assert without_framing(headers).get("content-encoding") == stored
    assert without_framing(headers)["content-type"] == "text/plain"


async def test_a_plain_body_is_read_whole() -> None:
    """When it is what the head says that it hashes to, and not too long."""
    form = BodyForm(len(DATA), bytes.fromhex(SHA256))
    assert await body(DATA, form).read(len(DATA)) == DATA
    with pytest.raises(S3Error, match="XAmzContentSHA256Mismatch"):
        await body(DATA[:-1] + b"x", form).read(len(DATA))
    with pytest.raises(S3Error, match="EntityTooLarge"):
        await body(DATA, form).read(len(DATA) - 1)
    with pytest.raises(S3Error, match="EntityTooLarge"):
        await body(DATA, BodyForm(None)).read(len(DATA) - 1)


def test_a_plain_body_can_be_received_where_it_stays() -> None:
    """What is sent as it is meant costs no copy."""
    assert isinstance(body(b"", BodyForm(5)), DirectBody)
    assert not isinstance(body(b"", BodyForm(5, is_chunked=True)), DirectBody)


async def test_an_empty_body_is_not_asked_for() -> None:
    """Asking would send `100 Continue`, late."""
    client = Client([b""])
    assert await bytes_of(PlainBody({}, client.receive, BodyForm(0))) == b""
    assert client.asked == 0


@pytest.mark.parametrize("piece_bytes", [1000, 64 * KIB, 100_000])
async def test_chunks_come_out_of_their_framing(piece_bytes: int) -> None:
    """Signed or not, in pieces that are hashed at once and such that a thread hashes."""
    form = BodyForm(len(DATA), is_chunked=True)
    assert await bytes_of(body(aws_chunks.unsigned(DATA, [70_000]), form, piece_bytes=piece_bytes)) == DATA
    signer = ChunkSigner("5" * 64)
    chain = SignatureChain(MOMENT, signer.scope, "5" * 64, signing_key(SECRET, MOMENT[:8], REGION))
    form = BodyForm(len(DATA), is_chunked=True, has_signatures=True)
    data = aws_chunks.signed(DATA, [70_000], signer)
    assert await bytes_of(body(data, form, chain, piece_bytes)) == DATA


async def test_a_body_in_chunks_ends_as_it_should() -> None:
    """One that ends early is none, with a word of S3's."""
    form = BodyForm(len(DATA), is_chunked=True)
    data = aws_chunks.unsigned(DATA, [70_000])
    with pytest.raises(S3Error, match="IncompleteBody"):
        await body(data[:-2], form).read(len(DATA))


async def test_a_body_in_chunks_hashes_to_what_was_sent() -> None:
    """The hash in the head is that of the body as it comes, framing included."""
    data = aws_chunks.unsigned(DATA, [70_000])
    form = BodyForm(len(DATA), hashlib.sha256(data).digest(), is_chunked=True)
    assert await body(data, form).read(len(DATA)) == DATA
    with pytest.raises(S3Error, match="XAmzContentSHA256Mismatch"):
        await body(data, BodyForm(len(DATA), bytes.fromhex(SHA256), is_chunked=True)).read(len(DATA))


async def test_a_trailer_is_there_at_the_end() -> None:
    """And not before."""
    form = BodyForm(len(DATA), is_chunked=True, trailer="x-amz-checksum-crc32")
    it = body(aws_chunks.unsigned(DATA, [70_000], ("x-amz-checksum-crc32", "AAAAAA==")), form)
    assert it.announced_trailer == "x-amz-checksum-crc32"
    assert it.trailers == {}
    assert await bytes_of(it) == DATA
    assert it.trailers == {"x-amz-checksum-crc32": "AAAAAA=="}
