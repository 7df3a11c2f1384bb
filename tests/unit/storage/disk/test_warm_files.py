"""Files that stay open spare a thread, and never show what the catalog does not hold any more."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from prometheus_client import CollectorRegistry

from services.storage.body_buffers import make_body_buffers
from services.storage.disk import warm_files
from services.storage.disk.free_space import FreeSpace
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.disk.warm_files import WarmFiles
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk
from services.storage.scrub import Scrubber, ScrubPace
from shared.errors import ChunkCorruptError, ChunkNotFoundError
from shared.units import KIB, MIB
from tests.chance import random_bytes

LIMIT = 4
SIZE_BYTES = 100_000
DEADLINE_S = 60


def make_chunk() -> Chunk:
    body = random_bytes(SIZE_BYTES)
    return Chunk(blake3(body).hexdigest(), SIZE_BYTES, (body,))


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """On a disk: a file system in memory does not say whether a read would have to wait."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture
async def disk(tmp_path):
    prepare_folder(tmp_path)
    async with DiskTier(
        tmp_path,
        space=FreeSpace(tmp_path, None, 99),
        metrics=StorageMetrics(CollectorRegistry()),
        small_limit_bytes=64 * KIB,
        max_warm_files=LIMIT,
    ) as tier:
        yield tier


async def store_warm(disk: DiskTier) -> Chunk:
    chunk = make_chunk()
    await disk.put(chunk, 0)
    for _ in range(2):  # the first read goes past the page cache
        await disk.get(chunk.digest)
    assert disk._warm.read(chunk.digest) == chunk.body()
    return chunk


