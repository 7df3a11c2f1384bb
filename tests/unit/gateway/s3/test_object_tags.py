"""Tags of objects by S3."""

from __future__ import annotations

import pytest

from shared.contracts.objects import BucketSettings, PutBucketSettings
from tests.unit.gateway.access.scene import Scene
from tests.unit.gateway.s3.asking import S3Client

BUCKET, KEY = "photos", "a"
TAGGING = {"tagging": ""}


@pytest.fixture(autouse=True)
async def bucket(s3: S3Client) -> None:
    """There is one, with an object."""
    await s3("PUT", BUCKET)
    await s3("PUT", BUCKET, KEY, body=b"x")


def document_of(*tags: tuple[str, str]) -> bytes:
    listed = "".join(f"<Tag><Key>{key}</Key><Value>{value}</Value></Tag>" for key, value in tags)
    return f"<Tagging><TagSet>{listed}</TagSet></Tagging>".encode()


async def tags_of(s3: S3Client, query: dict[str, str] | None = None) -> dict[str, str]:
    answer = await s3("GET", BUCKET, KEY, query=query or TAGGING)
    assert answer.status == 200
    return dict(zip(answer.texts("TagSet/Tag/Key"), answer.texts("TagSet/Tag/Value"), strict=True))


async def test_tags_are_put_read_counted_and_deleted(s3: S3Client) -> None:
    assert await tags_of(s3) == {}
    before = await s3("HEAD", BUCKET, KEY)
    stored = await s3("PUT", BUCKET, KEY, query=TAGGING, body=document_of(("a", "1"), ("b &amp; c", "")))
    assert (stored.status, stored.body) == (200, b"")
    assert await tags_of(s3) == {"a": "1", "b & c": ""}
    after = await s3("HEAD", BUCKET, KEY)
    assert after.headers["x-amz-tagging-count"] == "2"
    assert (after.headers["etag"], after.headers["last-modified"]) == (
        before.headers["etag"],
        before.headers["last-modified"],
    )
    assert (await s3("PUT", BUCKET, KEY, query=TAGGING, body=document_of(("c", "3")))).status == 200
    assert await tags_of(s3) == {"c": "3"}
    assert (await s3("DELETE", BUCKET, KEY, query=TAGGING)).status == 204
    assert await tags_of(s3) == {}
    assert "x-amz-tagging-count" not in (await s3("HEAD", BUCKET, KEY)).headers


async def test_an_object_is_put_with_tags(s3: S3Client) -> None:
    await s3("PUT", BUCKET, KEY, headers={"x-amz-tagging": "a=1&b%20c=d"}, body=b"y")
    assert await tags_of(s3) == {"a": "1", "b c": "d"}
    await s3("PUT", BUCKET, KEY, body=b"z")
    assert await tags_of(s3) == {}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "MalformedXML"),
        (b"<Tagging/>", "MalformedXML"),
        (b"<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>", "MalformedXML"),
        (b"<Tagging><TagSet><Other/></TagSet></Tagging>", "MalformedXML"),
        (b"<Tagging><TagSet/><TagSet/></Tagging>", "MalformedXML"),
        (document_of(*((f"k{number}", "v") for number in range(11))), "BadRequest"),
        (document_of(("a", "1"), ("a", "2")), "InvalidTag"),
        (document_of(("", "1")), "InvalidTag"),
        (document_of(("k" * 129, "1")), "InvalidTag"),
        (document_of(("k", "v" * 257)), "InvalidTag"),
    ],
)
async def test_tags_that_are_none_are_refused(s3: S3Client, body: bytes, code: str) -> None:
    assert (await s3("PUT", BUCKET, KEY, query=TAGGING, body=body)).code == code
    assert await tags_of(s3) == {}


async def test_each_version_has_tags_of_its_own(s3: S3Client, scene: Scene) -> None:
    settings = BucketSettings(versioning="enabled")
    await scene.metadata.propose(PutBucketSettings(bucket=BUCKET, settings=settings, stamp=scene.clock.stamp()))
    first = (await s3("PUT", BUCKET, KEY, body=b"1")).headers["x-amz-version-id"]
    await s3("PUT", BUCKET, KEY, body=b"2")
    query = {**TAGGING, "versionId": first}
    stored = await s3("PUT", BUCKET, KEY, query=query, body=document_of(("a", "1")))
    assert (stored.status, stored.headers["x-amz-version-id"]) == (200, first)
    assert await tags_of(s3, query) == {"a": "1"}
    assert await tags_of(s3) == {}
    marker = (await s3("DELETE", BUCKET, KEY)).headers["x-amz-version-id"]
    for method, body in (("GET", b""), ("PUT", document_of(("a", "1"))), ("DELETE", b"")):
        assert (await s3(method, BUCKET, KEY, query=TAGGING, body=body)).code == "NoSuchKey"
        answer = await s3(method, BUCKET, KEY, query={**TAGGING, "versionId": marker}, body=body)
        assert (answer.status, answer.code) == (405, "MethodNotAllowed")


async def test_what_is_absent_has_no_tags(s3: S3Client) -> None:
    assert (await s3("GET", BUCKET, "absent", query=TAGGING)).code == "NoSuchKey"
    assert (await s3("GET", "no-such-bucket", KEY, query=TAGGING)).code == "NoSuchBucket"
