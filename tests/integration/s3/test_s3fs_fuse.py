"""s3fs-fuse: a bucket as a folder of the machine."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.units import MIB
from tests.integration.s3.programs import clean_environment, contents_below, require_program
from tests.integration.s3.servers import require_trivet
from tests.waiting import block_until

pytestmark = pytest.mark.cluster


@pytest.fixture
def mounted(s3, bucket, tmp_path) -> Iterator[Path]:
    """The bucket as a folder, until the test ends."""
    program = require_program("s3fs", "s3fs")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or shutil.which("fusermount") is None:
        pytest.skip("NOT TESTED: nothing can be mounted here (needs /dev/fuse and fusermount)")
    folder = tmp_path / "mounted"
    folder.mkdir()
    keys = tmp_path / "passwd"
    keys.write_text(f"{s3.key}:{s3.secret}")
    keys.chmod(0o600)
    options = f"url={s3.endpoint},endpoint={s3.region},use_path_request_style,passwd_file={keys},retries={s3.attempts}"
    with (tmp_path / "s3fs.log").open("wb") as log:
        process = subprocess.Popen(
            [program, bucket, folder, "-f", "-o", options],
            env=clean_environment(tmp_path / "home", {}),
            stdout=log,
            stderr=log,
        )
    try:
        block_until(lambda: os.path.ismount(folder) or process.poll() is not None, "the bucket is mounted", within_s=30)
        if process.poll() is not None and "fuse: mount failed" in (said := (tmp_path / "s3fs.log").read_text()):
            pytest.skip(f"NOT TESTED: nothing can be mounted here: {said}")
        assert os.path.ismount(folder), (tmp_path / "s3fs.log").read_text()
        yield folder
    finally:
        subprocess.run(["fusermount", "-u", folder], check=False, capture_output=True)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        print((tmp_path / "s3fs.log").read_text())  # its errors, shown when a test fails


def test_a_folder_is_copied_in_renamed_read_and_removed(s3, mounted, client, bucket, tree, tmp_path) -> None:
    """Files, folders, times, modes and renames, as a file system has them; an object that came otherwise is a file."""
    require_trivet(s3, "markers of folders lose what they carry")
    shutil.copytree(tree, mounted / "tree")
    assert contents_below(mounted / "tree") == contents_below(tree)
    assert int((mounted / "tree" / "small.txt").stat().st_mtime) == 1_500_000_001
    (mounted / "tree" / "small.txt").chmod(0o640)
    (mounted / "tree" / "small.txt").rename(mounted / "moved.txt")
    assert (mounted / "moved.txt").read_bytes() == b"hello\n"
    assert (mounted / "moved.txt").stat().st_mode & 0o777 == 0o640
    client.put_object(Bucket=bucket, Key="from elsewhere", Body=b"there")
    assert (mounted / "from elsewhere").read_bytes() == b"there"
    assert sorted(path.name for path in mounted.iterdir()) == ["from elsewhere", "moved.txt", "tree"]
    shutil.rmtree(mounted / "tree")
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["from elsewhere", "moved.txt"]


def test_64_mib_are_written_and_a_piece_is_changed(mounted, client, bucket, seed) -> None:
    """By parts; a change in the middle copies the other parts within the store."""
    body = bytearray(random.Random(seed).randbytes(64 * MIB))
    (mounted / "large").write_bytes(body)
    with (mounted / "large").open("r+b") as file:
        file.seek(30 * MIB)
        file.write(b"changed")
    body[30 * MIB : 30 * MIB + 7] = b"changed"
    answer = client.get_object(Bucket=bucket, Key="large")
    assert answer["Body"].read() == bytes(body)
