from __future__ import annotations

import errno
import os
import random

import pytest

from shared.disk import durable_files
from shared.disk.durable_files import SyncFailedError, replace_file, sync_directory, sync_file, write_new_file
from tests.chance import draw_seed


def test_many_pieces_and_short_writes_arrive_in_order(tmp_path, monkeypatch):
    """However the bytes are cut, and however few the kernel takes at once, the file is their concatenation."""
    seed = draw_seed()
    print(f"seed {seed}")
    source = random.Random(seed)
    pieces = [source.randbytes(source.randrange(200)) for _ in range(1500)]
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, views: real(fd, [views[0][: source.randrange(1, 300)]]))
    write_new_file(tmp_path / "short", pieces)
    monkeypatch.undo()
    write_new_file(tmp_path / "whole", pieces)
    write_new_file(tmp_path / "empty", [])
    assert (tmp_path / "short").read_bytes() == (tmp_path / "whole").read_bytes() == b"".join(pieces)
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_failed_write_leaves_no_file(tmp_path, monkeypatch):
    """After an error of write or sync the half-written file is gone, and an existing file is never overwritten."""
    for name, code, kind in (("writev", errno.ENOSPC, OSError), ("fdatasync", errno.EIO, SyncFailedError)):
        monkeypatch.setattr(os, name, failing(code))
        with pytest.raises(kind) as caught:
            write_new_file(tmp_path / "file", [b"x"])
        assert caught.value.errno == code
        monkeypatch.undo()
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_new_file(tmp_path / "file", [b"new"])
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_replaced_file_is_synced_before_it_gets_its_name_and_its_name_after(tmp_path, monkeypatch):
    """The order of the calls is the one that survives a power cut at any point."""
    calls: list[str] = []
    monkeypatch.setattr(durable_files, "sync_data", lambda fd: calls.append("bytes"))
    monkeypatch.setattr(durable_files, "sync_directory", lambda path: calls.append("name"))
    rename = type(tmp_path).rename
    monkeypatch.setattr(type(tmp_path), "rename", lambda a, b: calls.append("rename") or rename(a, b))
    replace_file(tmp_path / "file", b"new")
    assert calls == ["bytes", "rename", "name"]
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize(("sync", "name"), [(sync_directory, "fsync"), (sync_file, "fdatasync")])
def test_a_sync_reaches_the_kernel_for_the_very_path_and_its_failure_is_told_apart(tmp_path, monkeypatch, sync, name):
    """A sync that is left out, or made of something else, loses acknowledged bytes in a power cut and nowhere else."""
    path = tmp_path if sync is sync_directory else tmp_path / "file"
    (tmp_path / "file").write_bytes(b"x")
    synced: list[tuple[int, int]] = []
    real = getattr(os, name)
    monkeypatch.setattr(os, name, lambda fd: synced.append(inode_of(os.fstat(fd))) or real(fd))
    sync(path)
    assert synced == [inode_of(path.stat())]
    monkeypatch.setattr(os, name, failing(errno.EIO))
    with pytest.raises(SyncFailedError):
        sync(path)


def inode_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def failing(code: int):
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail
