"""MinIO's own SDK for Python, which signs its bodies in its own way and reads other fields."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from datetime import timedelta

import httpx
import pytest
from minio import Minio
from minio.commonconfig import CopySource, Tags
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.versioningconfig import ENABLED, VersioningConfig

from shared.units import MIB
from tests.integration.s3.servers import S3Server

pytestmark = pytest.mark.cluster


@pytest.fixture
def open_minio() -> Iterator[Callable[[S3Server], Minio]]:
    """`open_minio(server)`: a client as docs/s3-clients.md configures it, closed after the test."""
    opened: list[Minio] = []

    def open_one(server: S3Server) -> Minio:
        opened.append(
            Minio(
                server.address,
                access_key=server.key,
                secret_key=server.secret,
                region=server.region,
                secure=False,
            )
        )
        return opened[-1]

    yield open_one
    for each in opened:
        each._http.clear()


@pytest.fixture
def minio(s3, open_minio) -> Minio:
    return open_minio(s3)


def read(minio, bucket, key, **options) -> bytes:
    answer = minio.get_object(bucket, key, **options)
    try:
        return answer.read()
    finally:
        answer.close()
        answer.release_conn()


def test_the_everyday_calls(minio, bucket, seed) -> None:
    """Put, stat, get, a range, a copy, lists and deletions."""
    body = random.Random(seed).randbytes(MIB + 9)
    minio.put_object(bucket, "a/b.bin", io.BytesIO(body), len(body), "text/x-own", metadata={"Note": "hello"})
    found = minio.stat_object(bucket, "a/b.bin")
    assert (found.size, found.content_type, found.metadata["x-amz-meta-note"]) == (len(body), "text/x-own", "hello")
    assert read(minio, bucket, "a/b.bin") == body
    assert read(minio, bucket, "a/b.bin", offset=1000, length=7) == body[1000:1007]
    minio.copy_object(bucket, "copied", CopySource(bucket, "a/b.bin"))
    minio.put_object(bucket, "empty", io.BytesIO(), 0)
    names = [entry.object_name for entry in minio.list_objects(bucket)]
    assert sorted(names) == ["a/", "copied", "empty"]
    names = [entry.object_name for entry in minio.list_objects(bucket, recursive=True)]
    assert names == ["a/b.bin", "copied", "empty"]
    minio.remove_object(bucket, "a/b.bin")
    assert list(minio.remove_objects(bucket, [DeleteObject("copied"), DeleteObject("empty")])) == []
    assert list(minio.list_objects(bucket, recursive=True)) == []


def test_64_mib_of_unknown_length_go_up_by_parts(minio, bucket, seed) -> None:
    """As a backup that is being written: the length is known at the end."""
    body = random.Random(seed).randbytes(64 * MIB)
    minio.put_object(bucket, "large", io.BytesIO(body), -1, part_size=8 * MIB)
    assert minio.stat_object(bucket, "large").etag.endswith("-8")
    assert read(minio, bucket, "large") == body


def test_versions_and_tags(minio, bucket) -> None:
    """Kept, listed with their markers, read one by one."""
    minio.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    first = minio.put_object(bucket, "k", io.BytesIO(b"1"), 1).version_id
    minio.put_object(bucket, "k", io.BytesIO(b"2"), 1)
    minio.remove_object(bucket, "k")
    shown = list(minio.list_objects(bucket, include_version=True))
    assert [entry.is_delete_marker for entry in shown] in ([True, False, False], [False, False, True])
    assert read(minio, bucket, "k", version_id=first) == b"1"
    tags = Tags.new_object_tags()
    tags["a"] = "1"
    minio.set_object_tags(bucket, "k", tags, version_id=first)
    assert minio.get_object_tags(bucket, "k", version_id=first) == {"a": "1"}


def test_presigned_links(minio, bucket) -> None:
    """For a write and for a read."""
    with httpx.Client(trust_env=False) as anybody:
        put = anybody.put(minio.presigned_put_object(bucket, "k", timedelta(minutes=1)), content=b"sent")
        assert put.status_code == 200
        assert anybody.get(minio.presigned_get_object(bucket, "k", timedelta(minutes=1))).content == b"sent"


def test_a_wrong_key_and_a_wrong_bucket_are_named(s3, minio, open_minio, bucket) -> None:
    """By the codes of S3."""
    for server, name, code in (
        (s3.with_wrong_key, bucket, "InvalidAccessKeyId"),
        (s3.with_wrong_secret, bucket, "SignatureDoesNotMatch"),
        (s3, "nobody-has-this", "NoSuchBucket"),
    ):
        with pytest.raises(S3Error) as caught:
            list(open_minio(server).list_objects(name))
        assert caught.value.code == code
    assert not minio.bucket_exists("nobody-has-this")
    assert minio.bucket_exists(bucket)
