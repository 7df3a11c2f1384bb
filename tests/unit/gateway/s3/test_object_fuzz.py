"""Whatever a client sends about an object is answered, and never by an error of ours."""

from __future__ import annotations

import random

from tests.unit.gateway.access.scene import Running, Scene
from tests.unit.gateway.s3.asking import ask, signed_headers, target_of

ROUNDS = 400
NAMES = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-md5",
    "content-type",
    "expires",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
    "x-amz-acl",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-mode",
    "x-amz-checksum-sha256",
    "x-amz-if-match-last-modified-time",
    "x-amz-if-match-size",
    "x-amz-max-parts",
    "x-amz-meta-",
    "x-amz-meta-a",
    "x-amz-object-attributes",
    "x-amz-part-number-marker",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-storage-class",
    "x-amz-tagging",
    "x-amz-website-redirect-location",
]
VALUES = [
    "",
    " ",
    "*",
    '"*"',
    "0",
    "-1",
    "18446744073709551616",
    "9" * 40,
    "bytes=0-0",
    "bytes=-1",
    "bytes=1-0",
    "bytes=99999999999999999999-",
    "bytes=" + "0-0," * 40,
    "ENABLED",
    "CRC32",
    "ETag,ObjectSize,Checksum,ObjectParts,StorageClass",
    "AAAAAA==",
    "AAAAAAAAAAAAAAAAAAAAAA==",
    "a=b&a=c",
    "%",
    "%ff=%00",
    "Tue, 14 Nov 2023 22:13:20 GMT",
    "Tue, 31 Feb 0000 99:99:99 GMT",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:60Z",
    "\xff\xfe",
    "gr\xc3\xbc\xc3\x9f",
    "x" * 5000,
    'W/"x"',
    "/x",
    "STANDARD_IA",
    "private",
]
QUERIES = ["versionId", "partNumber", "response-content-type", "response-expires", "x-id", "unknown", "prefix"]
SUBRESOURCES = ["tagging", "attributes", "delete"]
BODIES = [b"", b"x" * 9000, b"<", b"<Tagging><TagSet/></Tagging>", b"<Delete><Object><Key>k</Key></Object></Delete>"]


async def test_no_head_and_no_body_is_an_error_of_ours(scene: Scene, here: Running, seed: int) -> None:
    """501 is an answer: what is not offered."""
    chance = random.Random(seed)
    root = scene.root
    for method, target in (("PUT", "/photos"), ("PUT", "/photos/k")):
        assert (await ask(here.s3, method, target, signed_headers(root, method, target))).status == 200
    for _ in range(ROUNDS):
        method = chance.choice(["PUT", "GET", "HEAD", "DELETE", "POST"])
        key = chance.choice(["k", "absent", "k", ""])
        query = {chance.choice(QUERIES): chance.choice(VALUES) for _ in range(chance.choice([0, 0, 1, 2]))}
        if chance.random() < 0.4:
            query[chance.choice(SUBRESOURCES)] = ""
        target = target_of("photos", key, query)
        # A client of this test has gone once its body was read: what a GET sends is for one that is there.
        body = chance.choice(BODIES) if method in {"PUT", "POST"} else b""
        headers = {chance.choice(NAMES): chance.choice(VALUES) for _ in range(chance.choice([0, 1, 1, 2, 4]))}
        answer = await ask(
            here.s3, method, target, {**signed_headers(root, method, target, body=body), **headers}, body
        )
        assert answer.status < 500 or answer.status == 501, (method, target, headers, body[:60])
        for name, value in answer.headers.items():
            assert "\r" not in value, name
            assert "\n" not in value, name
