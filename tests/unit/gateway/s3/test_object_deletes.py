"""Deletion of many objects by one call."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest

from shared.contracts.access import Action
from shared.contracts.objects import BucketSettings, PutBucketSettings
from tests.unit.gateway.access.scene import Running, Scene, may
from tests.unit.gateway.s3.asking import Answer, S3Client
from tests.unit.gateway.s3.conftest import PacedTransfers

BUCKET = "photos"


@pytest.fixture(autouse=True)
async def bucket(s3: S3Client) -> None:
    """There is one."""
    await s3("PUT", BUCKET)


def md5_header(body: bytes) -> dict[str, str]:
    return {"content-md5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()}


def document_of(*objects: str, quiet: bool = False) -> bytes:
    listed = "".join(f"<Object>{each}</Object>" for each in objects)
    return f"<Delete>{'<Quiet>true</Quiet>' if quiet else ''}{listed}</Delete>".encode()


async def delete(s3: S3Client, *keys: str, quiet: bool = False) -> Answer:
    body = document_of(*(f"<Key>{key}</Key>" for key in keys), quiet=quiet)
    return await s3("POST", BUCKET, query={"delete": ""}, headers=md5_header(body), body=body)


async def test_objects_are_deleted_and_told_in_their_order(s3: S3Client) -> None:
    for key in ("a", "b", "c"):
        await s3("PUT", BUCKET, key, body=b"x")
    answer = await delete(s3, "c", "absent", "a")
    assert (answer.status, answer.xml.tag) == (200, "DeleteResult")
    assert answer.texts("Deleted/Key") == ["c", "absent", "a"]
    assert answer.texts("Error/Key") == []
    assert [(await s3("HEAD", BUCKET, key)).status for key in ("a", "b", "c")] == [404, 200, 404]


async def test_a_quiet_answer_tells_errors_only(s3: S3Client) -> None:
    answer = await delete(s3, "a", "k" * 1025, quiet=True)
    assert answer.texts("Deleted/Key") == []
    assert answer.texts("Error/Code") == ["KeyTooLongError"]


async def test_a_body_that_is_not_the_one_that_was_announced_deletes_nothing(s3: S3Client) -> None:
    """And neither does one of which nothing is announced."""
    await s3("PUT", BUCKET, "a", body=b"x")
    body = document_of("<Key>a</Key>")
    missing = await s3("POST", BUCKET, query={"delete": ""}, body=body)
    assert (missing.status, missing.code) == (400, "InvalidRequest")
    wrong = await s3("POST", BUCKET, query={"delete": ""}, headers=md5_header(b"other"), body=body)
    assert (wrong.status, wrong.code) == (400, "BadDigest")
    assert (await s3("HEAD", BUCKET, "a")).status == 200
    crc = {"x-amz-checksum-crc32": base64.b64encode(zlib.crc32(body).to_bytes(4)).decode()}
    assert (await s3("POST", BUCKET, query={"delete": ""}, headers=crc, body=body)).status == 200
    assert (await s3("HEAD", BUCKET, "a")).status == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<Delete/>",
        b"<Other><Object><Key>a</Key></Object></Other>",
        b"<Delete><Object/></Delete>",
        b"<Delete><Object><Key/></Object></Delete>",
        b"<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>",
        b'<!DOCTYPE d [<!ENTITY e "x">]><Delete><Object><Key>&e;</Key></Object></Delete>',
        document_of(*(["<Key>a</Key>"] * 1001)),
    ],
)
async def test_a_document_that_is_none_is_malformed(s3: S3Client, body: bytes) -> None:
    answer = await s3("POST", BUCKET, query={"delete": ""}, headers=md5_header(body), body=body)
    assert (answer.status, answer.code) == (400, "MalformedXML")


async def test_a_thousand_are_deleted_by_one_call(s3: S3Client) -> None:
    await s3("PUT", BUCKET, "k999", body=b"x")
    answer = await delete(s3, *(f"k{number}" for number in range(1000)))
    assert len(answer.texts("Deleted/Key")) == 1000
    assert (await s3("HEAD", BUCKET, "k999")).status == 404


async def test_versions_and_markers_are_told(s3: S3Client, scene: Scene) -> None:
    settings = BucketSettings(versioning="enabled")
    await scene.metadata.propose(PutBucketSettings(bucket=BUCKET, settings=settings, stamp=scene.clock.stamp()))
    version = (await s3("PUT", BUCKET, "a", body=b"x")).headers["x-amz-version-id"]
    marked = await delete(s3, "a")
    assert marked.texts("Deleted/DeleteMarker") == ["true"]
    (marker,) = marked.texts("Deleted/DeleteMarkerVersionId")
    body = document_of(
        f"<Key>a</Key><VersionId>{marker}</VersionId>",
        f"<Key>a</Key><VersionId>{version}</VersionId>",
        "<Key>a</Key><VersionId>nonsense</VersionId>",
        "<Key>a</Key><VersionId>null</VersionId>",
    )
    answer = await s3("POST", BUCKET, query={"delete": ""}, headers=md5_header(body), body=body)
    assert answer.texts("Deleted/VersionId") == [marker, version, "null"]
    assert answer.texts("Deleted/DeleteMarkerVersionId") == [marker]
    assert answer.texts("Error/Code") == ["InvalidArgument"]


async def test_a_null_marker_is_told_as_null(s3: S3Client, scene: Scene) -> None:
    """In a bucket that keeps no further versions."""
    for state in ("enabled", "suspended"):
        settings = BucketSettings.model_validate({"versioning": state})
        await scene.metadata.propose(PutBucketSettings(bucket=BUCKET, settings=settings, stamp=scene.clock.stamp()))
        await s3("PUT", BUCKET, "a", body=b"x")
    assert (await delete(s3, "a")).texts("Deleted/DeleteMarkerVersionId") == ["null"]


async def test_each_object_has_conditions_of_its_own(s3: S3Client) -> None:
    etag = (await s3("PUT", BUCKET, "a", body=b"x")).headers["etag"]
    await s3("PUT", BUCKET, "b", body=b"x")
    body = document_of(
        f"<Key>a</Key><ETag>{etag}</ETag><Size>1</Size>",
        "<Key>b</Key><ETag>other</ETag>",
        "<Key>b</Key><Size>2</Size>",
        "<Key>b</Key><LastModifiedTime>2100-01-01T00:00:00Z</LastModifiedTime>",
        "<Key>absent</Key><ETag>x</ETag>",
    )
    answer = await s3("POST", BUCKET, query={"delete": ""}, headers=md5_header(body), body=body)
    assert answer.texts("Deleted/Key") == ["a", "absent"]
    assert answer.texts("Error/Code") == ["PreconditionFailed"] * 3
    assert (await s3("HEAD", BUCKET, "b")).status == 200


async def test_what_may_not_be_deleted_is_told_object_by_object(s3: S3Client, scene: Scene, here: Running) -> None:
    for key in ("mine/a", "theirs/b"):
        await s3("PUT", BUCKET, key, body=b"x")
    client = S3Client(here.s3, await scene.holder(may(BUCKET, Action.DELETE, prefix="mine/")))
    answer = await delete(client, "theirs/b", "mine/a")
    assert (answer.texts("Deleted/Key"), answer.texts("Error/Key")) == (["mine/a"], ["theirs/b"])
    assert answer.texts("Error/Code") == ["AccessDenied"]
    assert (await s3("HEAD", BUCKET, "theirs/b")).status == 200
    assert (await s3("HEAD", BUCKET, "mine/a")).status == 404


async def test_a_condition_tells_nothing_to_those_who_may_not_look(s3: S3Client, scene: Scene, here: Running) -> None:
    """Of an object of the list, whoever may neither read nor list is told the same whether it is there or not."""
    await s3("PUT", BUCKET, "a", body=b"x")
    body = document_of("<Key>a</Key><ETag>other</ETag>", "<Key>absent</Key><Size>1</Size>", "<Key>b</Key>")
    blind = S3Client(here.s3, await scene.holder(may(BUCKET, Action.DELETE)))
    answer = await blind("POST", BUCKET, query={"delete": ""}, headers=md5_header(body), body=body)
    assert (answer.texts("Deleted/Key"), answer.texts("Error/Key")) == (["b"], ["a", "absent"])
    assert answer.texts("Error/Code") == ["AccessDenied"] * 2
    lister = S3Client(here.s3, await scene.holder(may(BUCKET, Action.DELETE, Action.LIST)))
    answer = await lister("POST", BUCKET, query={"delete": ""}, headers=md5_header(body), body=body)
    assert (answer.texts("Deleted/Key"), answer.texts("Error/Code")) == (["absent", "b"], ["PreconditionFailed"])


async def test_the_list_of_a_principal_that_may_delete_nothing_is_not_read(scene: Scene, here: Running) -> None:
    """Nobody sends megabytes to be told so for each of its keys; a right to a part of the bucket is one."""
    body = document_of("<Key>mine/a</Key>")
    reader = S3Client(here.s3, await scene.holder(may(BUCKET, Action.READ, Action.WRITE)))
    refused = await reader("POST", BUCKET, query={"delete": ""}, headers=md5_header(body), body=body)
    assert (refused.status, refused.code, refused.has_read) == (403, "AccessDenied", False)
    partly = S3Client(here.s3, await scene.holder(may(BUCKET, Action.DELETE, prefix="mine/")))
    assert (await delete(partly, "mine/a")).texts("Deleted/Key") == ["mine/a"]


async def test_a_list_comes_at_the_pace_of_its_client(s3: S3Client, paced: PacedTransfers) -> None:
    """A client that is slow can be ended, and the rate of its principal is kept."""
    body = document_of("<Key>a</Key>")
    assert (await delete(s3, "a")).status == 200
    assert (paced.moved_bytes, paced.turns_bytes, paced.is_small) == (len(body), len(body), True)


async def test_in_a_bucket_that_is_none_nothing_is_deleted(s3: S3Client) -> None:
    body = document_of("<Key>a</Key>")
    answer = await s3("POST", "no-such-bucket", query={"delete": ""}, headers=md5_header(body), body=body)
    assert answer.code == "NoSuchBucket"
