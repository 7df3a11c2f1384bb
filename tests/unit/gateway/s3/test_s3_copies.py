"""CopyObject and UploadPartCopy: what is copied, what of its description, and by whom."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping

import pytest

from services.gateway.s3 import copies
from services.gateway.s3.copies import NamedSource, source_of
from services.gateway.s3.errors import S3Error
from services.gateway.semantics.raw_names import FileName
from shared.contracts.access import Action
from shared.contracts.objects import BucketSettings, PutBucketSettings
from shared.units import MIB
from tests.unit.gateway.access.scene import Running, Scene, may
from tests.unit.gateway.s3.asking import Answer, S3Client
from tests.unit.gateway.s3.test_multipart import completion

BUCKET, BODY = "photos", b"what is copied"
MD5 = f'"{hashlib.md5(BODY).hexdigest()}"'


@pytest.fixture
async def here(scene: Scene) -> AsyncIterator[Running]:
    """A gateway that cuts what is large into few chunks."""
    async with scene.gateway(chunk_size_bytes=MIB) as running:
        yield running


@pytest.fixture
async def bucket(s3: S3Client) -> str:
    await s3("PUT", BUCKET)
    return BUCKET


async def copy(s3: S3Client, source: str, target: str = "target", headers: Mapping[str, str] | None = None) -> Answer:
    return await s3("PUT", BUCKET, target, headers={"x-amz-copy-source": source, **(headers or {})})


@pytest.mark.parametrize(
    ("header", "source"),
    [
        ("photos/a", NamedSource(FileName("photos", "a"), None)),
        ("/photos/a/b", NamedSource(FileName("photos", "a/b"), None)),
        ("/photos//a", NamedSource(FileName("photos", "/a"), None)),
        ("photos/a?versionId=null", NamedSource(FileName("photos", "a"), "null")),
        ("photos/a%3FversionId=x?versionId=0123", NamedSource(FileName("photos", "a?versionId=x"), "0123")),
        ("photos/a%253F", NamedSource(FileName("photos", "a%3F"), None)),
        ("photos/../a/./b", NamedSource(FileName("photos", "../a/./b"), None)),
        ("photos/%2e%2e/others/x", NamedSource(FileName("photos", "../others/x"), None)),
        ("photos%2Fa+b%20c", NamedSource(FileName("photos", "a+b c"), None)),
        ("photos/%F0%9F%98%80", NamedSource(FileName("photos", "\U0001f600"), None)),
        ("photos/\xc3\xa9", NamedSource(FileName("photos", "é"), None)),
    ],
)
def test_a_source_is_parsed_once(header: str, source: NamedSource) -> None:
    """The question mark splits before anything is decoded, and nothing of a key is a path."""
    assert source_of(header) == source


@pytest.mark.parametrize(
    "header",
    [
        *("", "/", "photos", "photos/", "/photos/", "//a", "?versionId=1", "photos/a?", "photos/a?versionId="),
        *("photos/a?versionid=1", "photos/a?acl", "Photos/a", "photos/%00", "photos/%zz", "photos/%ff", "../photos/a"),
        "arn:aws:s3:us-east-1:123456789012:accesspoint/name/object/key",
        f"photos/{'a' * 1025}",
    ],
)
def test_a_source_that_names_nothing_is_refused(header: str) -> None:
    """400, and no guess."""
    with pytest.raises(S3Error) as caught:
        source_of(header)
    assert (caught.value.code, caught.value.status) == ("InvalidArgument", 400)


async def test_a_copy_has_all_that_the_source_has(s3: S3Client, bucket: str) -> None:
    """Bytes, ETag, checksum, type, metadata, headers and tags; not its storage class and where it redirects to."""
    described = {
        "content-type": "image/jpeg",
        "cache-control": "no-store",
        "x-amz-meta-colour": "blue",
        "x-amz-tagging": "a=1",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-website-redirect-location": "/x",
    }
    await s3("PUT", bucket, "source", body=BODY, headers=described)
    answer = await copy(s3, f"{bucket}/source", headers={"x-amz-meta-colour": "red", "content-type": "text/plain"})
    assert (answer.status, answer.text("ETag")) == (200, MD5)
    assert (answer.text("LastModified") or "").endswith("Z")
    got = await s3("GET", bucket, "target")
    assert (got.body, got.headers["etag"], got.headers["content-type"]) == (BODY, MD5, "image/jpeg")
    assert (got.headers["x-amz-meta-colour"], got.headers["cache-control"]) == ("blue", "no-store")
    assert got.headers["x-amz-tagging-count"] == "1"
    assert "x-amz-storage-class" not in got.headers
    assert "x-amz-website-redirect-location" not in got.headers


async def test_a_copy_may_be_described_anew(s3: S3Client, bucket: str) -> None:
    """By the directives, each for itself; its bytes and ETag stay."""
    await s3("PUT", bucket, "source", body=BODY, headers={"x-amz-meta-colour": "blue", "x-amz-tagging": "a=1"})
    replacing = {
        "x-amz-metadata-directive": "REPLACE",
        "x-amz-meta-shape": "round",
        "content-language": "de",
        "x-amz-storage-class": "STANDARD_IA",
    }
    await copy(s3, f"{bucket}/source", headers=replacing)
    got = await s3("HEAD", bucket, "target")
    assert got.headers["etag"] == MD5
    assert (got.headers["x-amz-meta-shape"], got.headers["content-language"]) == ("round", "de")
    assert (got.headers["content-type"], got.headers["x-amz-storage-class"]) == ("binary/octet-stream", "STANDARD_IA")
    assert "x-amz-meta-colour" not in got.headers
    assert got.headers["x-amz-tagging-count"] == "1"
    await copy(s3, f"{bucket}/source", headers={"x-amz-tagging-directive": "REPLACE"})
    got = await s3("HEAD", bucket, "target")
    assert "x-amz-tagging-count" not in got.headers
    assert got.headers["x-amz-meta-colour"] == "blue"
    for name in ("x-amz-metadata-directive", "x-amz-tagging-directive"):
        assert (await copy(s3, f"{bucket}/source", headers={name: "KEEP"})).code == "InvalidArgument"


async def test_a_copy_onto_itself_changes_something(s3: S3Client, bucket: str) -> None:
    """Else it is refused."""
    await s3("PUT", bucket, "a", body=BODY, headers={"x-amz-storage-class": "STANDARD_IA"})
    refused = await copy(s3, f"{bucket}/a", "a")
    assert (refused.status, refused.code) == (400, "InvalidRequest")
    assert (await copy(s3, f"{bucket}/a", "a", {"x-amz-storage-class": "STANDARD"})).status == 200
    assert "x-amz-storage-class" not in (await s3("HEAD", bucket, "a")).headers
    assert (await copy(s3, f"{bucket}/a", "a", {"x-amz-metadata-directive": "REPLACE"})).status == 200


@pytest.mark.parametrize(
    ("conditions", "is_copied"),
    [
        ({"if-match": MD5}, True),
        ({"if-match": MD5.strip('"')}, True),
        ({"if-match": '"x"'}, False),
        ({"if-none-match": '"x"'}, True),
        ({"if-none-match": MD5}, False),
        ({"if-unmodified-since": "Thu, 01 Jan 2099 00:00:00 GMT"}, True),
        ({"if-unmodified-since": "Thu, 01 Jan 1970 00:00:00 GMT"}, False),
        ({"if-modified-since": "Thu, 01 Jan 1970 00:00:00 GMT"}, True),
        ({"if-modified-since": "Thu, 01 Jan 2099 00:00:00 GMT"}, False),
        ({"if-match": MD5, "if-unmodified-since": "Thu, 01 Jan 1970 00:00:00 GMT"}, True),
        ({"if-none-match": MD5, "if-modified-since": "Thu, 01 Jan 1970 00:00:00 GMT"}, False),
    ],
)
async def test_the_source_meets_the_conditions(s3: S3Client, bucket: str, conditions, is_copied: bool) -> None:
    """Else 412, of CopyObject and of UploadPartCopy."""
    await s3("PUT", bucket, "source", body=BODY)
    headers = {f"x-amz-copy-source-{name}": value for name, value in conditions.items()}
    upload = (await s3("POST", bucket, "target", query={"uploads": ""})).text("UploadId") or ""
    query = {"uploadId": upload, "partNumber": "1"}
    part = await s3("PUT", bucket, "target", query=query, headers={"x-amz-copy-source": f"{bucket}/source", **headers})
    for answer in (await copy(s3, f"{bucket}/source", headers=headers), part):
        assert (answer.status, answer.code) == ((200, None) if is_copied else (412, "PreconditionFailed"))


async def test_the_target_meets_its_conditions(s3: S3Client, bucket: str) -> None:
    """As those of a put."""
    await s3("PUT", bucket, "source", body=BODY)
    assert (await copy(s3, f"{bucket}/source", headers={"if-match": MD5})).code == "NoSuchKey"
    assert (await copy(s3, f"{bucket}/source", headers={"if-none-match": "*"})).status == 200
    again = await copy(s3, f"{bucket}/source", headers={"if-none-match": "*"})
    assert (again.status, again.code) == (412, "PreconditionFailed")


async def test_an_older_version_is_copied(scene: Scene, s3: S3Client, bucket: str) -> None:
    """By its id; a delete marker is no source."""
    await s3("PUT", bucket, "a", body=b"null")
    settings = BucketSettings(versioning="enabled")
    await scene.metadata.propose(PutBucketSettings(bucket=bucket, settings=settings, stamp=scene.clock.stamp()))
    first = (await s3("PUT", bucket, "a", body=BODY)).headers["x-amz-version-id"]
    await s3("PUT", bucket, "a", body=b"newer")
    marker = (await s3("DELETE", bucket, "a")).headers["x-amz-version-id"]
    answer = await copy(s3, f"{bucket}/a?versionId={first}")
    assert (answer.status, answer.headers["x-amz-copy-source-version-id"]) == (200, first)
    assert answer.headers["x-amz-version-id"] not in {first, "null"}
    assert (await s3("GET", bucket, "target")).body == BODY
    assert (await copy(s3, f"{bucket}/a?versionId=null")).headers["x-amz-copy-source-version-id"] == "null"
    assert (await s3("GET", bucket, "target")).body == b"null"
    gone = await copy(s3, f"{bucket}/a")
    assert (gone.status, gone.code) == (404, "NoSuchKey")
    refused = await copy(s3, f"{bucket}/a?versionId={marker}")
    assert (refused.status, refused.code) == (400, "InvalidRequest")
    assert (await copy(s3, f"{bucket}/a?versionId={'0' * 16}")).code == "NoSuchVersion"


async def test_nothing_is_copied_from_nowhere(s3: S3Client, bucket: str) -> None:
    """404, of a key and of a bucket."""
    assert (await copy(s3, f"{bucket}/missing")).code == "NoSuchKey"
    assert (await copy(s3, "missing/a")).code == "NoSuchBucket"
    assert (await s3("HEAD", bucket, "target")).status == 404


async def test_what_is_longer_than_one_copy_may_be_is_refused(s3: S3Client, bucket: str, monkeypatch) -> None:
    """It is copied in parts."""
    await s3("PUT", bucket, "source", body=BODY)
    monkeypatch.setattr(copies, "COPY_BYTES_MAX", len(BODY))
    assert (await copy(s3, f"{bucket}/source")).status == 200
    monkeypatch.setattr(copies, "COPY_BYTES_MAX", len(BODY) - 1)
    answer = await copy(s3, f"{bucket}/source")
    assert (answer.status, answer.code) == (400, "InvalidRequest")


# --- parts ----------------------------------------------------------------------------------------------------------


async def test_parts_are_copied_and_joined(s3: S3Client, bucket: str) -> None:
    """One that is a whole object has its MD5 and checksum; a range has an ETag of its own that completes the upload."""
    large = bytes(range(256)) * (20 * 1024)  # 5 MiB
    assert len(large) == 5 * MIB
    await s3("PUT", bucket, "large", body=large)
    await s3("PUT", bucket, "small", body=BODY)
    upload = (await s3("POST", bucket, "target", query={"uploads": ""})).text("UploadId") or ""

    async def part(number: int, source: str, **headers: str) -> Answer:
        named = {f"x-amz-{name.replace('_', '-')}": value for name, value in headers.items()}
        query = {"uploadId": upload, "partNumber": str(number)}
        return await s3("PUT", bucket, "target", query=query, headers={"x-amz-copy-source": source, **named})

    whole = await part(1, f"{bucket}/large")
    assert whole.text("ETag") == f'"{hashlib.md5(large).hexdigest()}"'
    assert whole.text("ChecksumCRC64NVME") is not None
    cut = await part(2, f"{bucket}/small", copy_source_range="bytes=5-6")
    assert cut.status == 200
    for wrong, code in (
        ("bytes=0-14", "InvalidRange"),
        ("bytes=5-4", "InvalidArgument"),
        ("bytes=5-", "InvalidArgument"),
        ("bytes=-5", "InvalidArgument"),
        ("bytes=0-1,3-4", "InvalidArgument"),
        ("0-1", "InvalidArgument"),
    ):
        assert (await part(3, f"{bucket}/small", copy_source_range=wrong)).code == code
    parts = [(1, whole.text("ETag") or ""), (2, cut.text("ETag") or "")]
    done = await s3("POST", bucket, "target", query={"uploadId": upload}, body=completion(parts))
    assert done.status == 200, done.body
    md5s = b"".join(bytes.fromhex(etag.strip('"')) for _, etag in parts)
    assert done.text("ETag") == f'"{hashlib.md5(md5s).hexdigest()}-2"'
    assert done.text("ChecksumType") is None
    got = await s3("GET", bucket, "target")
    assert got.body == large + BODY[5:7]


# --- who may --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "other_actions", "status"),
    [
        ([Action.WRITE], [Action.READ], 200),
        ([Action.WRITE, Action.READ, Action.LIST], [], 403),
        ([Action.WRITE, Action.READ, Action.LIST], [Action.WRITE, Action.LIST, Action.DELETE], 403),
        ([Action.READ, Action.LIST, Action.DELETE], [Action.READ], 403),
    ],
)
async def test_a_copy_reads_its_source_and_writes_its_target(
    scene: Scene, here: Running, s3: S3Client, bucket: str, actions, other_actions, status: int
) -> None:
    """Whoever may do one of them alone is refused, and nothing is made."""
    await s3("PUT", "others")
    await s3("PUT", "others", "source", body=BODY)
    scopes = [may(bucket, *actions), *([may("others", *other_actions)] if other_actions else [])]
    somebody = S3Client(here.s3, await scene.holder(*scopes))
    upload = (await s3("POST", bucket, "target", query={"uploads": ""})).text("UploadId") or ""
    query = {"uploadId": upload, "partNumber": "1"}
    headers = {"x-amz-copy-source": "others/source"}
    part = await somebody("PUT", bucket, "target", query=query, headers=headers)
    assert ((await copy(somebody, "others/source")).status, part.status) == (status, status)
    assert (await s3("HEAD", bucket, "target")).status == (200 if status == 200 else 404)


async def test_a_copy_onto_itself_reads_its_source(scene: Scene, here: Running, s3: S3Client, bucket: str) -> None:
    """Whoever may only write and list learns nothing of it, by conditions, sizes or ranges."""
    await s3("PUT", bucket, "target", body=BODY)
    upload = (await s3("POST", bucket, "target", query={"uploads": ""})).text("UploadId") or ""
    writer = S3Client(here.s3, await scene.holder(may(bucket, Action.WRITE, Action.LIST)))
    source = {"x-amz-copy-source": f"{bucket}/target"}
    conditions = {"x-amz-copy-source-if-match": "other"}
    assert (await copy(writer, f"{bucket}/target", headers=conditions)).code == "AccessDenied"
    part = await writer(
        "PUT",
        bucket,
        "target",
        query={"uploadId": upload, "partNumber": "1"},
        headers={**source, "x-amz-copy-source-range": "bytes=0-100"},
    )
    assert part.code == "AccessDenied"
    for key in ("target", "absent"):
        assert (await copy(writer, f"{bucket}/{key}", key)).code == "AccessDenied"


async def test_whoever_may_not_list_is_not_told_that_a_source_is_absent(
    scene: Scene, here: Running, s3: S3Client, bucket: str
) -> None:
    """403 as for one that is there and may not be read."""
    await s3("PUT", "others")
    blind = S3Client(here.s3, await scene.holder(may(bucket, Action.WRITE), may("others", Action.READ)))
    seeing = await scene.holder(may(bucket, Action.WRITE), may("others", Action.READ, Action.LIST))
    assert (await copy(blind, "others/missing")).code == "AccessDenied"
    assert (await copy(S3Client(here.s3, seeing), "others/missing")).code == "NoSuchKey"
