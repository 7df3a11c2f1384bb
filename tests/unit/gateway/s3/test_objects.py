"""Objects in and out by S3, over the real parts and the real state machine."""

from __future__ import annotations

import base64
import hashlib
import random
import zlib

import pytest

from services.gateway.s3.errors import S3Error
from services.gateway.s3.objects import PUT_BYTES_MAX, part_count, part_span
from services.gateway.semantics.byte_ranges import ByteSpan
from shared.contracts.access import Action
from shared.contracts.files import Durability, FileContent, FileVersion
from shared.contracts.objects import BucketSettings, PutBucketSettings
from shared.contracts.s3 import S3Attributes
from shared.contracts.time import ClockState, Stamp
from tests.unit.gateway.access.scene import Running, Scene, may
from tests.unit.gateway.conftest import CHUNK_SIZE_BYTES
from tests.unit.gateway.s3.asking import Answer, S3Client, ask, signed_headers, target_of

BUCKET = "photos"
KEY = "a/key"
BODY = random.Random(1).randbytes(3 * CHUNK_SIZE_BYTES + 5)
SIZES = [0, 1, CHUNK_SIZE_BYTES, 3 * CHUNK_SIZE_BYTES + 5]


def md5_of(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


@pytest.fixture(autouse=True)
async def bucket(s3: S3Client) -> None:
    """There is one."""
    await s3("PUT", BUCKET)


async def version_bucket(scene: Scene, state: str = "enabled") -> None:
    settings = BucketSettings.model_validate({"versioning": state})
    await scene.metadata.propose(PutBucketSettings(bucket=BUCKET, settings=settings, stamp=scene.clock.stamp()))


async def put(s3: S3Client, body: bytes = BODY, key: str = KEY, **headers: str) -> Answer:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return await s3("PUT", BUCKET, key, body=body, headers=fields)


# --- in and out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_an_object_comes_back_as_it_was_put(s3: S3Client, size: int) -> None:
    body = BODY[:size]
    stored = await put(s3, body, content_type="image/png", x_amz_meta_colour="red", cache_control="max-age=3")
    etag = f'"{md5_of(body)}"'
    assert (stored.status, stored.body, stored.headers["etag"]) == (200, b"", etag)
    assert "x-amz-version-id" not in stored.headers
    got = await s3("GET", BUCKET, KEY)
    assert (got.status, got.body, got.headers["etag"]) == (200, body, etag)
    assert got.headers["content-length"] == str(size)
    assert got.headers["content-type"] == "image/png"
    assert got.headers["x-amz-meta-colour"] == "red"
    assert got.headers["cache-control"] == "max-age=3"
    assert got.headers["accept-ranges"] == "bytes"
    assert "last-modified" in got.headers
    described = await s3("HEAD", BUCKET, KEY)
    assert (described.status, described.body) == (200, b"")
    varying = {"x-amz-request-id", "x-trivet-replicas-confirmed", "x-trivet-confirmation-age"}
    assert {name: value for name, value in described.headers.items() if name not in varying} == {
        name: value for name, value in got.headers.items() if name not in varying
    }


async def test_both_doors_lead_to_the_same_object(s3: S3Client, scene: Scene, here: Running) -> None:
    await put(s3, BODY, content_type="text/plain")
    read = await here.public.get(f"/v1/files/{BUCKET}/{KEY}", headers=scene.root.headers)
    assert (read.content, read.headers["content-type"]) == (BODY, "text/plain")
    assert read.headers["etag"] != f'"{md5_of(BODY)}"'
    native = await here.public.put(f"/v1/files/{BUCKET}/{KEY}", content=b"other", headers=scene.root.headers)
    got = await s3("GET", BUCKET, KEY)
    assert (got.body, got.headers["etag"]) == (b"other", f'"{native.json()["etag"]}-0"')


@pytest.mark.parametrize(
    "key",
    ["a//b", "/a", "a/../b", ".", "..", "a/./b/", "dir/", "\x01\x7f", "a b+c%2F&=?#", "\u00fc\U0001f600", "k" * 1024],
)
async def test_a_key_is_opaque(s3: S3Client, key: str) -> None:
    """No segment of it means anything, and none is joined with another."""
    await put(s3, b"other", "b")
    assert (await put(s3, key.encode(), key)).status == 200
    assert (await s3("GET", BUCKET, key)).body == key.encode()
    assert (await s3("GET", BUCKET, "b")).body == b"other"
    assert (await s3("DELETE", BUCKET, key)).status == 204
    assert (await s3("GET", BUCKET, key)).status == 404


async def test_without_a_type_an_object_has_that_of_s3(s3: S3Client) -> None:
    await put(s3)
    assert (await s3("HEAD", BUCKET, KEY)).headers["content-type"] == "binary/octet-stream"


async def test_a_checksum_is_computed_and_told_where_it_is_asked_for(s3: S3Client) -> None:
    stored = await put(s3)
    crc = stored.headers["x-amz-checksum-crc64nvme"]
    assert stored.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    asked = {"x-amz-checksum-mode": "ENABLED"}
    for method in ("GET", "HEAD"):
        assert (await s3(method, BUCKET, KEY, headers=asked)).headers["x-amz-checksum-crc64nvme"] == crc
        assert "x-amz-checksum-crc64nvme" not in (await s3(method, BUCKET, KEY)).headers
        part = await s3(method, BUCKET, KEY, headers={**asked, "range": "bytes=0-9"})
        assert part.status == 206
        assert "x-amz-checksum-crc64nvme" not in part.headers


async def test_the_checksum_of_the_client_is_compared_and_kept(s3: S3Client) -> None:
    crc = base64.b64encode(zlib.crc32(BODY).to_bytes(4)).decode()
    stored = await put(s3, x_amz_checksum_crc32=crc, x_amz_sdk_checksum_algorithm="CRC32")
    assert stored.headers["x-amz-checksum-crc32"] == crc
    assert "x-amz-checksum-crc64nvme" not in stored.headers
    wrong = base64.b64encode(zlib.crc32(b"other").to_bytes(4)).decode()
    refused = await put(s3, BODY, "other", x_amz_checksum_crc32=wrong)
    assert (refused.status, refused.code) == (400, "BadDigest")
    assert (await s3("HEAD", BUCKET, "other")).status == 404


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content_md5": base64.b64encode(hashlib.md5(b"", usedforsecurity=False).digest()).decode()}, "BadDigest"),
        ({"content_md5": "AAAA"}, "InvalidDigest"),
        ({"x_amz_checksum_sha1": "AAAA"}, "InvalidRequest"),
        ({"x_amz_checksum_sha1": "A" * 27 + "=", "x_amz_checksum_crc32": "AAAAAA=="}, "InvalidRequest"),
        ({"x_amz_sdk_checksum_algorithm": "CRC32"}, "InvalidRequest"),
        ({"x_amz_acl": "public-read"}, "NotImplemented"),
        ({"x_amz_server_side_encryption": "AES256"}, "NotImplemented"),
        ({"x_amz_tagging": "a=1&a=2"}, "InvalidTag"),
        ({"x_amz_storage_class": "COLD"}, "InvalidStorageClass"),
    ],
)
async def test_what_is_refused_is_not_stored(s3: S3Client, headers: dict[str, str], code: str) -> None:
    refused = await put(s3, BODY, **headers)
    assert refused.code == code
    assert (await s3("HEAD", BUCKET, KEY)).status == 404


