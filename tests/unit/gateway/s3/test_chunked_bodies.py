"""The framing of aws-chunked is taken off exactly, at every split, and what is not exactly it is refused."""

from __future__ import annotations

import base64
import io
import random
import zlib
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress

import pytest
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum

from services.gateway.s3.chunked_bodies import (
    SIGNED_CHUNK_MAX,
    SIZE_LINE_MAX,
    TRAILER_MAX,
    ChunkedDecoder,
)
from services.gateway.s3.errors import S3Error
from services.gateway.s3.signatures import SignatureChain, signing_key
from tests.unit.gateway.s3 import aws_chunks
from tests.unit.gateway.s3.aws_chunks import MOMENT, REGION, SECRET, ChunkSigner

DATA = b"0\r\n\r\n5;chunk-signature=00\r\nbytes that look like a frame\r\n0\r\n\r\n" + bytes(range(48))
SIZES = [1, 2, 16, 33]
SEED = "5" * 64
NAME = "x-amz-checksum-crc32"
TRAILER = (NAME, base64.b64encode(zlib.crc32(DATA).to_bytes(4)).decode())


def chain(signature: str = SEED) -> SignatureChain:
    signer = ChunkSigner(signature)
    return SignatureChain(MOMENT, signer.scope, signature, signing_key(SECRET, MOMENT[:8], REGION))


def by_botocore() -> bytes:
    return AwsChunkedWrapper(io.BytesIO(DATA), Crc32Checksum, NAME, chunk_size=19).read()


FORMS: dict[str, tuple[Callable[[], bytes], bool, str | None]] = {
    "unsigned": (lambda: aws_chunks.unsigned(DATA, SIZES), False, None),
    "unsigned with a trailer": (lambda: aws_chunks.unsigned(DATA, SIZES, TRAILER), False, NAME),
    "signed": (lambda: aws_chunks.signed(DATA, SIZES, ChunkSigner(SEED)), True, None),
    "signed with a trailer": (lambda: aws_chunks.signed(DATA, SIZES, ChunkSigner(SEED), TRAILER), True, NAME),
    "botocore": (by_botocore, False, NAME),
    "minio-go, unsigned": (lambda: aws_chunks.unsigned_by_minio_go(DATA, SIZES, TRAILER), False, NAME),
    "minio-go, signed": (lambda: aws_chunks.signed_by_minio_go(DATA, SIZES, ChunkSigner(SEED), TRAILER), True, NAME),
}
forms = pytest.mark.parametrize("form", FORMS)


def encoded(form: str) -> bytes:
    return FORMS[form][0]()


def decoder(form: str, size_bytes: int = len(DATA)) -> ChunkedDecoder:
    _, is_signed, announced = FORMS[form]
    return ChunkedDecoder(size_bytes, chain=chain() if is_signed else None, announced=announced)


def decode(form: str, parts: Iterable[bytes], size_bytes: int = len(DATA)) -> tuple[bytes, dict[str, str]]:
    it = decoder(form, size_bytes)
    data = b"".join(piece for part in parts for piece in it.feed(part))
    it.finish()
    return data, it.trailers


def feed(it: ChunkedDecoder, parts: Iterable[bytes]) -> None:
    """All of a body."""
    for part in parts:
        it.feed(part)
    it.finish()


def in_pieces(data: bytes, piece_bytes: int) -> list[bytes]:
    return [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]


def expected(form: str) -> tuple[bytes, dict[str, str]]:
    return DATA, {} if FORMS[form][2] is None else dict([TRAILER])


@forms
def test_the_bytes_come_out_at_every_split(form: str) -> None:
    """In two parts, whichever, and byte by byte."""
    body = encoded(form)
    for at in range(len(body) + 1):
        assert decode(form, [body[:at], body[at:]]) == expected(form), at
    assert decode(form, [body[at : at + 1] for at in range(len(body))]) == expected(form)


