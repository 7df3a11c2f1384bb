"""restic: a backup repository, which signs its bodies chunk by chunk (minio-go)."""

from __future__ import annotations

import json

import pytest

from tests.integration.s3.programs import Program, clean_environment, contents_below, require_program

pytestmark = pytest.mark.cluster


def open_restic(server, bucket, home) -> Program:
    """As docs/s3-clients.md configures it."""
    repository = {
        "RESTIC_REPOSITORY": f"s3:{server.endpoint}/{bucket}/backups",
        "RESTIC_PASSWORD": "of this test",
        "AWS_ACCESS_KEY_ID": server.key,
        "AWS_SECRET_ACCESS_KEY": server.secret,
        "AWS_DEFAULT_REGION": server.region,
    }
    command = (require_program("restic", "restic"), "--no-cache")
    return Program(command, clean_environment(home, repository))


def test_a_repository_is_made_filled_thinned_out_checked_and_restored(s3, bucket, tree, tmp_path) -> None:
    """init, two backups, forget --prune of the first, check of every byte, restore of the second."""
    restic = open_restic(s3, bucket, tmp_path / "home")
    restic("init")
    restic("backup", tree)
    (tree / "large.bin").write_bytes(b"now another one" * 100_000)
    (tree / "empty.bin").unlink()
    restic("backup", tree)
    assert len(json.loads(restic("snapshots", "--json"))) == 2
    restic("forget", "--keep-last", "1", "--prune")
    assert len(json.loads(restic("snapshots", "--json"))) == 1
    restic("check", "--read-data")
    restic("restore", "latest", "--target", tmp_path / "back")
    assert contents_below(tmp_path / "back" / tree.relative_to("/")) == contents_below(tree)
    assert "locks/" not in restic("list", "locks")


def test_a_wrong_secret_makes_no_repository(s3, client, bucket, tmp_path) -> None:
    """It is refused before anything is written."""
    open_restic(s3.with_wrong_secret, bucket, tmp_path / "home").refusal("init")
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