async def test_what_the_head_refuses_leaves_the_body_unread(s3: S3Client, scene: Scene, here: Running) -> None:
    """So it is answered in place of 100 Continue."""
    target = target_of(BUCKET, KEY)
    for headers, code in (
        ({"content-length": str(PUT_BYTES_MAX + 1)}, "EntityTooLarge"),
        ({"content-length": "3", "x-amz-acl": "public-read"}, "NotImplemented"),
        ({"content-length": "3", "if-match": "*"}, "NoSuchKey"),
    ):
        signed = signed_headers(scene.root, "PUT", target, {**headers, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"})
        answer = await ask(here.s3, "PUT", target, signed, b"abc")
        assert (answer.code, answer.has_read) == (code, False)
    answer = await s3("PUT", "no-such-bucket", KEY, body=b"abc")
    assert answer.code == "NoSuchBucket"


async def test_a_body_without_a_length_is_refused(scene: Scene, here: Running) -> None:
    target = target_of(BUCKET, KEY)
    headers = {"transfer-encoding": "chunked", "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    answer = await ask(here.s3, "PUT", target, signed_headers(scene.root, "PUT", target, headers), b"abc")
    assert (answer.status, answer.code) == (411, "MissingContentLength")


# --- conditions ---------------------------------------------------------------------------------------------------


async def test_a_put_happens_only_where_its_conditions_hold(s3: S3Client) -> None:
    created = await put(s3, b"1", if_none_match="*")
    assert created.status == 200
    etag = created.headers["etag"]
    for value in ("*", etag, etag.strip('"')):
        refused = await put(s3, b"2", if_none_match=value)
        assert (refused.status, refused.code) == (412, "PreconditionFailed")
        assert refused.text("Condition") == "If-None-Match"
    assert (await put(s3, b"2", if_match='"other"')).code == "PreconditionFailed"
    replaced = await put(s3, b"2", if_match=etag.strip('"'))
    assert replaced.status == 200
    assert (await put(s3, b"3", if_match="*")).status == 200
    assert (await put(s3, b"4", if_none_match=etag)).status == 200
    absent = await put(s3, b"1", "absent", if_match="*")
    assert (absent.status, absent.code) == (404, "NoSuchKey")


async def test_a_condition_knows_what_v1_has_put_by_the_etag_that_s3_shows(
    s3: S3Client, scene: Scene, here: Running
) -> None:
    await here.public.put(f"/v1/files/{BUCKET}/{KEY}", content=b"native", headers=scene.root.headers)
    etag = (await s3("HEAD", BUCKET, KEY)).headers["etag"]
    assert (await put(s3, b"2", if_none_match=etag)).status == 412
    assert (await put(s3, b"2", if_match=etag)).status == 200


async def test_a_delete_marker_counts_as_absent(s3: S3Client, scene: Scene) -> None:
    """A lock file of Terraform in a versioned bucket."""
    await version_bucket(scene)
    assert (await put(s3, b"lock", if_none_match="*")).status == 200
    assert (await put(s3, b"lock", if_none_match="*")).status == 412
    assert (await s3("DELETE", BUCKET, KEY)).status == 204
    assert (await put(s3, b"lock", "other", if_match="*")).code == "NoSuchKey"
    assert (await put(s3, b"lock", if_match="*")).code == "NoSuchKey"
    assert (await put(s3, b"lock", if_none_match="*")).status == 200


async def test_an_attempt_that_is_made_again_gets_its_success_again(s3: S3Client, scene: Scene, here: Running) -> None:
    """Where the id of the call is signed: anybody could write one beside a signature."""
    invocation = {"if-none-match": "*", "amz-sdk-invocation-id": "0f8fad5b-d9cb-469f-a165-70867728950e"}
    first = await s3("PUT", BUCKET, KEY, headers=invocation, body=b"lock")
    again = await s3("PUT", BUCKET, KEY, headers=invocation, body=b"lock")
    assert (first.status, again.status) == (200, 200)
    assert again.headers["etag"] == first.headers["etag"]
    other = {**invocation, "amz-sdk-invocation-id": "7c9e6679-7425-40de-944b-e07fc1f90ae7"}
    assert (await s3("PUT", BUCKET, KEY, headers=other, body=b"lock")).status == 412
    target = target_of(BUCKET, KEY)
    unsigned = {**signed_headers(scene.root, "PUT", target, {"if-none-match": "*"}, b"lock"), **invocation}
    assert (await ask(here.s3, "PUT", target, unsigned, b"lock")).status == 412


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("if-match", "etag", 200),
        ("if-match", "other", 412),
        ("if-none-match", "etag", 304),
        ("if-none-match", "other", 200),
        ("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT", 304),
        ("if-modified-since", "Thu, 01 Jan 1960 00:00:00 GMT", 200),
        ("if-unmodified-since", "Fri, 01 Jan 2100 00:00:00 GMT", 200),
        ("if-unmodified-since", "Thu, 01 Jan 1960 00:00:00 GMT", 412),
    ],
)
async def test_a_read_is_answered_as_its_conditions_say(s3: S3Client, name: str, value: str, status: int) -> None:
    etag = (await put(s3)).headers["etag"]
    for method in ("GET", "HEAD"):
        answer = await s3(method, BUCKET, KEY, headers={name: etag if value == "etag" else value})
        assert answer.status == status
        if status == 304:
            assert (answer.body, answer.headers["etag"]) == (b"", etag)
            assert "content-length" not in answer.headers


# --- parts of an object -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-", 5, len(BODY)),
        ("bytes=-7", len(BODY) - 7, len(BODY)),
        (f"bytes=4000-{len(BODY) * 2}", 4000, len(BODY)),
        (f"bytes=-{len(BODY) * 2}", 0, len(BODY)),
    ],
)
async def test_a_range_is_answered_by_its_bytes(s3: S3Client, value: str, start: int, stop: int) -> None:
    await put(s3)
    got = await s3("GET", BUCKET, KEY, headers={"range": value})
    assert (got.status, got.body) == (206, BODY[start:stop])
    assert got.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(BODY)}"
    assert got.headers["content-length"] == str(stop - start)
    described = await s3("HEAD", BUCKET, KEY, headers={"range": value})
    assert (described.status, described.headers["content-range"]) == (206, got.headers["content-range"])
    assert described.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("value", ["bytes=0-1,3-4", "bytes=5-2", "lines=0-1", "bytes=", "bytes=a-b", ""])