@forms
def test_the_bytes_come_out_at_many_splits(form: str, seed: int) -> None:
    """In parts of any length."""
    chance = random.Random(seed)
    body = encoded(form)
    for _ in range(300):
        cuts = sorted(chance.sample(range(len(body) + 1), chance.randrange(2, 12)))
        parts = [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        assert decode(form, parts) == expected(form), (seed, cuts)


@pytest.mark.parametrize("size_bytes", [0, 1, 65536, SIGNED_CHUNK_MAX])
@forms
def test_chunks_of_every_size(form: str, size_bytes: int) -> None:
    """From nothing to the largest that may be signed."""
    data = bytes(size_bytes)
    signer, trailer = ChunkSigner(SEED), None if FORMS[form][2] is None else TRAILER
    body = (
        aws_chunks.signed(data, [SIGNED_CHUNK_MAX], signer, trailer)
        if FORMS[form][1]
        else aws_chunks.unsigned(data, [SIGNED_CHUNK_MAX], trailer)
    )
    assert decode(form, in_pieces(body, 65521), size_bytes)[0] == data


@forms
def test_no_other_body_passes_for_it(form: str) -> None:
    """Each bit of it flipped: an error, or nothing but a byte of an unsigned chunk is another one."""
    body = encoded(form)
    data, trailers = expected(form)
    for at in range(8 * len(body)):
        other = bytearray(body)
        other[at // 8] ^= 1 << at % 8
        try:
            found, found_trailers = decode(form, [bytes(other)])
        except S3Error:
            continue
        assert len(found) == len(data)
        wrong = sum(mine != theirs for mine, theirs in zip(found, data, strict=True))
        wrong += sum(found_trailers[name] != trailers[name] for name in trailers)
        assert wrong <= (0 if FORMS[form][1] else 1), (at, other)


@forms
def test_no_shorter_body_passes_for_it(form: str) -> None:
    """It broke off, at whatever byte; the end of line that minio-go has too many may be missing."""
    body = encoded(form)
    needed = len(body) - (2 if form == "minio-go, unsigned" else 0)
    for length in range(needed):
        with pytest.raises(S3Error, match=r"IncompleteBody|InvalidRequest"):
            decode(form, [body[:length]])


@forms
@pytest.mark.parametrize("garbage", [b"x", b"\n", b"\r\nx", b"\r\n\r\n", b"\0", b"0\r\n\r\n"])
def test_nothing_follows_the_end(form: str, garbage: bytes) -> None:
    """But one end of line."""
    body = encoded(form)
    for parts in ([body + garbage], [body, garbage], [body, *[garbage[at : at + 1] for at in range(len(garbage))]]):
        with pytest.raises(S3Error, match="InvalidRequest"):
            decode(form, parts)


@forms
@pytest.mark.parametrize("difference", [-1, 1])
def test_the_length_is_the_announced_one(form: str, difference: int) -> None:
    """x-amz-decoded-content-length counts to the byte."""
    it = decoder(form, len(DATA) + difference)
    with pytest.raises(S3Error, match="IncompleteBody"):
        feed(it, [encoded(form)])


@forms
def test_no_byte_too_many_is_given_out(form: str) -> None:
    """Not even before the end, where it would be noticed."""
    it, found = decoder(form, len(DATA) - 1), []
    with suppress(S3Error):
        for part in in_pieces(encoded(form), 1):
            found += it.feed(part)
    assert len(b"".join(found)) < len(DATA)


def test_no_byte_of_a_chunk_goes_on_before_it_is_proved() -> None:
    """Also when all of it is there but its last byte; and never, if the signature is another one's."""
    signer = ChunkSigner(SEED)
    head = signer.chunk(DATA)
    it = decoder("signed")
    assert it.feed(head + DATA[:-1]) == []
    assert b"".join(it.feed(DATA[-1:])) == DATA
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        decoder("signed").feed(head + DATA[:-1] + b"x")


def test_chunks_keep_their_order() -> None:
    """Each signature signs the one before."""
    signer = ChunkSigner(SEED)
    first, second = (signer.chunk(data) + data + b"\r\n" for data in (b"aaaa", b"bbbb"))
    assert decoder("signed", 8).feed(first + second) == [b"aaaabbbb"]
    for wrong in (second + first, first + first, second):
        with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
            decoder("signed", 8).feed(wrong)


def test_a_chunk_of_another_head_is_refused() -> None:
    """The chain begins with the signature of the head."""
    body = aws_chunks.signed(DATA, SIZES, ChunkSigner("6" * 64))
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        decoder("signed").feed(body)


def test_a_signed_chunk_is_not_longer_than_what_is_held() -> None:
    """Of an unsigned one nothing is held, so it may be."""
    size_bytes = SIGNED_CHUNK_MAX + 1
    with pytest.raises(S3Error, match="InvalidRequest"):
        decoder("signed", size_bytes).feed(b"%x;chunk-signature=%b\r\n" % (size_bytes, b"0" * 64))
    assert decoder("unsigned", size_bytes).feed(b"%x\r\n" % size_bytes) == []


@pytest.mark.parametrize("piece_bytes", [1, SIZE_LINE_MAX + 1])
def test_a_size_line_is_bounded(piece_bytes: int) -> None:
    """Whatever it has, and however it is split."""
    line = b"1" * (SIZE_LINE_MAX + 1)
    it = decoder("unsigned")
    with pytest.raises(S3Error, match="InvalidRequest"):
        feed(it, in_pieces(line, piece_bytes))


@pytest.mark.parametrize("piece_bytes", [1, 7, TRAILER_MAX])
def test_a_trailer_is_bounded(piece_bytes: int) -> None:
    """To the byte, however it is split."""
    for surplus in (0, 1):
        frame = len(NAME) + len(":\r\n\r\n")
        lines = f"{NAME}:{'x' * (TRAILER_MAX - frame + surplus)}\r\n\r\n".encode()
        it = decoder("unsigned with a trailer", 0)
        it.feed(b"0\r\n")
        with pytest.raises(S3Error, match="InvalidRequest") if surplus else nullcontext():
            feed(it, in_pieces(lines, piece_bytes))


@pytest.mark.parametrize(
    "line",
    [
        b"\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"1_0\r\n",
        b"g\r\n",
        b"1\n",
        b"1\r\r\n",
        b"1;\r\n",
        b"1;a=b\r\n",
        b"1;chunk-signature=" + b"0" * 64 + b"\r\n",
        b"10000000000000001\r\n",
    ],
)
def test_a_size_is_hex_and_nothing_else(line: bytes) -> None:
    """What one reader takes for a size and another for something else is no size."""
    with pytest.raises(S3Error, match="InvalidRequest"):
        decoder("unsigned").feed(line)


@pytest.mark.parametrize("line", [b"1\r\n", b"1;\r\n", b"1;chunk-signature\r\n", b"1;chunk-signature=\r\n"])
def test_a_signed_chunk_has_its_signature(line: bytes) -> None:
    """It cannot be left out."""
    with pytest.raises(S3Error, match=r"InvalidRequest|SignatureDoesNotMatch"):
        decoder("signed").feed(line + b"x")


@pytest.mark.parametrize(
    "lines",
    [
        b"\r\n",  # announced, and not there
        b"x-amz-checksum-sha1:x\r\n\r\n",  # another one
        b"x-amz-checksum-crc32:x\r\nx-amz-checksum-crc32:x\r\n\r\n",
        b"x-amz-checksum-crc32:x\r\nx-amz-meta-a:b\r\n\r\n",
        b"x-amz-checksum-crc32:\r\n\r\n",
        b"x-amz-checksum-crc32\r\n\r\n",
        b"x-amz-checksum-crc32 :x\r\n\r\n",
        b":x\r\n\r\n",
        b"x-amz-checksum-crc32:a\x00b\r\n\r\n",
        b"x-amz-checksum-crc32:\xff\r\n\r\n",
        b"x-amz-trailer-signature:x\r\n\r\n",
    ],
)
def test_a_trailer_has_what_was_announced(lines: bytes) -> None:
    """Once, and nothing else."""
    it = decoder("unsigned with a trailer", 0)
    with pytest.raises(S3Error, match="InvalidRequest"):
        it.feed(b"0\r\n" + lines)


def test_a_signed_trailer_is_not_taken_without_its_signature() -> None:
    """Nor with that of another value, nor with one before it."""
    for change in (
        lambda name, value, signature: f"{name}:{value}\r\n\r\n",
        lambda name, value, signature: f"{name}:{value}\r\n\r\n\r\n\r\n",
        lambda name, value, signature: f"{name}:{value[1:]}\r\n{signature}\r\n\r\n",
        lambda name, value, signature: f"{signature}\r\n{name}:{value}\r\n\r\n",
        lambda name, value, signature: f"{name}:{value}\r\n{signature}\r\n{signature}\r\n\r\n",
    ):
        signer = ChunkSigner(SEED)
        body = signer.chunk(b"")
        signature = signer.trailer(f"{TRAILER[0]}:{TRAILER[1]}\n".encode()).decode()
        it = decoder("signed with a trailer", 0)
        with pytest.raises(S3Error, match=r"InvalidRequest|SignatureDoesNotMatch|IncompleteBody"):
            feed(it, [body + change(*TRAILER, signature).encode()])


def test_amazons_own_example_of_signed_chunks() -> None:
    """In "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks"."""
    seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    signatures = [
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ]
    body = b"".join(
        b"%x;chunk-signature=%b\r\n%b\r\n" % (size, signature.encode(), b"a" * size)
        for size, signature in zip((65536, 1024, 0), signatures, strict=True)
    )
    key = signing_key("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "20130524", "us-east-1")
    example = SignatureChain("20130524T000000Z", "20130524/us-east-1/s3/aws4_request", seed, key)
    it = ChunkedDecoder(66560, chain=example, announced=None)
    assert b"".join(it.feed(body)) == b"a" * 66560
    it.finish()


@forms
def test_what_comes_at_once_goes_on_as_one_piece(form: str) -> None:
    """Chunks may be of one byte, and a piece for each would cost whoever keeps them three hundred times as much."""
    data = bytes(range(256)) * 16
    signer, trailer = ChunkSigner(SEED), None if FORMS[form][2] is None else TRAILER
    ones = [1] * len(data)
    body = (
        aws_chunks.signed(data, ones, signer, trailer) if FORMS[form][1] else aws_chunks.unsigned(data, ones, trailer)
    )
    it = ChunkedDecoder(len(data), chain=chain() if FORMS[form][1] else None, announced=FORMS[form][2])
    assert it.feed(body) == [data]
    it.finish()
