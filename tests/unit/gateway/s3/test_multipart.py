"""Uploads by parts over S3: what is joined, what it is called, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from services.gateway.s3.checksums import combined, hasher
from services.gateway.transfers.part_publication import UploadId
from shared.contracts.uploads import Upload, UploadAnswer
from shared.units import MIB
from tests.unit.gateway.access.scene import Running, Scene
from tests.unit.gateway.s3.asking import Answer, S3Client, ask, signed_headers, target_of
from tests.unit.gateway.s3.conftest import PacedTransfers

BUCKET, KEY = "photos", "a/b c.jpg"
FIRST, LAST = b"1" * (5 * MIB), b"the rest"


@pytest.fixture
async def here(scene: Scene) -> AsyncIterator[Running]:
    """A gateway that cuts what is large into few chunks."""
    async with scene.gateway(chunk_size_bytes=MIB) as running:
        yield running


@pytest.fixture
async def bucket(s3: S3Client) -> str:
    await s3("PUT", BUCKET)
    return BUCKET


def etag_of(*bodies: bytes) -> str:
    return hashlib.md5(b"".join(hashlib.md5(body).digest() for body in bodies)).hexdigest() + f"-{len(bodies)}"


def crc32(body: bytes) -> str:
    return base64.b64encode(zlib.crc32(body).to_bytes(4)).decode()


def sha256(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


async def begin(s3: S3Client, key: str = KEY, headers: Mapping[str, str] | None = None) -> str:
    answer = await s3("POST", BUCKET, key, query={"uploads": ""}, headers=headers)
    assert answer.status == 200, answer.body
    assert (answer.text("Bucket"), answer.text("Key")) == (BUCKET, key)
    return answer.text("UploadId") or ""


async def put(
    s3: S3Client, upload: str, number: int | str, body: bytes, headers: Mapping[str, str] | None = None
) -> Answer:
    query = {"partNumber": str(number), "uploadId": upload}
    return await s3("PUT", BUCKET, KEY, query=query, body=body, headers=headers)


def completion(parts: Sequence[tuple[int, str]], **checksums: Sequence[str]) -> bytes:
    rows = []
    for at, (number, etag) in enumerate(parts):
        more = "".join(f"<{name}>{values[at]}</{name}>" for name, values in checksums.items())
        rows.append(f"<Part><ETag>{etag}</ETag><PartNumber>{number}</PartNumber>{more}</Part>")
    namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<CompleteMultipartUpload xmlns="{namespace}">{"".join(rows)}</CompleteMultipartUpload>'.encode()


async def complete(
    s3: S3Client, upload: str, document: bytes, headers: Mapping[str, str] | None = None, key: str = KEY
) -> Answer:
    return await s3("POST", BUCKET, key, query={"uploadId": upload}, body=document, headers=headers)


async def parts_put(s3: S3Client, upload: str, *bodies: bytes, **headers: str) -> list[tuple[int, str]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answers = [await put(s3, upload, number, body, named) for number, body in enumerate(bodies, 1)]
    assert [answer.status for answer in answers] == [200] * len(bodies), answers[-1].body
    return [(number, answer.headers["etag"]) for number, answer in enumerate(answers, 1)]


async def test_parts_become_an_object(s3: S3Client, bucket: str) -> None:
    """With the ETag of the MD5s of its parts, which every call shows, and the description given at the beginning."""
    upload = await begin(
        s3, headers={"content-type": "image/jpeg", "x-amz-meta-colour": "blue", "cache-control": "no-store"}
    )
    parts = await parts_put(s3, upload, FIRST, LAST)
    assert [etag for _, etag in parts] == [f'"{hashlib.md5(body).hexdigest()}"' for body in (FIRST, LAST)]
    answer = await complete(s3, upload, completion(parts))
    etag = f'"{etag_of(FIRST, LAST)}"'
    assert answer.status == 200, answer.body
    assert (answer.text("ETag"), answer.text("Bucket"), answer.text("Key")) == (etag, bucket, KEY)
    assert answer.text("Location") == "http://localhost:9000/photos/a/b%20c.jpg"
    got = await s3("GET", bucket, KEY)
    assert (got.status, got.headers["etag"], got.body == FIRST + LAST) == (200, etag, True)
    assert got.headers["content-type"] == "image/jpeg"
    assert (got.headers["x-amz-meta-colour"], got.headers["cache-control"]) == ("blue", "no-store")
    assert (await s3("GET", bucket, query={"list-type": "2"})).text("Contents/ETag") == etag
    part = await s3("GET", bucket, KEY, query={"partNumber": "2"})
    assert (part.status, part.headers["x-amz-mp-parts-count"], part.body) == (206, "2", LAST)


async def test_a_repeated_completion_gets_the_same_answer(s3: S3Client, bucket: str) -> None:
    """Whose answer was lost asks again; with other parts it is another question, about an upload that is gone."""
    upload = await begin(s3)
    parts = await parts_put(s3, upload, b"one")
    first = await complete(s3, upload, completion(parts))
    await s3("PUT", bucket, KEY, body=b"newer")
    again = await complete(s3, upload, completion([(1, parts[0][1].strip('"'))]))
    assert (again.status, again.body) == (200, first.body)
    assert (await s3("GET", bucket, KEY)).body == b"newer"
    other = await complete(s3, upload, completion([(2, parts[0][1])]))
    assert (other.status, other.code) == (404, "NoSuchUpload")


async def test_the_last_part_of_a_number_counts(s3: S3Client, bucket: str) -> None:
    """And its ETag alone completes the upload; numbers may be left out."""
    upload = await begin(s3)
    old = await put(s3, upload, 7, b"old")
    new = await put(s3, upload, 7, b"new")
    assert (await complete(s3, upload, completion([(7, old.headers["etag"])]))).code == "InvalidPart"
    assert (await complete(s3, upload, completion([(7, new.headers["etag"])]))).status == 200
    assert (await s3("GET", bucket, KEY)).body == b"new"


async def test_an_aborted_upload_is_gone(s3: S3Client, bucket: str) -> None:
    """For every call that names it."""
    upload = await begin(s3)
    parts = await parts_put(s3, upload, b"one")
    aborted = await s3("DELETE", bucket, KEY, query={"uploadId": upload})
    assert (aborted.status, aborted.body) == (204, b"")
    answers = [
        await s3("DELETE", bucket, KEY, query={"uploadId": upload}),
        await complete(s3, upload, completion(parts)),
        await put(s3, upload, 1, b"more"),
        await s3("GET", bucket, KEY, query={"uploadId": upload}),
    ]
    assert {(answer.status, answer.code) for answer in answers} == {(404, "NoSuchUpload")}
    assert (await s3("HEAD", bucket, KEY)).status == 404


async def test_an_upload_id_is_good_for_its_bucket_and_key_alone(s3: S3Client, bucket: str) -> None:
    """Under another name it is none, and so is one that is made up; nothing of the upload changes."""
    await s3("PUT", "others")
    upload = await begin(s3)
    document = completion(await parts_put(s3, upload, b"one"))
    wrong = [(bucket, "other", upload), ("others", KEY, upload), (bucket, KEY, upload[:-2] + "AA"), (bucket, KEY, "x")]
    for name, key, text in wrong:
        for method, query, body in (
            ("PUT", {"partNumber": "1"}, b"other"),
            ("POST", {}, document),
            ("GET", {}, b""),
            ("DELETE", {}, b""),
        ):
            answer = await s3(method, name, key, query={**query, "uploadId": text}, body=body)
            assert (answer.status, answer.code) == (404, "NoSuchUpload"), (method, name, key)
    assert (await complete(s3, upload, document)).status == 200
    assert (await s3("GET", bucket, KEY)).body == b"one"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (completion([]), "MalformedXML"),
        (b"", "MalformedXML"),
        (b"<CompleteMultipartUpload><Part><ETag>x</ETag></Part></CompleteMultipartUpload>", "MalformedXML"),
        (completion([(0, "x")]), "MalformedXML"),
        (completion([(10_001, "x")]), "MalformedXML"),
        (completion([(2, "x"), (1, "x")]), "InvalidPartOrder"),
        (completion([(1, "x"), (1, "x")]), "InvalidPartOrder"),
        (completion([(1, "0" * 32)]), "InvalidPart"),
        (completion([(3, "0" * 32)]), "InvalidPart"),
        (completion([(1, "0" * 129)]), "InvalidPart"),
        (completion([(1, '""')]), "InvalidPart"),
    ],
)
async def test_a_completion_that_names_no_parts_is_refused(
    s3: S3Client, bucket: str, document: bytes, code: str
) -> None:
    """And the upload goes on."""
    upload = await begin(s3)
    parts = await parts_put(s3, upload, b"one")
    answer = await complete(s3, upload, document)
    assert (answer.status, answer.code) == (400, code)
    assert (await complete(s3, upload, completion(parts))).status == 200


async def test_only_the_last_part_may_be_small(s3: S3Client, bucket: str) -> None:
    """Else 400, when it is known which one is the last."""
    upload = await begin(s3)
    answer = await complete(s3, upload, completion(await parts_put(s3, upload, b"one", b"two")))
    assert (answer.status, answer.code) == (400, "EntityTooSmall")


@pytest.mark.parametrize("number", ["0", "10001", "-1", "x", "", "1.0", "\u0661"])
async def test_a_part_has_a_number(s3: S3Client, bucket: str, number: str) -> None:
    """From 1 to 10000."""
    answer = await put(s3, await begin(s3), number, b"one")
    assert (answer.status, answer.code) == (400, "InvalidArgument")


async def test_what_a_part_is_announced_to_be_is_compared(s3: S3Client, bucket: str) -> None:
    """A part that is another one is not stored."""
    upload = await begin(s3)
    for headers in ({"content-md5": "A" * 22 + "=="}, {"x-amz-checksum-crc32": crc32(b"other")}):
        answer = await put(s3, upload, 1, b"one", headers)
        assert (answer.status, answer.code) == (400, "BadDigest")
    assert (await s3("GET", bucket, KEY, query={"uploadId": upload})).texts("Part") == []


async def test_a_completion_comes_at_the_pace_of_its_client(s3: S3Client, bucket: str, paced: PacedTransfers) -> None:
    """A client that is slow can be ended, and the rate of its principal is kept."""
    upload = await begin(s3)
    document = completion([(1, "x")])
    assert (await complete(s3, upload, document)).code == "InvalidPart"
    assert (paced.moved_bytes, paced.turns_bytes, paced.is_small) == (len(document), len(document), True)


async def test_a_completion_is_the_one_that_was_announced(s3: S3Client, bucket: str) -> None:
    """Also an empty one. The headers of checksums are about the object."""
    upload = await begin(s3)
    wrong = {"content-md5": "A" * 22 + "=="}
    for document in (completion(await parts_put(s3, upload, b"one")), b""):
        answer = await complete(s3, upload, document, wrong)
        assert (answer.status, answer.code) == (400, "BadDigest")
        target = target_of(BUCKET, KEY, {"uploadId": upload})
        signed = signed_headers(s3.holder, "POST", target, body=b"other")
        assert (await ask(s3.app, "POST", target, signed, document)).code == "XAmzContentSHA256Mismatch"
    assert (await s3("HEAD", bucket, KEY)).status == 404


async def test_a_completion_has_its_room_until_the_log_has_answered(
    s3: S3Client, bucket: str, here: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of the rows of parts it keeps those that it names, page by page."""
    upload = await begin(s3)
    parts = await parts_put(s3, upload, b"1", FIRST, b"3", b"4", b"5")
    uploads, admission = here.gateway.services.multipart, here.gateway.services.admission
    pages, held = [], []
    page, finish = uploads.page, uploads.complete

    async def recorded_page(upload: UploadId, *, after_part: int, limit: int) -> tuple[Upload, UploadAnswer]:
        pages.append(after_part)
        held.append((admission.used_slots, admission.used_bytes > 0))
        return await page(upload, after_part=after_part, limit=min(limit, 1))

    async def recorded_complete(*args: Any, **options: Any) -> Any:
        held.append((admission.used_slots, admission.used_bytes > 0))
        return await finish(*args, **options)

    monkeypatch.setattr(uploads, "page", recorded_page)
    monkeypatch.setattr(uploads, "complete", recorded_complete)
    answer = await complete(s3, upload, completion([parts[1], parts[3]]))
    assert answer.status == 200
    assert (await s3("GET", bucket, KEY)).body == FIRST + b"4"
    assert pages == [1, 2, 3]
    assert held == [(1, True)] * 4
    assert (admission.used_slots, admission.used_bytes) == (0, 0)