async def test_several_or_malformed_ranges_are_ignored(s3: S3Client, value: str) -> None:
    await put(s3)
    got = await s3("GET", BUCKET, KEY, headers={"range": value})
    assert (got.status, got.body) == (200, BODY)


@pytest.mark.parametrize("value", [f"bytes={len(BODY)}-", "bytes=-0", "bytes=99999999999999999999999-"])
async def test_a_range_behind_the_end_is_invalid(s3: S3Client, value: str) -> None:
    await put(s3)
    got = await s3("GET", BUCKET, KEY, headers={"range": value})
    assert (got.status, got.code) == (416, "InvalidRange")
    assert got.headers["content-range"] == f"bytes */{len(BODY)}"
    assert got.text("ActualObjectSize") == str(len(BODY))
    described = await s3("HEAD", BUCKET, KEY, headers={"range": value})
    assert (described.status, described.body) == (416, b"")


async def test_a_range_of_nothing_is_invalid(s3: S3Client) -> None:
    await put(s3, b"")
    assert (await s3("GET", BUCKET, KEY, headers={"range": "bytes=0-0"})).code == "InvalidRange"


async def test_if_range_holds_for_the_exact_tag(s3: S3Client) -> None:
    etag = (await put(s3)).headers["etag"]
    assert (await s3("GET", BUCKET, KEY, headers={"range": "bytes=0-0", "if-range": etag})).status == 206
    assert (await s3("GET", BUCKET, KEY, headers={"range": "bytes=0-0", "if-range": '"x"'})).status == 200


