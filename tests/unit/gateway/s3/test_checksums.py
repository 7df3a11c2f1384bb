"""Checksums of bodies, of parts, and what headers say of them."""

from __future__ import annotations

import base64
import hashlib
import random

import google_crc32c
import pytest
from awscrt import checksums as awscrt

from services.gateway.s3.checksums import (
    ALGORITHMS,
    AnnouncedChecksum,
    algorithm,
    announced,
    checksum_headers,
    combined,
    composite,
    decoded,
    encoded,
    hasher,
    is_combinable,
)
from services.gateway.s3.errors import S3Error
from shared.contracts.s3 import S3Attributes

CHECK = b"123456789"
"""What catalogues of CRCs give the values of."""


def of(name, body: bytes) -> str:
    computed = hasher(name)
    computed.update(body)
    return encoded(computed.digest())


@pytest.mark.parametrize(
    ("name", "value"), [("crc32", 0xCBF43926), ("crc32c", 0xE3069283), ("crc64nvme", 0xAE8B14860A799888)]
)
def test_a_crc_has_the_value_that_catalogues_give(name, value) -> None:
    computed = hasher(name)
    computed.update(CHECK)
    assert int.from_bytes(computed.digest()) == value


def test_checksums_agree_with_other_libraries() -> None:
    """Over random bodies, fed in pieces."""
    chance = random.Random(7)
    for _ in range(50):
        body = chance.randbytes(chance.randrange(20_000))
        cut = chance.randrange(len(body) + 1)
        expected = {
            "crc32": awscrt.crc32(body).to_bytes(4),
            "crc32c": google_crc32c.value(body).to_bytes(4),
            "sha1": hashlib.sha1(body, usedforsecurity=False).digest(),
            "sha256": hashlib.sha256(body).digest(),
        }
        for name, digest in expected.items():
            computed = hasher(name)
            computed.update(body[:cut])
            computed.update(bytearray(body[cut:]))
            assert computed.digest() == digest, name


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if is_combinable(name)])
def test_the_crc_of_parts_is_that_of_their_bytes(name) -> None:
    """However they are cut, empty parts too."""
    chance = random.Random(11)
    for _ in range(50):
        parts = [chance.randbytes(chance.choice([0, 1, 5, 700, 9000])) for _ in range(chance.randrange(1, 6))]
        assert combined(name, [(of(name, part), len(part)) for part in parts]) == of(name, b"".join(parts))


def test_a_composite_is_the_checksum_of_the_checksums() -> None:
    parts = [b"one", b"two", b"three"]
    whole = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()
    assert composite("sha256", [of("sha256", part) for part in parts]) == f"{base64.b64encode(whole).decode()}-3"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_header_announces_a_checksum(name) -> None:
    value = of(name, b"x")
    found = announced({f"x-amz-checksum-{name}": value, "x-amz-sdk-checksum-algorithm": name.upper()}, None)
    assert found == AnnouncedChecksum(name, decoded(name, value))
    assert found.after({}) == decoded(name, value)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_trailer_announces_a_checksum(name) -> None:
    """Its value is read when the body has ended; a trailer that does not come is an error."""
    found = announced({"x-amz-sdk-checksum-algorithm": name.upper()}, f"x-amz-checksum-{name}")
    assert found is not None
    value = of(name, b"x")
    assert found.after({f"x-amz-checksum-{name}": value}) == decoded(name, value)
    with pytest.raises(S3Error) as refused:
        found.after({})
    assert refused.value.code == "MalformedTrailerError"


def test_nothing_is_announced_without_headers() -> None:
    assert announced({"content-type": "text/plain", "x-amz-checksum-mode": "ENABLED"}, None) is None
    assert announced({}, "x-amz-meta-later") is None


@pytest.mark.parametrize(
    ("headers", "trailer"),
    [
        ({"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-crc32c": "AAAAAA=="}, None),
        ({"x-amz-checksum-crc32": "AAAAAA=="}, "x-amz-checksum-crc32"),
        ({"x-amz-checksum-crc32": "AAAA"}, None),
        ({"x-amz-checksum-crc32": "not base64!"}, None),
        ({"x-amz-checksum-crc32": "\u00e9AAAAA=="}, None),
        ({"x-amz-checksum-crc32": ""}, None),
        ({"x-amz-checksum-sha256": "AAAAAA=="}, None),
        ({"x-amz-sdk-checksum-algorithm": "CRC32"}, None),
        ({"x-amz-sdk-checksum-algorithm": "CRC32"}, "x-amz-checksum-sha1"),
        ({"x-amz-sdk-checksum-algorithm": "MD5", "x-amz-checksum-crc32": "AAAAAA=="}, None),
        ({}, "x-amz-checksum-md4"),
    ],
)
def test_what_contradicts_itself_is_refused(headers, trailer) -> None:
    with pytest.raises(S3Error) as refused:
        announced(headers, trailer)
    assert refused.value.code == "InvalidRequest"


def test_algorithms_are_named_in_any_case() -> None:
    assert [algorithm(text) for text in ("CRC64NVME", "crc32c", " SHA1 ")] == ["crc64nvme", "crc32c", "sha1"]
    with pytest.raises(S3Error):
        algorithm("")


def test_headers_tell_the_checksums_and_their_type() -> None:
    assert checksum_headers(None) == {}
    assert checksum_headers(S3Attributes(etag="0" * 32)) == {}
    attributes = S3Attributes(checksums={"sha1": "abc-2"}, checksum_type="COMPOSITE")
    assert checksum_headers(attributes) == {"x-amz-checksum-sha1": "abc-2", "x-amz-checksum-type": "COMPOSITE"}
