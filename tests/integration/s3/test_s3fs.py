"""s3fs of fsspec: what pandas, Dask and zarr open `s3://` with."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import s3fs

from shared.units import MIB

pytestmark = pytest.mark.cluster


@pytest.fixture
def files(s3) -> Iterator[s3fs.S3FileSystem]:
    """A file system of its own, without what earlier ones remember."""
    opened = open_files(s3)
    yield opened
    opened.invalidate_cache()


def open_files(server, **options) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(
        key=server.key,
        secret=server.secret,
        endpoint_url=server.endpoint,
        client_kwargs={"region_name": server.region},
        config_kwargs={"signature_version": "s3v4", "retries": {"max_attempts": 4 + server.attempts}},
        skip_instance_cache=True,
        **options,
    )


def test_files_are_written_read_in_part_renamed_and_removed(files, bucket, seed) -> None:
    """A file system's calls: an open file, a seek, a folder, a rename, which is a copy and a deletion."""
    body = random.Random(seed).randbytes(MIB + 3)
    with files.open(f"{bucket}/a/b.bin", "wb") as file:
        file.write(body)
    assert files.info(f"{bucket}/a/b.bin")["size"] == len(body)
    with files.open(f"{bucket}/a/b.bin", "rb") as file:
        file.seek(1000)
        assert file.read(50) == body[1000:1050]
        file.seek(-3, 2)
        assert file.read() == body[-3:]
    assert files.cat_ranges([f"{bucket}/a/b.bin"] * 2, [0, 1000], [10, 1010]) == [body[:10], body[1000:1010]]
    assert files.isdir(f"{bucket}/a")
    assert not files.exists(f"{bucket}/a/b")
    files.mv(f"{bucket}/a/b.bin", f"{bucket}/c/d e.bin")
    assert files.find(bucket) == [f"{bucket}/c/d e.bin"]
    assert files.cat(f"{bucket}/c/d e.bin") == body
    files.rm(f"{bucket}/c", recursive=True)
    files.invalidate_cache()
    assert files.find(bucket) == []


def test_64_mib_are_written_in_blocks(files, bucket, seed) -> None:
    """A file that is written piece by piece goes up by parts before it is closed."""
    body = random.Random(seed).randbytes(64 * MIB)
    with files.open(f"{bucket}/large", "wb", block_size=8 * MIB) as file:
        for start in range(0, len(body), MIB):
            file.write(body[start : start + MIB])
    assert files.info(f"{bucket}/large")["ETag"].strip('"').endswith("-8")
    assert files.cat(f"{bucket}/large") == body


def test_a_folder_goes_there_and_back(files, bucket, tree, tmp_path) -> None:
    """What was put as a folder comes back as the same folder."""
    files.put(f"{tree}/", f"{bucket}/tree/", recursive=True)
    files.get(f"{bucket}/tree/", f"{tmp_path}/back/", recursive=True)
    for path in tree.rglob("*"):
        if path.is_file():
            assert (tmp_path / "back" / path.relative_to(tree)).read_bytes() == path.read_bytes()


def test_versions_are_read_one_by_one(s3, client, bucket) -> None:
    """With `version_aware` a reader can name a version."""
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    files = open_files(s3, version_aware=True)
    for body in (b"one", b"two"):
        files.pipe(f"{bucket}/k", body)
    versions = files.object_version_info(f"{bucket}/k")
    assert [version["IsLatest"] for version in versions] == [True, False]
    with files.open(f"{bucket}/k", version_id=versions[1]["VersionId"]) as file:
        assert file.read() == b"one"


def test_metadata_and_links(files, bucket) -> None:
    """Metadata is set and read; a signed link is a URL for anybody."""
    files.pipe(f"{bucket}/k", b"x")
    files.setxattr(f"{bucket}/k", owner="me")
    assert files.getxattr(f"{bucket}/k", "owner") == "me"
    assert "X-Amz-Signature" in files.sign(f"{bucket}/k")


def test_a_wrong_key_and_a_wrong_bucket_are_errors_of_a_file_system(s3, files, bucket) -> None:
    """PermissionError and FileNotFoundError."""
    with pytest.raises(PermissionError):
        open_files(s3.with_wrong_secret).ls(bucket)
    with pytest.raises(FileNotFoundError):
        files.ls("nobody-has-this")
