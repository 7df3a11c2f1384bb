"""The disk tier on a real folder, with a disk that fails where the test says."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from blake3 import blake3
from prometheus_client import CollectorRegistry

from services.storage.disk import catalog, leavers
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.free_space import FreeSpace
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk
from services.storage.tiers.disk import DiskTier, prepare_folder
from shared.errors import DiskFullError, UnavailableError
from shared.units import KIB, MIB


def make_chunk(size_bytes: int) -> Chunk:
    body = os.urandom(size_bytes)
    return Chunk(blake3(body).hexdigest(), size_bytes, (body,))


def disk_in(folder: Path) -> DiskTier:
    prepare_folder(folder)
    space = FreeSpace(folder, None, 99)
    return DiskTier(folder, space=space, metrics=StorageMetrics(CollectorRegistry()), small_limit_bytes=64 * KIB)


@pytest.fixture
async def disk(tmp_path):
    async with disk_in(tmp_path) as tier:
        yield tier


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
async def test_one_failed_sync_ends_all_acknowledgements(call, disk, tmp_path, monkeypatch):
    """After EIO no put of any size is acknowledged, even when the disk recovers; nothing half-done is visible."""
    old, failed = make_chunk(200_000), make_chunk(200_000)
    await disk.put(old, 1)
    with monkeypatch.context() as broken:
        broken.setattr(os, call, failing(errno.EIO))
        with pytest.raises(UnavailableError) as caught:
            await disk.put(failed, 1)
        assert not caught.value.definite
    for size_bytes in (1000, 200_000):
        with pytest.raises(UnavailableError) as caught:
            await disk.put(make_chunk(size_bytes), 1)
        assert caught.value.definite
    with pytest.raises(UnavailableError):
        await disk.delete(old.digest)
    assert disk.reasons_against_writes() != []
    assert await disk.has([old.digest, failed.digest], None) == {old.digest}
    assert await disk.get(old.digest) == old.body()
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_disk_that_is_full_at_the_sync_refuses_one_put_only(disk, tmp_path, monkeypatch):
    """ENOSPC for a chunk's own file is "full", certainly not stored, and the node goes on."""
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", failing(errno.ENOSPC))
        with pytest.raises(DiskFullError) as caught:
            await disk.put(make_chunk(200_000), 1)
        assert caught.value.definite
    assert list((tmp_path / "tmp").iterdir()) == []
    assert disk.reasons_against_writes() == []
    assert (await disk.put(make_chunk(200_000), 1)).created


async def test_a_catalog_that_cannot_grow_refuses_and_keeps_its_promises(disk, monkeypatch):
    """When SQLite finds no room for a small chunk, the put is refused as full and what was stored stays."""
    old = make_chunk(1000)
    await disk.put(old, 1)
    disk._committer._sql.execute("PRAGMA max_page_count=1").fetchone()
    outcomes = await asyncio.gather(*(disk.put(make_chunk(60_000), 1) for _ in range(20)), return_exceptions=True)
    assert isinstance(outcomes[-1], DiskFullError)
    assert await disk.get(old.digest) == old.body()
    disk._committer._sql.execute("PRAGMA max_page_count=1000000").fetchone()
    assert (await disk.put(make_chunk(60_000), 1)).created


async def test_a_replaced_replica_is_not_quarantined_for_its_predecessor(disk, tmp_path):
    """A reader that saw bad bytes takes only that replica away, not the good one stored meanwhile."""
    chunk = make_chunk(200_000)
    await disk.put(chunk, 1)
    path = tmp_path / "chunks" / chunk.digest[:2] / chunk.digest
    path.write_bytes(b"bad")
    assert await disk._reads.ask(disk._read, chunk.digest) is None
    await disk.delete(chunk.digest)
    await disk.put(chunk, 1)
    assert await disk._quarantine(chunk.digest) is False
    assert await disk.get(chunk.digest) == chunk.body()


async def test_delete_and_put_in_one_transaction_keep_the_new_file(disk):
    """A put that shares its transaction with a delete of the same chunk is not undone by the delete's unlink."""
    chunk = make_chunk(100_000)
    for _ in range(20):
        await disk.put(chunk, 1)
        await asyncio.gather(*(disk.put(make_chunk(90_000), 1) for _ in range(3)), disk.delete(chunk.digest))
        outcomes = await asyncio.gather(disk.put(chunk, 1), disk.delete(chunk.digest), disk.put(chunk, 1))
        is_held = bool(await disk.has([chunk.digest], None))
        assert outcomes[1] in {True, False}
        if is_held:
            assert await disk.get(chunk.digest) == chunk.body()
            await disk.delete(chunk.digest)


