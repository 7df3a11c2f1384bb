"""The aws command line: cp, sync, ls, mv, rm, presign and the low-level calls."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import httpx
import pytest

from shared.units import MIB
from tests.integration.s3.programs import Program, clean_environment, contents_below
from tests.integration.s3.servers import require_trivet

pytestmark = pytest.mark.cluster


def open_aws(server, home) -> Program:
    """As docs/s3-clients.md configures it, by the environment."""
    environment = clean_environment(home, server.environment)
    (home / "config").write_text("[default]\ns3 =\n  signature_version = s3v4\n")
    environment["AWS_CONFIG_FILE"] = str(home / "config")
    return Program((sys.executable, str(Path(sys.executable).with_name("aws"))), environment)


@pytest.fixture
def aws(s3, tmp_path) -> Program:
    return open_aws(s3, tmp_path / "home")


def test_a_folder_is_synchronised_both_ways(s3, aws, bucket, tree, tmp_path) -> None:
    """Up, changed, up again with deletion, down."""
    require_trivet(s3, "a put after that of an empty file is not answered")
    aws("s3", "sync", tree, f"s3://{bucket}/tree", "--only-show-errors")
    (tree / "small.txt").write_bytes(b"changed\n")
    (tree / "empty.bin").unlink()
    aws("s3", "sync", tree, f"s3://{bucket}/tree", "--delete", "--only-show-errors")
    aws("s3", "sync", f"s3://{bucket}/tree", tmp_path / "back", "--only-show-errors")
    assert contents_below(tmp_path / "back") == contents_below(tree)


def test_64_mib_metadata_moves_links_and_deletions(aws, bucket, tmp_path, seed) -> None:
    """By parts, ten at a time; a copy by parts; a signed link; a recursive deletion."""
    body = random.Random(seed).randbytes(64 * MIB)
    (tmp_path / "large").write_bytes(body)
    aws("s3", "cp", tmp_path / "large", f"s3://{bucket}/a/large", "--metadata", "colour=blue", "--only-show-errors")
    head = json.loads(aws("s3api", "head-object", "--bucket", bucket, "--key", "a/large"))
    assert (head["ContentLength"], head["Metadata"]) == (len(body), {"colour": "blue"})
    aws("s3", "mv", f"s3://{bucket}/a/large", f"s3://{bucket}/b c/moved", "--only-show-errors")
    assert "b c/moved" in aws("s3", "ls", f"s3://{bucket}", "--recursive")
    link = aws("s3", "presign", f"s3://{bucket}/b c/moved").strip()
    assert httpx.get(link, trust_env=False).content == body
    aws("s3", "rm", f"s3://{bucket}", "--recursive", "--only-show-errors")
    aws("s3", "rb", f"s3://{bucket}")


def test_a_wrong_secret_and_a_wrong_bucket_are_named(s3, aws, bucket, tmp_path) -> None:
    """By the codes of S3."""
    liar = open_aws(s3.with_wrong_secret, tmp_path / "home")
    assert "SignatureDoesNotMatch" in liar.refusal("s3", "ls", f"s3://{bucket}")
    assert "NoSuchBucket" in open_aws(s3, tmp_path / "home").refusal("s3", "ls", "s3://nobody-has-this")