def open_fds(folder: Path) -> int:
    """How many chunk files this process holds open."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += str(entry.readlink()).startswith(f"{folder}/chunks/")
        except FileNotFoundError:  # the listing's own
            continue
    return found


async def test_what_was_read_lately_needs_no_thread(disk, monkeypatch):
    """The second read is answered with every reader thread out of reach, and counted."""
    chunk = await store_warm(disk)
    monkeypatch.setattr(disk._reads, "ask", None)
    assert await disk.get(chunk.digest) == chunk.body()
    assert disk._metrics.warm_reads._value.get() == 1


async def test_what_a_scrub_reads_is_no_recent_read(disk, monkeypatch):
    """It reads everything, and would push out what readers come back to; the first reader still goes past the cache."""
    hot, scrubbed = await store_warm(disk), [make_chunk() for _ in range(LIMIT)]
    for chunk in scrubbed:
        await disk.put(chunk, 0)
        await disk.reread(chunk.digest)
    assert disk._warm.read(hot.digest) == hot.body()
    monkeypatch.setattr(disk._files, "read", None)
    for chunk in scrubbed:
        assert await disk.get(chunk.digest) == chunk.body()


@pytest.mark.parametrize(
    "found", [BlockingIOError(errno.EAGAIN, "not there"), OSError(errno.EOPNOTSUPP, "what?"), 4096]
)
async def test_what_is_not_in_memory_is_left_to_a_thread(found, disk, monkeypatch):
    """None of it, a part of it, or a file system that cannot tell: the loop does not wait, the read succeeds."""
    chunk = await store_warm(disk)
    asked: list[int] = []

    def preadv(fd: int, buffers: list[bytearray], offset: int, flags: int) -> int:
        asked.append(flags)
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(os, "preadv", preadv)
    assert await disk.get(chunk.digest) == chunk.body()
    assert asked == [os.RWF_NOWAIT]
    assert disk._metrics.warm_reads._value.get() == 0


async def test_a_deleted_chunk_is_gone_although_its_file_stays(disk, monkeypatch):
    """From the acknowledgement on, also when the unlink fails."""
    chunk = await store_warm(disk)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        await disk.delete(chunk.digest)
    assert disk._files.path_of(chunk.digest).exists()
    with pytest.raises(ChunkNotFoundError):
        await disk.get(chunk.digest)


async def test_a_read_that_a_deletion_overtakes_leaves_nothing_open(disk, monkeypatch, tmp_path):
    """The row was found, then removed, then the file is read: it must not be kept for later."""
    chunk = make_chunk()
    await disk.put(chunk, 0)
    await disk.get(chunk.digest)
    read, has_read, may_go_on = disk._files.read, threading.Event(), threading.Event()

    def slow_read(digest: str) -> bytes:
        body = read(digest)
        has_read.set()
        assert may_go_on.wait(DEADLINE_S)
        return body

    monkeypatch.setattr(disk._files, "read", slow_read)
    reading = asyncio.ensure_future(disk.get(chunk.digest))
    assert await asyncio.to_thread(has_read.wait, DEADLINE_S)
    # Its file comes back under the name, so that only the count of removals can tell.
    assert await disk.delete(chunk.digest)
    disk._files.path_of(chunk.digest).write_bytes(chunk.body())
    may_go_on.set()
    assert await reading == chunk.body()
    with pytest.raises(ChunkNotFoundError):
        await disk.get(chunk.digest)
    assert open_fds(tmp_path) == 0


async def test_a_chunk_that_went_bad_is_found_bad_and_then_gone(disk, tmp_path):
    """Bytes that changed in the open file are never sent; after the quarantine nothing is left of it."""
    chunk = await store_warm(disk)
    with disk._files.path_of(chunk.digest).open("r+b") as file:
        file.write(b"bad")
    with pytest.raises(ChunkCorruptError):
        await disk.get(chunk.digest)
    with pytest.raises(ChunkNotFoundError):
        await disk.get(chunk.digest)
    assert open_fds(tmp_path) == 0
    assert await disk.restore(chunk)
    assert await disk.get(chunk.digest) == chunk.body()


async def test_the_scrub_sees_the_file_under_the_name_and_not_the_open_one(disk, tmp_path):
    """A file that was replaced by another while it was open is found by one pass."""
    chunk = await store_warm(disk)
    (tmp_path / "other").write_bytes(make_chunk().body())
    (tmp_path / "other").replace(disk._files.path_of(chunk.digest))
    assert await disk.get(chunk.digest) == chunk.body()
    scrubber = Scrubber(disk, ScrubPace(1000, MIB), disk._metrics)
    await scrubber.scrub_page()
    assert scrubber.status().bad_chunks == 1
    with pytest.raises(ChunkNotFoundError):
        await disk.get(chunk.digest)


async def test_the_open_files_are_bounded_and_the_least_recently_read_leave(disk, tmp_path):
    """One more than the limit closes one; a file over the size limit is not kept."""
    chunks = [await store_warm(disk) for _ in range(LIMIT)]
    assert open_fds(tmp_path) == LIMIT
    await disk.get(chunks[0].digest)
    await store_warm(disk)
    assert open_fds(tmp_path) == len(disk._warm) == LIMIT
    assert disk._warm.read(chunks[0].digest) is not None
    assert disk._warm.read(chunks[1].digest) is None


@pytest.mark.parametrize(
    ("size_bytes", "is_kept"), [(warm_files.MAX_FILE_BYTES, True), (warm_files.MAX_FILE_BYTES + 1, False)]
)
def test_large_files_are_not_kept(size_bytes, is_kept, tmp_path):
    """Hashing them would hold the loop."""
    path = tmp_path / "file"
    path.write_bytes(bytes(size_bytes))
    warm = WarmFiles(LIMIT, make_body_buffers())
    warm.keep("a", path, size_bytes, warm.removals())
    assert len(warm) == is_kept
    warm.close()


def test_none_are_kept_where_none_may_be(tmp_path):
    """A limit of 0 turns it off."""
    (tmp_path / "file").write_bytes(b"x")
    warm = WarmFiles(0, make_body_buffers())
    warm.keep("a", tmp_path / "file", 1, warm.removals())
    assert len(warm) == 0


async def test_a_closed_tier_has_no_file_open(disk, tmp_path):
    """Whatever was read before."""
    await store_warm(disk)
    await disk.__aexit__()
    assert open_fds(tmp_path) == 0


async def test_changes_and_reads_of_many_chunks_at_once(disk, tmp_path):
    """Each chunk is read while it is there and never after its deletion was acknowledged, however they interleave."""

    async def live(chunk: Chunk) -> None:
        for _ in range(8):
            await disk.put(chunk, 0)
            assert await asyncio.gather(*(disk.get(chunk.digest) for _ in range(4))) == [chunk.body()] * 4
            late = asyncio.gather(*(disk.get(chunk.digest) for _ in range(4)), return_exceptions=True)
            assert await disk.delete(chunk.digest)
            for _ in range(2):
                with pytest.raises(ChunkNotFoundError):
                    await disk.get(chunk.digest)
            for outcome in await late:
                assert outcome == chunk.body() or isinstance(outcome, ChunkNotFoundError)
            with pytest.raises(ChunkNotFoundError):
                await disk.get(chunk.digest)

    await asyncio.gather(*(live(make_chunk()) for _ in range(3 * LIMIT)))
    assert open_fds(tmp_path) == 0