async def test_an_object_that_came_as_a_whole_has_one_part(s3: S3Client) -> None:
    await put(s3)
    for method in ("GET", "HEAD"):
        got = await s3(method, BUCKET, KEY, query={"partNumber": "1"})
        assert (got.status, got.headers["content-range"]) == (206, f"bytes 0-{len(BODY) - 1}/{len(BODY)}")
        assert "x-amz-mp-parts-count" not in got.headers
        assert (await s3(method, BUCKET, KEY, query={"partNumber": "2"})).status == 416
    assert (await s3("GET", BUCKET, KEY, query={"partNumber": "2"})).code == "InvalidPartNumber"
    for value in ("0", "10001", "x", "", "-1", "1.5"):
        assert (await s3("GET", BUCKET, KEY, query={"partNumber": value})).code == "InvalidArgument"
    both = await s3("GET", BUCKET, KEY, query={"partNumber": "1"}, headers={"range": "bytes=0-1"})
    assert both.code == "InvalidRequest"


def in_parts(*runs: tuple[int, int]) -> FileVersion:
    size_bytes = sum(size * count for size, count in runs)
    return FileVersion(
        bucket=BUCKET,
        key=KEY,
        version=1,
        term=1,
        etag="e",
        content=FileContent(size_bytes=size_bytes, chunk_size_bytes=1, chunk_digests=b"", digest=None),
        content_type="",
        user_metadata={},
        epoch=1,
        durability=Durability(target=3, acknowledged=2, nodes=[]),
        stamp=Stamp(hlc=1, state=ClockState.LOGICAL),
        modified_ns=1,
        s3=S3Attributes(part_sizes=list(runs)),
    )


