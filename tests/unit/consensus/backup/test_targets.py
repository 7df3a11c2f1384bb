"""A folder and a bucket keep the same promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from obstore.store import MemoryStore

from services.consensus.backup.targets import BucketAccess, BucketTarget, FolderTarget, Target, open_target
from tests.chance import random_bytes
from tests.synced import Synced

BODY = random_bytes(1000)


@pytest.fixture(params=["folder", "bucket"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    """The bucket is one in memory, behind the interface of the real one."""
    if request.param == "folder":
        return FolderTarget(tmp_path / "target")
    return BucketTarget(cast("Any", MemoryStore()))


async def test_what_was_put_is_listed_and_given_back(target: Target, tmp_path: Path) -> None:
    """Below its prefix, and no other."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(BODY)
    await target.put("chunks/ab/abc", BODY)
    await target.put("chunks/cd/cde", b"")
    await target.put_file("snapshots/1/metadata.sqlite", source)
    assert await target.names("chunks/ab/") == {"chunks/ab/abc": 1000}
    assert await target.names("chunks/") == {"chunks/ab/abc": 1000, "chunks/cd/cde": 0}
    assert await target.names("snapshots/") == {"snapshots/1/metadata.sqlite": 1000}
    assert await target.get("chunks/ab/abc") == BODY
    await target.get_file("snapshots/1/metadata.sqlite", copy)
    assert copy.read_bytes() == BODY


async def test_no_power_cut_takes_a_folder_of_a_backup_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk is kept with every folder above it: a snapshot that is published needs all of them."""
    synced = Synced(monkeypatch)
    root, source = tmp_path / "disk" / "backup", tmp_path / "source"
    source.write_bytes(BODY)
    target = FolderTarget(root)
    await target.put("chunks/ab/abc", BODY)
    await target.put_file("snapshots/1/metadata.sqlite", source)
    for path in (root / "chunks/ab/abc", root / "snapshots/1/metadata.sqlite"):
        assert synced.is_kept(path)
    for folder in ("chunks/ab", "chunks", "snapshots/1", "snapshots", "."):
        assert synced.has_name(root / folder)
    assert synced.has_name(tmp_path / "disk")


async def test_what_is_not_there_is_an_error_and_an_empty_list(target: Target) -> None:
    """Of one kind for both."""
    assert await target.names("chunks/") == {}
    with pytest.raises(FileNotFoundError, match="nothing"):
        await target.get("chunks/nothing")


async def test_only_what_is_named_is_deleted(target: Target) -> None:
    """Nothing at all where nothing is named."""
    for name in ("chunks/a", "chunks/b", "chunks/c"):
        await target.put(name, BODY)
    await target.delete([])
    await target.delete(["chunks/a", "chunks/c"])
    assert set(await target.names("chunks/")) == {"chunks/b"}


async def test_a_file_that_is_being_written_has_no_name(tmp_path: Path) -> None:
    """What a killed run left is not listed, and is written over."""
    target = FolderTarget(tmp_path)
    folder = tmp_path / "chunks"
    folder.mkdir()
    (folder / ".new-a.1").write_bytes(b"half")
    assert await target.names("chunks/") == {}
    await target.put("chunks/a", BODY)
    assert await target.names("chunks/") == {"chunks/a": 1000}


def test_a_bucket_needs_to_be_reached(tmp_path: Path) -> None:
    """A folder does not."""
    key = tmp_path / "key"
    key.write_text("TVid.secret\n")
    assert isinstance(open_target(str(tmp_path), None), FolderTarget)
    assert isinstance(open_target("s3://b/prefix", BucketAccess("http://127.0.0.1:9", key, "r")), BucketTarget)
    with pytest.raises(ValueError, match="--s3-endpoint"):
        open_target("s3://b/prefix", None)
