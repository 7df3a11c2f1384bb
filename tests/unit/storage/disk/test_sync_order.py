"""What is synced before what, by the system calls and statements of the disk tier."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from services.storage.disk import group_commit, pending_unlinks
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.tier import DiskTier, prepare_folder
from shared.errors import ChunkCorruptError
from tests.unit.storage.disk.tiers import make_chunk


async def test_pending_unlinks_are_bounded(disk, tmp_path, monkeypatch):
    """Every so often they are made durable and dropped; those of unlinks that are still to come stay."""
    monkeypatch.setattr(pending_unlinks, "MAX_PENDING", 5)
    for number in range(13):
        chunk = make_chunk(70_000 + number)
        await disk.put(chunk, 1)
        await disk.delete(chunk.digest)
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as sql:
        assert sql.execute("SELECT count(*) FROM pending_unlinks").fetchone() == (3,)


def test_every_connection_that_commits_syncs_at_each_commit(tmp_path):
    """FULL, not NORMAL, which syncs at checkpoints only; read from the connection, for a new catalog and for an old one."""
    for _ in range(2):
        prepare_folder(tmp_path)
        with closing(group_commit.open_writer(tmp_path / "catalog.sqlite")) as sql:
            assert sql.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert sql.execute("PRAGMA synchronous").fetchone() == (2,)
            assert sql.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)


async def test_the_connection_of_the_commit_thread_syncs_at_each_commit(disk):
    """The very one that acknowledges."""
    assert disk._committer._sql.execute("PRAGMA synchronous").fetchone() == (2,)
    assert disk._committer._sql.execute("PRAGMA journal_mode").fetchone() == ("wal",)


class SystemCalls:
    """Syncs, renames and unlinks in order, and when the catalog commits."""

    def __init__(self, disk: DiskTier, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str]] = []
        for module, name in ((os, "fsync"), (os, "fdatasync")):
            self._record(monkeypatch, module, name, lambda fd, *_: str(Path(f"/proc/self/fd/{fd}").readlink()))
        self._record(monkeypatch, Path, "rename", lambda path, target: str(target))
        self._record(monkeypatch, Path, "unlink", lambda path, *_, **__: str(path))
        disk._committer._sql.set_trace_callback(lambda sql: sql == "COMMIT" and self.calls.append(("COMMIT", "")))

    def _record(self, monkeypatch, owner, name, describe) -> None:
        real = getattr(owner, name)

        def call(*args, **kwargs):
            self.calls.append((name, describe(*args, **kwargs)))
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    def place(self, name: str, part: str = "") -> int:
        (found,) = [at for at, call in enumerate(self.calls) if call[0] == name and part in call[1]]
        return found


async def test_a_large_put_syncs_bytes_then_name_then_row(disk, tmp_path, monkeypatch):
    """Each step is durable before the next one relies on it."""
    chunk = make_chunk(200_000)
    folder = ChunkFiles(tmp_path).path_of(chunk.digest).parent
    calls = SystemCalls(disk, monkeypatch)
    await disk.put(chunk, 1)
    steps = [
        calls.place("fdatasync", f"tmp/{chunk.digest}"),
        calls.place("rename", chunk.digest),
        max(at for at, call in enumerate(calls.calls) if call == ("fsync", str(folder))),
        calls.place("COMMIT"),
    ]
    assert steps == sorted(steps)


async def test_a_delete_unlinks_after_its_commit(disk, tmp_path, monkeypatch):
    """Else a crash in between leaves an acknowledged row without its bytes."""
    chunk = make_chunk(200_000)
    await disk.put(chunk, 1)
    calls = SystemCalls(disk, monkeypatch)
    await disk.delete(chunk.digest)
    assert calls.place("COMMIT") < calls.place("unlink", chunk.digest)


@pytest.mark.parametrize("how", ["quarantined", "replaced", "adopted"])
async def test_every_change_of_names_syncs_the_folder_before_the_row(how, disk, tmp_path, monkeypatch):
    """A name that a power cut takes back would be a row without a file, or a bad file adopted again."""
    chunk = make_chunk(200_000)
    path = ChunkFiles(tmp_path).path_of(chunk.digest)
    if how != "adopted":
        await disk.put(chunk, 1)
        disk._verified.clear()
        path.write_bytes(b"rot")
    calls = SystemCalls(disk, monkeypatch)
    if how == "quarantined":
        with pytest.raises(ChunkCorruptError):
            await disk.get(chunk.digest)
    elif how == "replaced":
        await disk.put(chunk, 1)
    else:
        path.write_bytes(chunk.body())
        await disk._reconcile()
    synced = [at for at, call in enumerate(calls.calls) if call == ("fsync", str(path.parent))]
    commits = [at for at, call in enumerate(calls.calls) if call[0] == "COMMIT"]
    assert synced
    assert synced[0] < commits[0]


async def test_finished_unlinks_are_forgotten_only_once_they_are_durable(disk, tmp_path, monkeypatch):
    """The folders are synced in the transaction that drops their records."""
    chunk = make_chunk(200_000)
    await disk.put(chunk, 1)
    await disk.delete(chunk.digest)
    calls = SystemCalls(disk, monkeypatch)
    await disk._committer.run(lambda transaction: pending_unlinks.drop_finished(transaction, disk._files))
    assert calls.place("fsync", str(ChunkFiles(tmp_path).path_of(chunk.digest).parent)) < calls.place("COMMIT")