def test_parts_lie_one_behind_the_other() -> None:
    version = in_parts((10, 3), (4, 1), (10, 2))
    assert part_count(version) == 6
    spans = [part_span(version, number) for number in range(1, 7)]
    assert spans == [
        ByteSpan(0, 10),
        ByteSpan(10, 20),
        ByteSpan(20, 30),
        ByteSpan(30, 34),
        ByteSpan(34, 44),
        ByteSpan(44, 54),
    ]
    with pytest.raises(S3Error) as refused:
        part_span(version, 7)
    assert (refused.value.code, refused.value.facts["ActualPartCount"]) == ("InvalidPartNumber", "6")


# --- headers of the answer that the query names -------------------------------------------------------------------


async def test_a_signed_query_names_headers_of_the_answer(s3: S3Client) -> None:
    await put(s3, content_type="text/plain")
    query = {"response-content-type": "x/y", "response-content-disposition": "attachment"}
    for method in ("GET", "HEAD"):
        got = await s3(method, BUCKET, KEY, query=query)
        assert (got.headers["content-type"], got.headers["content-disposition"]) == ("x/y", "attachment")
    assert (await s3("GET", BUCKET, KEY, query={"response-expires": "a\r\nb: c"})).code == "InvalidArgument"


# --- versions -----------------------------------------------------------------------------------------------------


async def test_versions_are_kept_read_and_deleted_for_good(s3: S3Client, scene: Scene) -> None:
    await put(s3, b"null")
    await version_bucket(scene)
    first, second = (await put(s3, b"1")).headers["x-amz-version-id"], (await put(s3, b"2")).headers["x-amz-version-id"]
    assert len({first, second}) == 2
    assert (await s3("GET", BUCKET, KEY)).headers["x-amz-version-id"] == second
    for text, body in ((first, b"1"), (second, b"2"), ("null", b"null")):
        got = await s3("GET", BUCKET, KEY, query={"versionId": text})
        assert (got.body, got.headers["x-amz-version-id"]) == (body, text)
    deleted = await s3("DELETE", BUCKET, KEY)
    marker = deleted.headers["x-amz-version-id"]
    assert (deleted.status, deleted.headers["x-amz-delete-marker"]) == (204, "true")
    gone = await s3("GET", BUCKET, KEY)
    assert (gone.status, gone.code) == (404, "NoSuchKey")
    assert (gone.headers["x-amz-delete-marker"], gone.headers["x-amz-version-id"]) == ("true", marker)
    by_version = await s3("GET", BUCKET, KEY, query={"versionId": marker})
    assert (by_version.status, by_version.code) == (405, "MethodNotAllowed")
    assert (by_version.headers["x-amz-delete-marker"], by_version.headers["allow"]) == ("true", "DELETE")
    assert (await s3("HEAD", BUCKET, KEY, query={"versionId": marker})).status == 405
    unmarked = await s3("DELETE", BUCKET, KEY, query={"versionId": marker})
    assert (unmarked.status, unmarked.headers["x-amz-delete-marker"]) == (204, "true")
    assert (await s3("GET", BUCKET, KEY)).body == b"2"
    removed = await s3("DELETE", BUCKET, KEY, query={"versionId": second})
    assert (removed.status, removed.headers["x-amz-version-id"]) == (204, second)
    assert "x-amz-delete-marker" not in removed.headers
    # The one before is current again, and is known by its id still.
    got = await s3("GET", BUCKET, KEY)
    assert (got.body, got.headers["x-amz-version-id"]) == (b"1", first)
    assert (await s3("DELETE", BUCKET, KEY, query={"versionId": "null"})).status == 204
    assert (await s3("GET", BUCKET, KEY, query={"versionId": "null"})).code == "NoSuchVersion"
    assert (await s3("DELETE", BUCKET, KEY, query={"versionId": "null"})).status == 204


