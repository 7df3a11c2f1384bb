"""The disk tier on a disk that fails where the test says: what is refused, and what is left as it was."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import threading

import pytest

from services.storage.disk import group_commit
from services.storage.disk.chunk_files import ChunkFiles
from shared.errors import ChunkNotFoundError, DiskFullError, UnavailableError
from tests.unit.storage.disk.tiers import failing, make_chunk
from tests.waiting import wait_until


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


@pytest.fixture
def use_up_descriptors():
    """Takes every descriptor that this process may still have, until the end of the `with`."""

    @contextlib.contextmanager
    def use_up():
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = [os.open(os.devnull, os.O_RDONLY)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 8, limits[1]))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            yield
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    return use_up


async def test_a_shortage_of_descriptors_passes(disk, tmp_path, use_up_descriptors):
    """It says nothing about the disk: puts are refused while it lasts, no replica is called bad, and all is well after it."""
    large, small, new = make_chunk(200_000), make_chunk(1000), make_chunk(200_000)
    for chunk in (large, small):
        await disk.put(chunk, 1)
    with use_up_descriptors():
        for attempt in (disk.put(new, 1), disk.get(large.digest)):
            with pytest.raises(UnavailableError) as caught:
                await attempt
            assert caught.value.definite
        assert await disk.get(small.digest) == small.body()
        with pytest.raises(ChunkNotFoundError):
            await disk.get(new.digest)
    assert disk.reasons_against_writes() == []
    assert await disk.list_lost("", 10) == []
    assert await disk.get(large.digest) == large.body()
    assert (await disk.put(new, 1)).created
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_commit_without_descriptors_fails_and_the_next_one_works(disk, tmp_path, monkeypatch):
    """A folder that cannot be opened for its sync was not refused by the disk."""
    chunk = make_chunk(200_000)
    with monkeypatch.context() as short:
        short.setattr(group_commit, "sync_directory", failing(errno.EMFILE))
        with pytest.raises(UnavailableError) as caught:
            await disk.put(chunk, 1)
        assert caught.value.definite
    assert disk.reasons_against_writes() == []
    # "Certainly not stored" stays true after a restart, which adopts files without rows.
    assert list(tmp_path.glob("chunks/*/*")) == []
    assert (await disk.put(chunk, 1)).created
    assert await disk.get(chunk.digest) == chunk.body()


@pytest.mark.parametrize("size_bytes", [1000, 200_000])
async def test_a_sync_that_a_read_only_file_system_let_pass_is_not_believed(size_bytes, disk, monkeypatch):
    """ext4 that turns read-only reports success for what it drops; a write after the sync is what tells."""
    monkeypatch.setattr(os, "pwrite", failing(errno.EROFS))
    with pytest.raises(UnavailableError) as caught:
        await disk.put(make_chunk(size_bytes), 1)
    assert not caught.value.definite
    assert disk.reasons_against_writes() != []


async def test_a_deletion_in_doubt_leaves_the_file(disk, tmp_path, monkeypatch):
    """Its row may be back after a restart, and needs it then."""
    chunk = make_chunk(200_000)
    await disk.put(chunk, 1)
    monkeypatch.setattr(os, "pwrite", failing(errno.EIO))
    with pytest.raises(UnavailableError) as caught:
        await disk.delete(chunk.digest)
    assert not caught.value.definite
    assert ChunkFiles(tmp_path).read(chunk.digest) == chunk.body()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM])
async def test_a_mark_for_which_there_was_no_room_says_nothing_against_the_commit(number, disk, monkeypatch):
    """The change has happened: to call it refused, and definitely, would be wrong."""
    chunk = make_chunk(200_000)
    with monkeypatch.context() as short:
        short.setattr(os, "pwrite", failing(number))
        assert (await disk.put(chunk, 1)).created
    assert disk.reasons_against_writes() == []
    assert await disk.get(chunk.digest) == chunk.body()


async def test_a_rollback_leaves_the_file_of_a_row_that_comes_back(disk, monkeypatch):
    """A chunk deleted and stored again in one transaction that fails was never deleted: its row needs the new file."""
    chunk = make_chunk(200_000)
    await disk.put(chunk, 1)
    first_commit = threading.Event()
    wait_once = [first_commit.wait]

    def hold(*_: object) -> None:
        if wait_once:
            wait_once.pop()(20)

    monkeypatch.setattr(disk._committer, "_on_commit", hold)
    held_up = asyncio.ensure_future(disk.put(make_chunk(1000), 1))
    await wait_until(lambda: not wait_once, "the first commit is held up")
    with monkeypatch.context() as short:
        short.setattr(group_commit, "sync_directory", failing(errno.EMFILE))
        deletion = asyncio.ensure_future(disk.delete(chunk.digest))
        await wait_until(lambda: disk._committer._queue.qsize() == 1, "the deletion waits for the next commit")
        # Its look-up still finds the row, so it is written as one that was found and then missed.
        put = asyncio.ensure_future(disk._writes.hand_on(lambda _, answer: disk._store(chunk, 2, answer)))
        await wait_until(lambda: disk._committer._queue.qsize() == 2, "the put waits for it, too")
        first_commit.set()
        outcomes = await asyncio.gather(held_up, deletion, put, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[1:]] == [UnavailableError, UnavailableError]
    assert await disk.get(chunk.digest) == chunk.body()
    assert await disk.reread(chunk.digest) == chunk.body()


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
