"""s3cmd: scripts and cron jobs of many years, which compare MD5s."""

from __future__ import annotations

import random

import httpx
import pytest

from shared.units import MIB
from tests.integration.s3.programs import Program, clean_environment, contents_below, require_program

pytestmark = pytest.mark.cluster


def open_s3cmd(server, home) -> Program:
    """As docs/s3-clients.md configures it, by options in place of ~/.s3cfg."""
    command = (
        require_program("s3cmd", "s3cmd"),
        "--config=/dev/null",
        f"--access_key={server.key}",
        f"--secret_key={server.secret}",
        f"--host={server.address}",
        f"--host-bucket={server.address}",
        f"--region={server.region}",
        "--no-ssl",
        "--no-progress",
    )
    return Program(command, clean_environment(home, {}))


@pytest.fixture
def s3cmd(s3, tmp_path) -> Program:
    return open_s3cmd(s3, tmp_path / "home")


def test_a_folder_is_synchronised_both_ways(s3cmd, bucket, tree, tmp_path) -> None:
    """Up, changed, up again with deletion, down."""
    back = tmp_path / "back"
    back.mkdir()
    s3cmd("sync", f"{tree}/", f"s3://{bucket}/tree/")
    (tree / "small.txt").write_bytes(b"changed\n")
    (tree / "empty.bin").unlink()
    s3cmd("sync", "--delete-removed", f"{tree}/", f"s3://{bucket}/tree/")
    s3cmd("sync", f"s3://{bucket}/tree/", f"{back}/")
    assert contents_below(back) == contents_below(tree)


def test_64_mib_metadata_copies_links_and_deletions(s3cmd, bucket, tmp_path, seed) -> None:
    """By parts of 15 MiB; what a file carries is shown; a signed link; a recursive deletion."""
    body = random.Random(seed).randbytes(64 * MIB)
    (tmp_path / "large").write_bytes(body)
    s3cmd("put", "--add-header=x-amz-meta-colour:blue", tmp_path / "large", f"s3://{bucket}/a/large")
    assert "blue" in s3cmd("info", f"s3://{bucket}/a/large")
    s3cmd("cp", f"s3://{bucket}/a/large", f"s3://{bucket}/b c/copied")
    s3cmd("get", f"s3://{bucket}/b c/copied", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == body
    s3cmd("mv", f"s3://{bucket}/a/large", f"s3://{bucket}/moved")
    assert {line.split()[-1] for line in s3cmd("ls", f"s3://{bucket}/").splitlines()} >= {f"s3://{bucket}/moved"}
    link = s3cmd("signurl", f"s3://{bucket}/moved", "+60").strip()
    assert httpx.head(link, trust_env=False).status_code in {200, 400, 403}
    s3cmd("del", "--recursive", "--force", f"s3://{bucket}/")
    s3cmd("rb", f"s3://{bucket}")


def test_a_wrong_secret_and_a_wrong_bucket_are_named(s3, s3cmd, bucket, tmp_path) -> None:
    """By the codes of S3."""
    assert "SignatureDoesNotMatch" in open_s3cmd(s3.with_wrong_secret, tmp_path / "home").refusal(
        "ls", f"s3://{bucket}"
    )
    assert "NoSuchBucket" in s3cmd.refusal("ls", "s3://nobody-has-this")
