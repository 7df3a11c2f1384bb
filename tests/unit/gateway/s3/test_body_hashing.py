"""The hashes of a body, computed beside what stores it."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Mapping

import pytest

from services.gateway.s3.body_hashing import INLINE_BYTES, BodyHashes
from services.gateway.s3.checksums import ALGORITHMS, encoded, hasher
from services.gateway.s3.errors import S3Error

BODY = random.Random(5).randbytes(3 * INLINE_BYTES + 17)


class FakeBody:
    """What a head and a trailer say."""

    def __init__(self, *, sha256: bytes | None = None, trailer: str | None = None, **trailers: str) -> None:
        self.size_bytes = len(BODY)
        self.sha256 = sha256
        self.announced_trailer = trailer
        self.trailers: Mapping[str, str] = {name.replace("_", "-"): value for name, value in trailers.items()}


def of(name, body: bytes = BODY) -> str:
    computed = hasher(name)
    computed.update(body)
    return encoded(computed.digest())


async def hashed(headers: dict[str, str], body: FakeBody, data: bytes = BODY) -> BodyHashes:
    """All of `data` through pieces that are hashed at once and pieces that a thread hashes."""
    hashes = BodyHashes.of(headers, body)
    for start, stop in ((0, 10), (10, 2 * INLINE_BYTES), (2 * INLINE_BYTES, len(data))):
        await hashes.catch_up()
        hashes.update(bytearray(data[start:stop]))
    await hashes.catch_up()
    return hashes


async def test_the_etag_is_the_md5_and_without_a_checksum_one_is_computed() -> None:
    hashes = await hashed({}, FakeBody())
    hashes.check()
    attributes = hashes.attributes({"cache-control": "x"}, "STANDARD_IA")
    assert attributes.etag == hashlib.md5(BODY, usedforsecurity=False).hexdigest()
    assert attributes.checksums == {"crc64nvme": of("crc64nvme")}
    assert (attributes.headers, attributes.storage_class) == ({"cache-control": "x"}, "STANDARD_IA")
    assert type(attributes).model_validate_json(attributes.model_dump_json()) == attributes


@pytest.mark.parametrize("name", ALGORITHMS)
async def test_the_announced_checksum_is_kept_and_no_other(name) -> None:
    for headers, body in (
        ({f"x-amz-checksum-{name}": of(name)}, FakeBody()),
        ({}, FakeBody(trailer=f"x-amz-checksum-{name}", **{f"x_amz_checksum_{name}": of(name)})),
    ):
        hashes = await hashed(headers, body)
        hashes.check()
        assert hashes.attributes().checksums == {name: of(name)}


@pytest.mark.parametrize("name", ALGORITHMS)
async def test_another_body_than_announced_is_refused(name) -> None:
    for headers, body in (
        ({f"x-amz-checksum-{name}": of(name, b"other")}, FakeBody()),
        ({}, FakeBody(trailer=f"x-amz-checksum-{name}", **{f"x_amz_checksum_{name}": of(name, b"other")})),
    ):
        hashes = await hashed(headers, body)
        with pytest.raises(S3Error) as refused:
            hashes.check()
        assert refused.value.code == "BadDigest"


async def test_the_md5_and_the_signed_hash_are_compared() -> None:
    md5 = base64.b64encode(hashlib.md5(BODY, usedforsecurity=False).digest()).decode()
    (await hashed({"content-md5": md5}, FakeBody(sha256=hashlib.sha256(BODY).digest()))).check()
    with pytest.raises(S3Error) as wrong_md5:
        (await hashed({"content-md5": md5}, FakeBody(), BODY + b"x")).check()
    assert wrong_md5.value.code == "BadDigest"
    with pytest.raises(S3Error) as wrong_hash:
        (await hashed({}, FakeBody(sha256=b"x" * 32))).check()
    assert wrong_hash.value.code == "XAmzContentSHA256Mismatch"


async def test_one_sha256_serves_the_signature_and_the_checksum() -> None:
    digest = hashlib.sha256(BODY).digest()
    hashes = await hashed({"x-amz-checksum-sha256": encoded(digest)}, FakeBody(sha256=digest))
    hashes.check()
    assert hashes.attributes().checksums == {"sha256": encoded(digest)}


@pytest.mark.parametrize("value", ["", "x", "AAAA", "\u00e9", "A" * 24, "AAAAAAAAAAAAAAAAAAAAAA==AA"])
def test_a_malformed_md5_is_an_invalid_digest(value) -> None:
    with pytest.raises(S3Error) as refused:
        BodyHashes.of({"content-md5": value}, FakeBody())
    assert refused.value.code == "InvalidDigest"


async def test_a_small_body_is_hashed_at_once_and_a_large_one_by_a_thread() -> None:
    hashes = BodyHashes.of({}, FakeBody())
    hashes.update(BODY[:INLINE_BYTES])
    assert not hashes.is_behind
    hashes.update(BODY[: INLINE_BYTES + 1])
    assert hashes.is_behind
    await hashes.catch_up()
    assert not hashes.is_behind
