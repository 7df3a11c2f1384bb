"""Documents and framings that somebody made up: every one is answered, and none of the answers is an error of ours."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Iterator

import pytest

from services.gateway.s3.xml_documents import NAMESPACE
from tests.unit.gateway.access.scene import Running, Scene
from tests.unit.gateway.s3.asking import S3Client, ask, signed_headers, target_of
from tests.unit.gateway.s3.test_multipart import begin, parts_put

BUCKET, KEY = "photos", "a/b c.jpg"
ROUNDS = 100
"""Of each document, and of each framing."""

NOT_OFFERED = 501

TAGGING = "<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>"
DOCUMENTS: dict[str, tuple[str, str, dict[str, str], str]] = {
    "create": (
        "PUT",
        "",
        {},
        "<CreateBucketConfiguration><LocationConstraint>eu</LocationConstraint></CreateBucketConfiguration>",
    ),
    "versioning": ("PUT", "", {"versioning": ""}, "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"),
    "tagging": ("PUT", "", {"tagging": ""}, TAGGING),
    "object tagging": ("PUT", KEY, {"tagging": ""}, TAGGING),
    "cors": (
        "PUT",
        "",
        {"cors": ""},
        ("<CORSConfiguration><CORSRule><ID>i</ID><AllowedOrigin>https://*.example</AllowedOrigin>"
        "<AllowedMethod>GET</AllowedMethod><AllowedHeader>*</AllowedHeader><ExposeHeader>etag</ExposeHeader>"
        "<MaxAgeSeconds>5</MaxAgeSeconds></CORSRule></CORSConfiguration>"),
    ),
    "payment": (
        "PUT",
        "",
        {"requestPayment": ""},
        "<RequestPaymentConfiguration><Payer>BucketOwner</Payer></RequestPaymentConfiguration>",
    ),
    "delete": (
        "POST",
        "",
        {"delete": ""},
        ("<Delete><Quiet>false</Quiet><Object><Key>x</Key><VersionId>null</VersionId><ETag>e</ETag><Size>5</Size>"
        "<LastModifiedTime>2026-11-29T11:00:00Z</LastModifiedTime></Object><Object><Key>y</Key></Object></Delete>"),
    ),
    "complete": (
        "POST",
        KEY,
        {"uploadId": "UPLOAD"},
        ("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>ETAG</ETag><ChecksumCRC32>AAAAAA==</ChecksumCRC32>"
        "</Part><Part><PartNumber>2</PartNumber><ETag>&quot;e&quot;</ETag></Part></CompleteMultipartUpload>"),
    ),
}  # fmt: skip
PIECES = [
    *(
        "",
        "<",
        ">",
        "</",
        "/>",
        "&",
        ";",
        "]]>",
        "<![CDATA[",
        "<!--",
        "-->",
        "<?x",
        "?>",
        "\0",
        "\x0b",
        "\ud800",
        "\U0010ffff",
    ),
    *("&lt;", "&#0;", "&#x110000;", "&undefined;", "<a/>", "<Key/>", "<Object/>", "<Part/>", "<Tag/>", "x" * 3000),
    *(
        "-1",
        "0",
        "9" * 40,
        "1e9",
        "10001",
        " 1 ",
        "null",
        "true",
        "*",
        "a\r\nb: c",
        "../..",
        "ä",
        "\U0001f600",
        "=?UTF-8?B?",
    ),
    *(
        "<!DOCTYPE x>",
        "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>",
        "&e;",
        'xmlns="urn:x"',
        "<x:y xmlns:x='urn:x'/>",
    ),
    *(
        f'xmlns="{NAMESPACE}"',
        '<?xml version="1.1"?>',
        '<?xml version="1.0" encoding="utf-7"?>',
        "<a>" * 40,
        "<a/>" * 300,
    ),
]


def changed(chance: random.Random, text: str) -> str:
    """Pieces of it left out, repeated, swapped, or replaced by others."""
    for _ in range(chance.choice([1, 1, 2, 3, 6])):
        marks = [at for at, character in enumerate(text) if character in "<>"] or [0]
        first = chance.choice(marks) if chance.random() < 0.7 else chance.randrange(len(text) + 1)
        last = min(len(text), first + chance.choice([0, 1, 5, 20, 60]))
        piece = chance.choice([*PIECES, text[first:last] * 2, text[last : last + 30]])
        text = text[:first] + piece + text[last:]
    return text


async def answered(s3: S3Client, method: str, key: str, query: dict[str, str], body: bytes, facts: object) -> int:
    digest = {"content-md5": base64.b64encode(hashlib.md5(body).digest()).decode()}
    answer = await s3(method, BUCKET, key, query=query, headers=digest, body=body)
    assert answer.status < 500 or answer.status == NOT_OFFERED, (facts, answer)
    return answer.status


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_no_document_is_an_error_of_ours(s3: S3Client, name: str, seed: int) -> None:
    """Near a right one, in several codings; and what is taken for right is still one of S3's answers."""
    chance = random.Random(seed)
    method, key, query, document = DOCUMENTS[name]
    await s3("PUT", BUCKET)
    await s3("PUT", BUCKET, KEY, body=b"x")
    upload = await begin(s3)
    [(_, etag)] = await parts_put(s3, upload, b"part")
    query = {each: value.replace("UPLOAD", upload) for each, value in query.items()}
    document = document.replace("ETAG", etag.strip('"'))
    statuses = set()
    for _ in range(ROUNDS):
        text = changed(chance, document)
        coding = chance.choice(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1", "cp037"])
        body = text.encode(coding, "replace") if coding != "utf-8" else text.encode("utf-8", "surrogatepass")
        statuses.add(await answered(s3, method, key, query, body, (seed, name, coding, text)))
    assert statuses & {400, 409}, statuses
    assert (await s3("GET", BUCKET, query={"list-type": "2"})).status in {200, 404}


def framings(chance: random.Random) -> Iterator[tuple[dict[str, str], bytes]]:
    """Headers and bodies that look like chunks."""
    sizes = [
        "0",
        "5",
        "05",
        "+5",
        "0x5",
        "-1",
        "5;",
        "5;chunk-signature=" + "0" * 64,
        "ffffffffffffffffffff",
        "",
        " 5",
        "G",
    ]
    ends = ["\r\n", "\n", "\r", "", "\r\n\r\n"]
    trailers = [
        "",
        "x-amz-checksum-crc32:AAAAAA==\r\n",
        "x-amz-checksum-crc32\r\n",
        "x" * 20_000,
        "a:b\r\n\r\n",
        "x-amz-trailer-signature:0\r\n",
    ]
    forms = [
        *("STREAMING-UNSIGNED-PAYLOAD-TRAILER", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        *(
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
            "STREAMING-",
            "UNSIGNED-PAYLOAD",
        ),
    ]
    pick: Callable[[list[str]], str] = chance.choice
    for _ in range(5 * ROUNDS):
        chunks = "".join(
            pick(sizes) + pick(ends) + pick(["hello", "", "hell", "\r\n"]) + pick(ends)
            for _ in range(chance.randrange(4))
        )
        headers = {"x-amz-content-sha256": pick(forms)}
        optional = {
            "x-amz-decoded-content-length": pick(["5", "0", "-5", "9" * 30, "", "10"]),
            "x-amz-trailer": pick(["x-amz-checksum-crc32", "x-amz-checksum-sha3", "content-length", "a b", ""]),
            "content-encoding": pick(["aws-chunked", "gzip,aws-chunked", "aws-chunked,aws-chunked", ",,", "\xff"]),
            "content-md5": pick(["", "x", "AAAAAAAAAAAAAAAAAAAAAA=="]),
        }
        yield (
            headers | {name: value for name, value in optional.items() if chance.random() < 0.7},
            (chunks + pick(trailers)).encode(),
        )


async def test_no_framing_is_an_error_of_ours(scene: Scene, here: Running, s3: S3Client, seed: int) -> None:
    """Of an object, a part and a document; in pieces that end anywhere."""
    chance = random.Random(seed)
    await s3("PUT", BUCKET)
    upload = await begin(s3)
    for headers, body in framings(chance):
        method, key, query = chance.choice([
            ("PUT", KEY, {}),
            ("PUT", KEY, {"partNumber": "1", "uploadId": upload}),
            ("POST", "", {"delete": ""}),
        ])  # fmt: skip
        target = target_of(BUCKET, key, query)
        signed = signed_headers(scene.root, method, target, headers, body)
        at = chance.randrange(len(body) + 1)
        answer = await ask(here.s3, method, target, signed, [body[:at], body[at:]])
        assert answer.status < 500 or answer.status == NOT_OFFERED, (seed, target, headers, body, answer)