async def test_a_null_version_is_shown_as_one_where_versions_are_kept(s3: S3Client, scene: Scene) -> None:
    """By what reads it, and in a bucket that keeps none any more as well; a put never names it."""
    assert "x-amz-version-id" not in (await put(s3, b"null")).headers
    assert "x-amz-version-id" not in (await s3("HEAD", BUCKET, KEY)).headers
    for state in ("enabled", "suspended"):
        await version_bucket(scene, state)
        attributes = await s3(
            "GET", BUCKET, KEY, query={"attributes": ""}, headers={"x-amz-object-attributes": "ObjectSize"}
        )
        etag = (await s3("GET", BUCKET, KEY)).headers["etag"]
        answers = [
            await s3("GET", BUCKET, KEY),
            await s3("HEAD", BUCKET, KEY),
            await s3("GET", BUCKET, KEY, headers={"if-none-match": etag}),
            attributes,
        ]
        assert [answer.status for answer in answers] == [200, 200, 304, 200]
        assert [answer.headers["x-amz-version-id"] for answer in answers] == ["null"] * 4
        copied = await s3("PUT", BUCKET, f"copy {state}", headers={"x-amz-copy-source": f"{BUCKET}/{KEY}"})
        assert (copied.status, copied.headers["x-amz-copy-source-version-id"]) == (200, "null")
    assert "x-amz-version-id" not in (await put(s3, b"null again")).headers


async def test_a_null_marker_is_called_null(s3: S3Client, scene: Scene) -> None:
    """As a list calls it, in every answer; and by that name it is removed."""
    await version_bucket(scene)
    version = (await put(s3, b"1")).headers["x-amz-version-id"]
    await version_bucket(scene, "suspended")
    deleted, gone = await s3("DELETE", BUCKET, KEY), await s3("GET", BUCKET, KEY)
    listed = await s3("GET", BUCKET, query={"versions": ""})
    assert [deleted.headers["x-amz-version-id"], gone.headers["x-amz-version-id"]] == ["null", "null"]
    assert listed.texts("DeleteMarker/VersionId") == ["null"]
    assert (await s3("DELETE", BUCKET, KEY, query={"versionId": "null"})).status == 204
    assert (await s3("GET", BUCKET, KEY)).headers["x-amz-version-id"] == version


async def test_a_marker_that_is_current_again_keeps_its_id(s3: S3Client, scene: Scene) -> None:
    """What an absent object is answered with names the marker, by which it comes back."""
    await version_bucket(scene)
    await put(s3, b"1")
    marker = (await s3("DELETE", BUCKET, KEY)).headers["x-amz-version-id"]
    over = (await put(s3, b"2")).headers["x-amz-version-id"]
    await s3("DELETE", BUCKET, KEY, query={"versionId": over})
    gone = await s3("GET", BUCKET, KEY)
    assert (gone.status, gone.headers["x-amz-version-id"]) == (404, marker)
    assert (await s3("DELETE", BUCKET, KEY, query={"versionId": marker})).headers["x-amz-delete-marker"] == "true"
    assert (await s3("GET", BUCKET, KEY)).body == b"1"


