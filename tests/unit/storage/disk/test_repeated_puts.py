"""A put of a chunk that is held: the replica is verified, or replaced by the bytes at hand."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

from prometheus_client import CollectorRegistry

from services.storage.disk.changes import SmallChunk
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.free_space import FreeSpace
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.metrics import StorageMetrics
from services.storage.verified_chunks import VerifiedChunks
from shared.units import KIB
from tests.unit.storage.disk.tiers import make_chunk


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_repeated_put_reads_the_replica_once_in_the_maximum_age(tmp_path, monkeypatch):
    """Past the page cache, which may be whole when the medium is not; never while it was written or read lately."""
    prepare_folder(tmp_path)
    clock, reads = Clock(), []
    read = ChunkFiles.read_past_cache
    monkeypatch.setattr(
        ChunkFiles, "read_past_cache", lambda files, digest: reads.append(digest) or read(files, digest)
    )
    metrics = StorageMetrics(CollectorRegistry())
    disk = DiskTier(
        tmp_path,
        space=FreeSpace(tmp_path, None, 99),
        metrics=metrics,
        verified=VerifiedChunks(60.0, 100, clock),
        small_limit_bytes=64 * KIB,
    )
    chunk = make_chunk(200_000)
    async with disk:
        await disk.put(chunk, 1)
        clock.now_s = 60.0
        await disk.put(chunk, 1)
        assert reads == []
        clock.now_s = 60.1
        for _ in range(2):
            assert not (await disk.put(chunk, 1)).created
        assert reads == [chunk.digest]


async def test_a_repeated_put_replaces_what_the_medium_has_wrong(disk, tmp_path, monkeypatch):
    """Though the page cache still has the right bytes."""
    chunk = make_chunk(200_000)
    await disk.put(chunk, 1)
    disk._verified.clear()
    with monkeypatch.context() as rotten:
        rotten.setattr(ChunkFiles, "read_past_cache", lambda *_: b"rot" + chunk.body()[3:])
        assert (await disk.put(chunk, 1)).created
    assert await disk.get(chunk.digest) == chunk.body()
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


async def test_a_repeated_put_brings_back_a_missing_file(disk, tmp_path):
    """A row whose file is gone acknowledges nothing."""
    chunk = make_chunk(200_000)
    await disk.put(chunk, 1)
    disk._verified.clear()
    ChunkFiles(tmp_path).path_of(chunk.digest).unlink()
    await disk.put(chunk, 1)
    assert await disk.get(chunk.digest) == chunk.body()


async def test_repeated_puts_of_a_bad_chunk_at_once_leave_one_whole_replica(disk, tmp_path):
    """All of them find it bad; whichever is first replaces it, and the others keep what it wrote."""
    for size_bytes in (1000, 200_000):
        chunk = make_chunk(size_bytes)
        await disk.put(chunk, 1)
        disk._verified.clear()
        if size_bytes > 64 * KIB:
            ChunkFiles(tmp_path).path_of(chunk.digest).write_bytes(b"rot")
        await asyncio.gather(*[disk.put(chunk, index) for index in range(20)])
        (held,) = [held for held in await disk.list_chunks("", "", 10) if held.digest == chunk.digest]
        assert held.start_index == 19
        assert await disk.reread(chunk.digest) == chunk.body()
    assert sum(found.chunk_count for found in await disk.sums(None)) == 2
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


async def test_a_flush_writes_anew_what_is_held_and_not_verified(disk, tmp_path):
    """The record of Redis is released after it: a row is no reason to drop the only good bytes."""
    chunk = make_chunk(1000)
    await disk.put(chunk, 7)
    disk._verified.clear()
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as sql:
        sql.execute("UPDATE packed SET body = x'00'")
        sql.commit()
    await disk.put_batch([SmallChunk(chunk.digest, chunk.body(), 3)])
    assert await disk.get(chunk.digest) == chunk.body()
    assert (await disk.list_chunks("", "", 10))[0].start_index == 7
