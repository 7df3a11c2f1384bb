"""The start of a disk tier: what a crash, a power cut or an older version left."""

from __future__ import annotations

import errno
import sqlite3

import pytest

from services.storage.disk import catalog
from services.storage.disk.chunk_files import ChunkFiles
from tests.unit.storage.disk.tiers import disk_in, failing, make_chunk


def test_a_catalog_of_an_older_format_is_brought_up_and_a_newer_one_refused(tmp_path, capsys):
    """A folder that an earlier version wrote keeps its chunks; one of a later version ends the start."""
    database = tmp_path / "catalog.sqlite"
    with sqlite3.connect(database) as sql:
        sql.executescript(catalog._CREATE + "ALTER TABLE pending_unlinks RENAME TO leaving; PRAGMA user_version=4;")
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
        # The record was dropped: the same file coming from elsewhere is adopted.
        files.path_of(deleted.digest).write_bytes(deleted.body())
    async with disk_in(tmp_path) as reopened:
        assert await reopened.get(deleted.digest) == deleted.body()


@pytest.mark.parametrize("nonsense", [b"", b"nonsense", None])
async def test_a_file_without_a_row_is_adopted_only_if_it_is_whole(nonsense, disk, tmp_path):
    """Nonsense under the name of a chunk is quarantined at start; the first put of the chunk stores it."""
    chunk, whole = make_chunk(200_000), make_chunk(200_000)
    await disk.__aexit__()
    files = ChunkFiles(tmp_path)
    files.path_of(chunk.digest).write_bytes(bytes(200_000) if nonsense is None else nonsense)
    files.path_of(whole.digest).write_bytes(whole.body())
    async with disk_in(tmp_path) as reopened:
        assert await reopened.has([chunk.digest, whole.digest], None) == {whole.digest}
        assert reopened.is_verified(whole.digest)
        assert not files.path_of(chunk.digest).exists()
        assert len(list((tmp_path / "quarantine").iterdir())) == 1
        assert await reopened.list_lost("", 10) == []
        assert (await reopened.put(chunk, 1)).created
        assert await reopened.get(chunk.digest) == chunk.body()


async def test_a_file_that_cannot_be_read_at_start_is_not_adopted(disk, tmp_path, monkeypatch):
    """A bad sector under a name without a row counts for nothing."""
    chunk = make_chunk(200_000)
    await disk.__aexit__()
    ChunkFiles(tmp_path).path_of(chunk.digest).write_bytes(chunk.body())
    monkeypatch.setattr(ChunkFiles, "read_past_cache", failing(errno.EIO))
    async with disk_in(tmp_path) as reopened:
        assert await reopened.has([chunk.digest], None) == set()