async def test_a_version_that_is_none_is_told_from_one_that_cannot_be(s3: S3Client, scene: Scene) -> None:
    await version_bucket(scene)
    stored = await put(s3)
    for text in ("", "x", "0" * 17):
        got = await s3("GET", BUCKET, KEY, query={"versionId": text})
        assert (got.status, got.code) == (400, "InvalidArgument")
        assert (await s3("DELETE", BUCKET, KEY, query={"versionId": text})).code == "InvalidArgument"
    got = await s3("GET", BUCKET, "other", query={"versionId": stored.headers["x-amz-version-id"]})
    assert (got.status, got.code) == (404, "NoSuchVersion")


async def test_an_overwrite_in_a_suspended_bucket_replaces_the_null_version(s3: S3Client, scene: Scene) -> None:
    await version_bucket(scene)
    kept = (await put(s3, b"kept")).headers["x-amz-version-id"]
    await version_bucket(scene, "suspended")
    await put(s3, b"1")
    await put(s3, b"2")
    assert (await s3("GET", BUCKET, KEY, query={"versionId": "null"})).body == b"2"
    assert (await s3("GET", BUCKET, KEY, query={"versionId": kept})).body == b"kept"


# --- deletion -----------------------------------------------------------------------------------------------------


async def test_deleting_what_is_absent_is_a_success(s3: S3Client) -> None:
    assert (await s3("DELETE", BUCKET, "absent")).status == 204
    assert (await s3("DELETE", BUCKET, "absent", headers={"if-match": "*"})).status == 204
    assert (await s3("DELETE", "no-such-bucket", KEY)).code == "NoSuchBucket"


async def test_a_deletion_happens_only_where_its_conditions_hold(s3: S3Client) -> None:
    etag = (await put(s3)).headers["etag"]
    modified = (await s3("HEAD", BUCKET, KEY)).headers["last-modified"]
    for headers in (
        {"if-match": '"x"'},
        {"x-amz-if-match-size": str(len(BODY) + 1)},
        {"x-amz-if-match-last-modified-time": "Fri, 01 Jan 2100 00:00:00 GMT"},
        {"if-match": etag, "x-amz-if-match-size": "1"},
    ):
        refused = await s3("DELETE", BUCKET, KEY, headers=headers)
        assert (refused.status, refused.code) == (412, "PreconditionFailed")
    good = {"if-match": etag, "x-amz-if-match-size": str(len(BODY)), "x-amz-if-match-last-modified-time": modified}
    assert (await s3("DELETE", BUCKET, KEY, headers=good)).status == 204
    assert (await s3("HEAD", BUCKET, KEY)).status == 404
    assert (await s3("DELETE", BUCKET, KEY, headers={"x-amz-if-match-size": "x"})).code == "InvalidArgument"


# --- who may ------------------------------------------------------------------------------------------------------


async def test_that_an_object_is_absent_is_told_to_those_who_may_list(
    s3: S3Client, scene: Scene, here: Running
) -> None:
    await put(s3)
    reader = S3Client(here.s3, await scene.holder(may(BUCKET, Action.READ)))
    lister = S3Client(here.s3, await scene.holder(may(BUCKET, Action.READ, Action.LIST)))
    for client, status in ((reader, 403), (lister, 404)):
        assert (await client("GET", BUCKET, KEY)).status == 200
        for method in ("GET", "HEAD"):
            assert (await client(method, BUCKET, "absent")).status == status
            assert (await client(method, BUCKET, KEY, query={"versionId": "0" * 16})).status in {status, 404}