async def test_a_page_of_parts_is_read_while_the_one_before_is_understood(
    s3: S3Client, bucket: str, here: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more than those two: the rows of all others would be held, too."""
    monkeypatch.setattr("services.gateway.s3.multipart.PARTS_LIMIT_MAX", 1)
    upload = await begin(s3)
    parts = await parts_put(s3, upload, FIRST, FIRST, FIRST, b"last")
    uploads = here.gateway.services.multipart
    page, under_way, most = uploads.page, 0, 0

    async def slow_page(upload: UploadId, *, after_part: int, limit: int) -> tuple[Upload, UploadAnswer]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        answer = await page(upload, after_part=after_part, limit=limit)
        under_way -= 1
        return answer

    monkeypatch.setattr(uploads, "page", slow_page)
    assert (await complete(s3, upload, completion(parts))).status == 200
    assert most == 2
    assert (await s3("HEAD", bucket, KEY)).headers["etag"] == f'"{etag_of(FIRST, FIRST, FIRST, b"last")}"'


# --- conditions ---------------------------------------------------------------------------------------------------


async def test_the_condition_of_a_completion_is_about_the_object(s3: S3Client, bucket: str) -> None:
    """Held against what is there when it is completed; the upload goes on when it does not hold."""
    upload = await begin(s3)
    document = completion(await parts_put(s3, upload, b"one"))
    missing = await complete(s3, upload, document, {"if-match": '"x"'})
    assert (missing.status, missing.code) == (404, "NoSuchKey")
    there = await s3("PUT", bucket, KEY, body=b"there")
    for headers in ({"if-none-match": "*"}, {"if-match": '"x"'}):
        answer = await complete(s3, upload, document, headers)
        assert (answer.status, answer.code) == (412, "PreconditionFailed")
    assert (await complete(s3, upload, document, {"if-match": there.headers["etag"]})).status == 200


# --- checksums ----------------------------------------------------------------------------------------------------


async def test_without_a_wish_the_whole_has_a_crc64nvme(s3: S3Client, bucket: str) -> None:
    """Combined from those of its parts: it is that of all bytes."""
    upload = await begin(s3)
    answer = await complete(s3, upload, completion(await parts_put(s3, upload, FIRST, LAST)))
    whole = hasher("crc64nvme")
    whole.update(FIRST + LAST)
    value = base64.b64encode(whole.digest()).decode()
    assert (answer.text("ChecksumCRC64NVME"), answer.text("ChecksumType")) == (value, "FULL_OBJECT")
    head = await s3("HEAD", bucket, KEY, headers={"x-amz-checksum-mode": "ENABLED"})
    assert (head.headers["x-amz-checksum-crc64nvme"], head.headers["x-amz-checksum-type"]) == (value, "FULL_OBJECT")


async def test_a_crc_of_the_whole_object_is_combined(s3: S3Client, bucket: str) -> None:
    """And compared with what the client says that it is."""
    upload = await begin(s3, headers={"x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "FULL_OBJECT"})
    parts = [
        (number, (await put(s3, upload, number, body, {"x-amz-checksum-crc32": crc32(body)})).headers["etag"])
        for number, body in enumerate((FIRST, LAST), 1)
    ]
    document = completion(parts, ChecksumCRC32=[crc32(FIRST), crc32(LAST)])
    wrong = await complete(s3, upload, document, {"x-amz-checksum-crc32": crc32(FIRST)})
    assert (wrong.status, wrong.code) == (400, "BadDigest")
    other = await complete(s3, upload, document, {"x-amz-checksum-type": "COMPOSITE"})
    assert (other.status, other.code) == (400, "InvalidRequest")
    wrong_part = await complete(s3, upload, completion(parts, ChecksumCRC32=[crc32(LAST), crc32(LAST)]))
    assert (wrong_part.status, wrong_part.code) == (400, "InvalidPart")
    said = {"x-amz-checksum-crc32": crc32(FIRST + LAST), "x-amz-checksum-type": "FULL_OBJECT"}
    answer = await complete(s3, upload, document, said)
    assert (answer.text("ChecksumCRC32"), answer.text("ChecksumType")) == (crc32(FIRST + LAST), "FULL_OBJECT")


async def test_a_sha256_is_composed_of_those_of_the_parts(s3: S3Client, bucket: str) -> None:
    """Of their bytes, and how many they are behind a dash."""
    upload = await begin(s3, headers={"x-amz-checksum-algorithm": "SHA256"})
    listed = await s3("GET", bucket, KEY, query={"uploadId": upload})
    assert (listed.text("ChecksumAlgorithm"), listed.text("ChecksumType")) == ("SHA256", "COMPOSITE")
    bodies = (FIRST, LAST)
    parts = [
        (number, (await put(s3, upload, number, body, {"x-amz-checksum-sha256": sha256(body)})).headers["etag"])
        for number, body in enumerate(bodies, 1)
    ]
    answer = await complete(s3, upload, completion(parts, ChecksumSHA256=[sha256(body) for body in bodies]))
    value = sha256(b"".join(hashlib.sha256(body).digest() for body in bodies)) + "-2"
    assert (answer.text("ChecksumSHA256"), answer.text("ChecksumType")) == (value, "COMPOSITE")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-checksum-algorithm": "MD4"},
        {"x-amz-checksum-type": "FULL_OBJECT"},
        {"x-amz-checksum-algorithm": "SHA1", "x-amz-checksum-type": "FULL_OBJECT"},
        {"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "COMPOSITE"},
        {"x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "HALF"},
    ],
)
async def test_a_checksum_that_cannot_be_is_refused_at_the_beginning(s3: S3Client, bucket: str, headers) -> None:
    """Before a byte was sent in vain."""
    answer = await s3("POST", bucket, KEY, query={"uploads": ""}, headers=headers)
    assert (answer.status, answer.code) == (400, "InvalidRequest")


async def test_the_size_that_a_client_says_is_compared(s3: S3Client, bucket: str) -> None:
    """A part that is missing in the list is found."""
    upload = await begin(s3)
    document = completion(await parts_put(s3, upload, b"one"))
    assert (await complete(s3, upload, document, {"x-amz-mp-object-size": "4"})).code == "InvalidRequest"
    assert (await complete(s3, upload, document, {"x-amz-mp-object-size": "3"})).status == 200


def test_a_combined_crc_is_that_of_all_bytes() -> None:
    """Held against zlib."""
    bodies = [b"", b"a", b"abc" * 1000, b"\x00" * 70_000]
    assert combined("crc32", [(crc32(body), len(body)) for body in bodies]) == crc32(b"".join(bodies))


# --- lists --------------------------------------------------------------------------------------------------------


async def test_parts_are_listed_by_number(s3: S3Client, bucket: str) -> None:
    """In pages, each with its size, its ETag and its checksum."""
    upload = await begin(s3)
    for number in (3, 1, 10_000):
        await put(s3, upload, number, b"x" * number, {"x-amz-checksum-crc32": crc32(b"x" * number)})
    first = await s3("GET", bucket, KEY, query={"uploadId": upload, "max-parts": "2"})
    assert first.texts("Part/PartNumber") == ["1", "3"]
    assert first.texts("Part/Size") == ["1", "3"]
    assert first.texts("Part/ETag") == [f'"{hashlib.md5(b"x" * number).hexdigest()}"' for number in (1, 3)]
    assert first.texts("Part/ChecksumCRC32") == [crc32(b"x"), crc32(b"xxx")]
    assert (first.text("IsTruncated"), first.text("NextPartNumberMarker")) == ("true", "3")
    assert (first.text("UploadId"), first.text("StorageClass"), first.text("Key")) == (upload, "STANDARD", KEY)
    assert first.text("Owner/ID") == first.text("Initiator/ID") != ""
    last = await s3("GET", bucket, KEY, query={"uploadId": upload, "part-number-marker": "3"})
    assert (last.texts("Part/PartNumber"), last.text("IsTruncated")) == (["10000"], "false")
    none = await s3("GET", bucket, KEY, query={"uploadId": upload, "max-parts": "0"})
    assert (none.texts("Part"), none.text("IsTruncated")) == ([], "false")
    assert (await s3("GET", bucket, KEY, query={"uploadId": upload, "max-parts": "x"})).code == "InvalidArgument"


async def uploads_listed(s3: S3Client, limit: int, **asked: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Keys and ids, and common prefixes, over all pages."""
    uploads: list[tuple[str, str]] = []
    prefixes: list[str] = []
    markers: dict[str, str] = {}
    for _ in range(30):
        query = {"uploads": "", "max-uploads": str(limit), **asked, **markers}
        answer = await s3("GET", BUCKET, query=query)
        assert answer.status == 200, answer.body
        uploads += zip(answer.texts("Upload/Key"), answer.texts("Upload/UploadId"), strict=True)
        prefixes += answer.texts("CommonPrefixes/Prefix")
        if answer.text("IsTruncated") == "false":
            return uploads, prefixes
        markers = {
            "key-marker": answer.text("NextKeyMarker") or "",
            "upload-id-marker": answer.text("NextUploadIdMarker") or "",
        }
    raise AssertionError("the list does not end")


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_uploads_are_listed_by_key_and_age(s3: S3Client, bucket: str, limit: int) -> None:
    """Each once at any page size, and each common prefix once."""
    begun = [(key, await begin(s3, key)) for key in ("b/", "a", "b/1", "a", "b/2", "c//d", "a/")]
    expected = sorted(begun, key=lambda upload: upload[0])
    assert await uploads_listed(s3, limit) == (expected, [])
    assert await uploads_listed(s3, limit, prefix="b/") == ([each for each in expected if each[0].startswith("b/")], [])
    alone, prefixes = await uploads_listed(s3, limit, delimiter="/")
    assert (alone, prefixes) == ([each for each in expected if each[0] == "a"], ["a/", "b/", "c/"])
    assert await uploads_listed(s3, limit, delimiter="//", prefix="c") == ([], ["c//"])
    below, prefixes = await uploads_listed(s3, limit, delimiter="/", prefix="b/")
    assert ([key for key, _ in below], prefixes) == (["b/", "b/1", "b/2"], [])
    # The key is no common prefix of this list, though it ends with the delimiter.
    after, _ = await uploads_listed(s3, limit, **{"delimiter": "/", "prefix": "b/", "key-marker": "b/"})
    assert [key for key, _ in after] == ["b/1", "b/2"]
    assert (await s3("GET", BUCKET, query={"uploads": "", "key-marker": "a", "upload-id-marker": "x"})).code == (
        "InvalidArgument"
    )


async def test_a_list_of_no_uploads_is_still_of_a_bucket(s3: S3Client, bucket: str) -> None:
    """`max-uploads=0` shows none; a bucket that is not there is a 404."""
    await begin(s3)
    none = await s3("GET", BUCKET, query={"uploads": "", "max-uploads": "0"})
    assert (none.texts("Upload"), none.text("IsTruncated")) == ([], "false")
    assert (await s3("GET", "missing", query={"uploads": "", "max-uploads": "0"})).code == "NoSuchBucket"
