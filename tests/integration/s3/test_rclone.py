"""rclone: folders both ways with their times and metadata, compared by MD5."""

from __future__ import annotations

import json
import os
import random
from hashlib import md5

import httpx
import pytest

from shared.units import MIB
from tests.integration.s3.programs import Program, clean_environment, files_below, require_program

pytestmark = pytest.mark.cluster


def open_rclone(server, home) -> Program:
    """As docs/s3-clients.md configures it, by the environment in place of a file."""
    remote = {
        "RCLONE_CONFIG_T_TYPE": "s3",
        "RCLONE_CONFIG_T_PROVIDER": "Other",
        "RCLONE_CONFIG_T_ENDPOINT": server.endpoint,
        "RCLONE_CONFIG_T_ACCESS_KEY_ID": server.key,
        "RCLONE_CONFIG_T_SECRET_ACCESS_KEY": server.secret,
        "RCLONE_CONFIG_T_REGION": server.region,
    }
    options = ("--config", os.devnull, "--retries", "1", "--low-level-retries", str(server.attempts))
    command = (require_program("rclone", "rclone"), *options)
    return Program(command, clean_environment(home, remote))


@pytest.fixture
def rclone(s3, tmp_path) -> Program:
    return open_rclone(s3, tmp_path / "home")


def test_a_folder_is_synchronised_both_ways_with_its_times(rclone, bucket, tree, tmp_path) -> None:
    """Up, compared, changed, up again, down: the same bytes and the same times; what is gone here goes there."""
    there, back = f"T:{bucket}/tree", tmp_path / "back"
    rclone("sync", tree, there)
    rclone("check", tree, there)
    (tree / "small.txt").write_bytes(b"changed\n")
    (tree / "empty.bin").unlink()
    assert "small.txt" in rclone.refusal("check", tree, there)
    rclone("sync", tree, there)
    rclone("check", "--download", tree, there)
    rclone("sync", there, back)
    assert files_below(back) == files_below(tree)
    # Nothing is left to do, which says that times and digests came back as they were sent.
    assert (
        "Transferred:   \t          0 B / 0 B"
        in rclone.run("sync", "-v", "--stats-one-line=false", tree, there).stderr.decode()
    )


def test_metadata_is_kept(rclone, client, bucket, tmp_path) -> None:
    """What the store was told with a file comes back with it, over a copy within the store too."""
    client.put_object(Bucket=bucket, Key="k", Body=b"1", ContentType="text/x-own", Metadata={"colour": "blue"})
    rclone("copyto", "--metadata", f"T:{bucket}/k", f"T:{bucket}/copied")
    head = client.head_object(Bucket=bucket, Key="copied")
    assert (head["ContentType"], head["Metadata"]["colour"]) == ("text/x-own", "blue")
    listed = json.loads(rclone("lsjson", "--metadata", "--hash", f"T:{bucket}/copied"))[0]
    assert listed["Metadata"]["colour"] == "blue"
    assert listed["Hashes"]["md5"] == md5(b"1").hexdigest()


def test_64_mib_go_up_by_parts_and_are_copied_by_parts(rclone, bucket, tmp_path, seed) -> None:
    """Several parts at a time; the copy within the store takes ranges that fit no chunk."""
    body = random.Random(seed).randbytes(64 * MIB)
    (tmp_path / "large").write_bytes(body)
    rclone("copyto", "--s3-chunk-size", "8M", "--s3-upload-cutoff", "8M", tmp_path / "large", f"T:{bucket}/large")
    rclone("copyto", "--s3-copy-cutoff", "7000001B", f"T:{bucket}/large", f"T:{bucket}/copied")
    for name in ("large", "copied"):
        rclone("copyto", f"T:{bucket}/{name}", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == body, name
    assert rclone.run("cat", "--offset", "7000000", "--count", "5", f"T:{bucket}/large").stdout == body[7000000:7000005]


def test_lists_links_moves_and_deletions(rclone, bucket, tree, tmp_path) -> None:
    """The other calls of a day."""
    rclone("copy", tree, f"T:{bucket}/tree")
    shown = set(rclone("lsf", "-R", "--files-only", f"T:{bucket}").splitlines())
    assert shown == {f"tree/{name}" for name in files_below(tree)}
    assert rclone("lsf", f"T:{bucket}/tree/deep").splitlines() == ["er/"]
    link = rclone("link", "--expire", "1m", f"T:{bucket}/tree/small.txt").strip()
    assert httpx.get(link, trust_env=False).content == b"hello\n"
    rclone("moveto", f"T:{bucket}/tree/small.txt", f"T:{bucket}/moved to.txt")
    assert rclone("cat", f"T:{bucket}/moved to.txt") == "hello\n"
    rclone("rcat", f"T:{bucket}/streamed", stdin=b"s" * 100_000)
    assert rclone.run("cat", f"T:{bucket}/streamed").stdout == b"s" * 100_000
    rclone("delete", f"T:{bucket}/tree")
    assert set(rclone("lsf", "-R", "--files-only", f"T:{bucket}").splitlines()) == {"moved to.txt", "streamed"}
    rclone("purge", f"T:{bucket}")
    assert f"{bucket}/" not in rclone("lsf", "T:").splitlines()


def test_a_wrong_key_and_a_wrong_bucket_are_named(s3, rclone, bucket, tmp_path) -> None:
    """In what rclone prints."""
    assert "SignatureDoesNotMatch" in open_rclone(s3.with_wrong_secret, tmp_path / "home").refusal("lsf", f"T:{bucket}")
    assert "directory not found" in rclone.refusal("lsf", "T:nobody-has-this")