async def test_nobody_changes_what_they_may_only_read(s3: S3Client, scene: Scene, here: Running) -> None:
    await put(s3)
    reader = S3Client(here.s3, await scene.holder(may(BUCKET, Action.READ, Action.LIST)))
    for answer in (
        await reader("PUT", BUCKET, KEY, body=b"x"),
        await reader("DELETE", BUCKET, KEY),
        await reader("DELETE", BUCKET, KEY, query={"versionId": "null"}),
        await reader("PUT", BUCKET, KEY, query={"tagging": ""}, body=b"<Tagging><TagSet/></Tagging>"),
    ):
        assert (answer.status, answer.code) == (403, "AccessDenied")
    assert (await s3("GET", BUCKET, KEY)).body == BODY


# --- attributes ---------------------------------------------------------------------------------------------------


async def test_attributes_tell_what_is_asked_for(s3: S3Client) -> None:
    stored = await put(s3, x_amz_storage_class="STANDARD_IA")
    wanted = {"x-amz-object-attributes": "ETag, ObjectSize,StorageClass,Checksum,ObjectParts"}
    got = await s3("GET", BUCKET, KEY, query={"attributes": ""}, headers=wanted)
    assert got.status == 200
    assert got.xml.tag == "GetObjectAttributesResponse"
    assert got.text("ETag") == md5_of(BODY)
    assert got.text("ObjectSize") == str(len(BODY))
    assert got.text("StorageClass") == "STANDARD_IA"
    assert got.text("Checksum/ChecksumCRC64NVME") == stored.headers["x-amz-checksum-crc64nvme"]
    assert got.text("Checksum/ChecksumType") == "FULL_OBJECT"
    assert got.xml.find("ObjectParts") is None
    only = await s3("GET", BUCKET, KEY, query={"attributes": ""}, headers={"x-amz-object-attributes": "ObjectSize"})
    assert [child.tag for child in only.xml] == ["ObjectSize"]
    for headers in ({}, {"x-amz-object-attributes": "Etag"}, {**wanted, "x-amz-max-parts": "x"}):
        refused = await s3("GET", BUCKET, KEY, query={"attributes": ""}, headers=headers)
        assert refused.code == "InvalidArgument"
    absent = await s3("GET", BUCKET, "absent", query={"attributes": ""}, headers=wanted)
    assert absent.code == "NoSuchKey"


async def test_conditions_tell_nothing_to_those_who_may_not_look(scene: Scene, here: Running, s3: S3Client) -> None:
    """Whoever may neither read nor list is answered the same whether the object is there or not."""
    etag = (await put(s3)).headers["etag"]
    changes = may(BUCKET, Action.WRITE, Action.DELETE)
    blind = S3Client(here.s3, await scene.holder(changes))
    readers = [S3Client(here.s3, await scene.holder(changes, may(BUCKET, each))) for each in (Action.READ, Action.LIST)]
    for key in (KEY, "absent"):
        for condition in ("*", "other", etag):
            answer = await blind("PUT", BUCKET, key, headers={"if-match": condition}, body=b"x")
            assert (answer.status, answer.code, answer.has_read) == (403, "AccessDenied", False)
        for conditions in ({"if-match": "*"}, {"x-amz-if-match-size": "1"}):
            assert (await blind("DELETE", BUCKET, key, headers=conditions)).status == 403
        upload = (await blind("POST", BUCKET, key, query={"uploads": ""})).text("UploadId") or ""
        completed = await blind(
            "POST", BUCKET, key, query={"uploadId": upload}, headers={"if-match": "other"}, body=b"x"
        )
        assert completed.code == "AccessDenied"
    for reader in readers:
        assert (await reader("PUT", BUCKET, KEY, headers={"if-match": "other"}, body=b"x")).status == 412
        assert (await reader("PUT", BUCKET, "absent", headers={"if-match": "*"}, body=b"x")).status == 404
    assert (await s3("GET", BUCKET, KEY)).body == BODY
    assert (await blind("PUT", BUCKET, KEY, headers={"if-none-match": "*"}, body=b"x")).status == 412
