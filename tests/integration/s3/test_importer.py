"""The importer against a real other server: what a bucket was is what it is afterwards, however often it was interrupted."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from pathlib import Path

import pytest
from boto3.s3.transfer import TransferConfig

from shared.units import MIB
from tests.waiting import block_until

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).parents[3]
SMALL_COUNT = 30


@pytest.fixture
def source_client(seaweedfs):
    """Of the server that is moved from."""
    with seaweedfs.client() as client:
        yield client


@pytest.fixture
def source_bucket(source_client) -> str:
    """At the server that is moved from."""
    name = f"moved-{random.SystemRandom().randrange(1 << 40):010x}"
    source_client.create_bucket(Bucket=name)
    return name


def import_command(seaweedfs, s3, folder: Path, *arguments: str) -> list[str]:
    source_key, target_key = folder / "source-key", folder / "target-key"
    source_key.write_text(f"{seaweedfs.key}\n{seaweedfs.secret}\n")
    target_key.write_text(f"{s3.key}.{s3.secret}\n")
    for file in (source_key, target_key):
        file.chmod(0o600)
    command = [sys.executable, "-m", "trivet.cli.main", "import", "--source", seaweedfs.endpoint]
    command += ["--source-key", str(source_key), "--s3-url", s3.endpoint, "--key", str(target_key)]
    return [*command, *arguments]


def run_import(command) -> tuple[int, str]:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def fill(client, bucket, seed) -> None:
    """Versions, markers, parts of two lengths, an empty file, headers, metadata and tags."""
    chance = random.Random(seed)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for number in range(SMALL_COUNT):
        for _ in range(1 + number % 3):
            client.put_object(Bucket=bucket, Key=f"many/{number:02d}", Body=chance.randbytes(chance.randrange(3000)))
        if number % 5 == 0:
            client.delete_object(Bucket=bucket, Key=f"many/{number:02d}")
    client.put_object(Bucket=bucket, Key="marked", Body=b"1")
    client.delete_object(Bucket=bucket, Key="marked")
    client.put_object(Bucket=bucket, Key="marked", Body=b"2")
    client.put_object(
        Bucket=bucket,
        Key="with all/ünd=1+1.txt",
        Body=b"described",
        ContentType="text/x-own",
        CacheControl="max-age=7",
        ContentDisposition="inline",
        ContentEncoding="gzip",
        Metadata={"colour": "blue", "mtime": "1.25"},
        Tagging="team=red&note=two%20words",
    )
    client.put_object(Bucket=bucket, Key="empty", Body=b"")
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    client.upload_fileobj(io.BytesIO(chance.randbytes(12 * MIB + 1)), bucket, "parts", Config=config)


def contents(client, bucket) -> dict[str, list[bytes]]:
    """Bytes of every version by key, the newest first, and whether that is hidden by a marker."""
    page = client.list_object_versions(Bucket=bucket)
    assert not page["IsTruncated"]
    found: dict[str, list[bytes]] = {}
    for row in page["Versions"]:
        body = client.get_object(Bucket=bucket, Key=row["Key"], VersionId=row["VersionId"])["Body"].read()
        found.setdefault(row["Key"], []).append(body)
    for row in page["DeleteMarkers"]:
        found.setdefault(row["Key"], []).append(b"marker that is " + (b"latest" if row["IsLatest"] else b"hidden"))
    return found


def test_a_bucket_is_moved_with_versions_metadata_and_tags(
    seaweedfs, source_client, source_bucket, s3, client, tmp_path, seed
) -> None:
    """Killed in the middle, begun again, then compared; a further run finds what is new, and what somebody changed."""
    fill(source_client, source_bucket, seed)
    command = import_command(seaweedfs, s3, tmp_path, source_bucket)

    interrupted = subprocess.Popen([*command, "--workers", "1"], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    block_until(lambda: count_keys(client, source_bucket) >= 3, "a part was brought over", within_s=60)
    interrupted.kill()
    interrupted.wait(10)
    code, said = run_import([*command, "--compare-only"])
    assert (code, "DIFFERS" in said) == (1, True), said

    code, said = run_import(command)
    assert (code, f"{source_bucket}: complete" in said) == (0, True), said
    assert contents(client, source_bucket) == contents(source_client, source_bucket)
    head = client.head_object(Bucket=source_bucket, Key="with all/ünd=1+1.txt")
    assert (head["ContentType"], head["CacheControl"], head["ContentDisposition"]) == (
        "text/x-own",
        "max-age=7",
        "inline",
    )
    assert head["ContentEncoding"] == "gzip" or s3.name != "trivet"
    assert head["Metadata"] == {"colour": "blue", "mtime": "1.25"}
    tags = client.get_object_tagging(Bucket=source_bucket, Key="with all/ünd=1+1.txt")["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"team": "red", "note": "two words"}

    source_client.put_object(Bucket=source_bucket, Key="marked", Body=b"3")
    code, said = run_import(command)
    assert (code, "; 1 brought over" in said) == (0, True), said
    client.put_object(Bucket=source_bucket, Key="empty", Body=b"x")
    code, said = run_import(command)
    assert (code, "'empty': 1 versions at the source, 2 at the target" in said) == (1, True), said


def count_keys(client, bucket) -> int:
    try:
        return client.list_objects_v2(Bucket=bucket)["KeyCount"]
    except client.exceptions.NoSuchBucket:
        return 0


def test_a_bucket_without_versions_is_moved_and_kept_up_to_date(
    seaweedfs, source_client, source_bucket, s3, client, tmp_path
) -> None:
    """New contents take the place of old ones; the parts of a long file keep their lengths, and so its ETag."""
    source_client.put_object(Bucket=source_bucket, Key="k", Body=b"1", Metadata={"a": "b"})
    config = TransferConfig(multipart_threshold=6 * MIB, multipart_chunksize=6 * MIB)
    source_client.upload_fileobj(io.BytesIO(bytes(13 * MIB)), source_bucket, "parts", Config=config)
    command = import_command(seaweedfs, s3, tmp_path, source_bucket)
    assert run_import(command)[0] == 0
    source_client.put_object(Bucket=source_bucket, Key="k", Body=b"2")
    code, said = run_import([*command, "--read-all"])
    assert (code, "; 1 brought over, 2 read" in said) == (0, True), said
    assert client.get_object(Bucket=source_bucket, Key="k")["Body"].read() == b"2"
    etags = [one.head_object(Bucket=source_bucket, Key="parts")["ETag"] for one in (source_client, client)]
    assert etags[0] == etags[1]
    assert etags[0].endswith('-3"')