async def test_operations_share_a_transaction_and_fail_alone(disk, monkeypatch):
    """Concurrent small puts need far fewer commits than puts."""
    commits = 0
    count = disk._committer._on_commit

    def counted(transaction):
        nonlocal commits
        commits += 1
        count(transaction)

    monkeypatch.setattr(disk._committer, "_on_commit", counted)
    outcomes = await asyncio.gather(*(disk.put(make_chunk(1000), 1) for _ in range(200)))
    assert all(outcome.created for outcome in outcomes)
    assert commits < 100


def test_the_reserve_counts_granted_bytes_and_the_file_system(tmp_path, monkeypatch):
    """A write is refused one byte beyond the percentage, for granted bytes, for the file system, and for inodes."""
    granted = FreeSpace(tmp_path, MIB, 50)
    granted.check(100, MIB // 2 - 100)
    with pytest.raises(DiskFullError):
        granted.check(101, MIB // 2 - 100)
    assert granted.capacity_bytes() == MIB
    whole = FreeSpace(tmp_path, None, 95)
    blocks = {
        "f_frsize": 100,
        "f_blocks": 110,
        "f_bfree": 20,
        "f_bavail": 10,
        "f_files": 100,
        "f_ffree": 50,
        "f_favail": 50,
    }
    monkeypatch.setattr(os, "statvfs", lambda _: statvfs(blocks))
    whole.check(500, 0)
    with pytest.raises(DiskFullError):
        whole.check(501, 0)
    blocks |= {"f_ffree": 4, "f_favail": 4}
    with pytest.raises(DiskFullError):
        whole.check(0, 0)
    blocks |= {"f_files": 0}
    whole.check(0, 0)


def statvfs(values: dict[str, int]):
    return type("Found", (), values)()


def failing(code: int):
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_catalog_of_an_older_format_is_brought_up_and_a_newer_one_refused(tmp_path, capsys):
    """A folder that an earlier version wrote keeps its chunks; one of a later version ends the start."""
    database = tmp_path / "catalog.sqlite"
    with sqlite3.connect(database) as sql:
        sql.executescript(catalog._STEPS[0] + "PRAGMA user_version=1;")
        sql.execute("INSERT INTO chunks VALUES (?, 3, 7, NULL)", (b"\x01" * 32,))
    catalog.prepare(database)
    catalog.prepare(database)
    assert catalog.find(sql, "01" * 32) == catalog.Row(3, 7, None)
    assert catalog.position(sql, "scrub") == ""
    sql.execute("PRAGMA user_version=99")
    sql.close()
    with pytest.raises(SystemExit) as caught:
        catalog.prepare(database)
    assert caught.value.code == 78
    assert "format 99" in capsys.readouterr().err


async def test_a_deleted_file_that_a_power_cut_brings_back_is_removed_and_not_adopted(disk, tmp_path):
    """The unlink after the acknowledgement was not durable; one that was never acknowledged is adopted as before."""
    deleted, again, stray = make_chunk(200_000), make_chunk(200_000), make_chunk(200_000)
    for chunk in (deleted, again):
        await disk.put(chunk, 1)
        await disk.delete(chunk.digest)
    await disk.put(again, 1)
    await disk.__aexit__()
    files = ChunkFiles(tmp_path)
    for chunk in (deleted, stray):
        files.path_of(chunk.digest).write_bytes(chunk.body())
    async with disk_in(tmp_path) as reopened:
        digests = [chunk.digest for chunk in (deleted, again, stray)]
        assert await reopened.has(digests, None) == {again.digest, stray.digest}
        assert not files.path_of(deleted.digest).exists()
        # Settled: the same file coming from elsewhere is a find again.
        files.path_of(deleted.digest).write_bytes(deleted.body())
    async with disk_in(tmp_path) as reopened:
        assert await reopened.get(deleted.digest) == deleted.body()


async def test_notes_of_deletions_are_bounded(disk, tmp_path, monkeypatch):
    """Every so often they are made durable and dropped; those of unlinks that are still to come stay."""
    monkeypatch.setattr(leavers, "MAX_NOTES", 5)
    for number in range(13):
        chunk = make_chunk(70_000 + number)
        await disk.put(chunk, 1)
        await disk.delete(chunk.digest)
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as sql:
        assert sql.execute("SELECT count(*) FROM leaving").fetchone() == (3,)
