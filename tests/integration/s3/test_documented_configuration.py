"""The configurations of docs/s3-clients.md and docs/migrate.md, as they stand there but for address and key, open the store."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.s3.programs import Program, clean_environment, require_program

pytestmark = pytest.mark.cluster

DOCS = Path(__file__).parents[3] / "docs"
Filled = Callable[..., str]


@pytest.fixture
def filled(s3, bucket) -> Filled:
    """`filled(page, heading, language)`: that block, with the address and the key of this cluster and a bucket of this test."""

    def fill(page: str, heading: str, language: str) -> str:
        text = (DOCS / page).read_text()
        section = text.partition(f"\n## {heading}")[2].partition("\n## ")[0]
        block = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[0]
        block = block.replace("127.0.0.1:9000", s3.address).replace("TV…", s3.key).replace("…", s3.secret)
        return block.replace('"bucket"', f'"{bucket}"').replace("/bucket/", f"/{bucket}/")

    return fill


def made_by(block: str) -> dict[str, Any]:
    """The names that a block of Python defines."""
    names: dict[str, Any] = {}
    exec(block, names)
    return names


def test_boto3(filled, bucket) -> None:
    """It lists, and its links are of version 4."""
    client = made_by(filled("s3-clients.md", "boto3", "python"))["s3"]
    try:
        assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
        assert "X-Amz-Signature" in client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "k"})
    finally:
        client.close()


def test_s3fs(filled, bucket) -> None:
    """It writes and finds."""
    files = made_by(filled("s3-clients.md", "s3fs", "python"))["files"]
    files.pipe(f"{bucket}/k", b"x")
    assert files.find(bucket) == [f"{bucket}/k"]


def test_minio(filled, bucket) -> None:
    """It finds the bucket."""
    minio = made_by(filled("s3-clients.md", "MinIO", "python"))["minio"]
    try:
        assert minio.bucket_exists(bucket)
    finally:
        minio._http.clear()


def test_obstore(filled) -> None:
    """It writes and reads."""
    store = made_by(filled("s3-clients.md", "obstore", "python"))["store"]
    store.put("k", b"x")
    assert bytes(store.get("k").bytes()) == b"x"


def test_pyarrow(filled, bucket) -> None:
    """It finds the bucket."""
    files = made_by(filled("s3-clients.md", "pyarrow", "python"))["files"]
    assert files.get_file_info(bucket).type.name == "Directory"


def test_rclone(filled, bucket, tmp_path) -> None:
    """Of both pages."""
    command = (require_program("rclone", "rclone"), "--config", str(tmp_path / "rclone.conf"))
    rclone = Program(command, clean_environment(tmp_path / "home", {}))
    for page, heading in (("s3-clients.md", "rclone"), ("migrate.md", "rclone")):
        (tmp_path / "rclone.conf").write_text(filled(page, heading, "ini"))
        assert f"{bucket}/" in rclone("lsf", "trivet:").splitlines()


def test_s3cmd(filled, bucket, tmp_path) -> None:
    """It lists buckets."""
    (tmp_path / "s3cfg").write_text(filled("s3-clients.md", "s3cmd", "ini"))
    command = (require_program("s3cmd", "s3cmd"), f"--config={tmp_path / 's3cfg'}")
    assert f"s3://{bucket}" in Program(command, clean_environment(tmp_path / "home", {}))("ls")


def test_aws(filled, bucket, tree, tmp_path) -> None:
    """It synchronises a folder."""
    script = filled("s3-clients.md", "aws", "sh").replace(
        "aws s3", f"{sys.executable} {Path(sys.executable).with_name('aws')} s3"
    )
    script = script.replace("./folder", str(tree)).replace("s3://bucket", f"s3://{bucket}")
    assert "large.bin" in run_script(script, tmp_path)


def test_restic(filled, tmp_path) -> None:
    """It makes a repository."""
    require_program("restic", "restic")
    assert "created restic repository" in run_script(filled("s3-clients.md", "restic", "sh"), tmp_path)


def run_script(script: str, tmp_path: Path) -> str:
    done = subprocess.run(
        ["sh", "-eu"],
        input=script,
        env=clean_environment(tmp_path / "home", {"AWS_CONFIG_FILE": "/dev/null"}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
