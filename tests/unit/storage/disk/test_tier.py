"""The disk tier on a real folder, with a disk that fails where the test says."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import sqlite3
import threading
import weakref
from contextlib import closing
from pathlib import Path

import pytest
from blake3 import blake3
from prometheus_client import CollectorRegistry

from services.storage.disk import catalog, group_commit, pending_unlinks
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.free_space import FreeSpace
from services.storage.disk.tier import DiskTier, SmallChunk, prepare_folder
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk, ChunkPut
from services.storage.verified_chunks import VerifiedChunks
from shared.errors import ChunkCorruptError, ChunkNotFoundError, DiskFullError, OverloadedError, UnavailableError
from shared.units import KIB, MIB
from tests.chance import random_bytes
from tests.waiting import wait_until


def make_chunk(size_bytes: int) -> Chunk:
    body = random_bytes(size_bytes)
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


@pytest.mark.parametrize("size_bytes", [1000, 200_000])
@pytest.mark.parametrize("yields", [False, True])
async def test_what_no_request_waits_for_yields_in_the_commit_thread(size_bytes, yields, disk, monkeypatch):
    """A chunk that this node has never held, too: on an empty disk all are such."""
    submit, found = disk._committer.submit, []

    def record(*args, yields: bool = False, **others) -> None:
        found.append(yields)
        submit(*args, yields=yields, **others)

    await disk.put(make_chunk(size_bytes), 1)
    monkeypatch.setattr(disk._committer, "submit", record)
    chunk = make_chunk(size_bytes)
    assert [outcome.created for outcome in await disk.put_many([ChunkPut(chunk, 1)], yields=yields)] == [True]
    assert found == [yields]


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
    await asyncio.sleep(0.1)
    with monkeypatch.context() as short:
        short.setattr(group_commit, "sync_directory", failing(errno.EMFILE))
        deletion = asyncio.ensure_future(disk.delete(chunk.digest))
        await asyncio.sleep(0.1)
        # Its look-up still finds the row, so it is written as one that was found and then missed.
        put = asyncio.ensure_future(disk._writes.hand_on(lambda _, answer: disk._store(chunk, 2, answer)))
        await asyncio.sleep(0.2)
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


async def test_a_replaced_replica_is_not_quarantined_for_its_predecessor(disk, tmp_path):
    """A reader that saw bad bytes takes only that replica away, not the good one stored meanwhile."""
    chunk = make_chunk(200_000)
    await disk.put(chunk, 1)
    path = tmp_path / "chunks" / chunk.digest[:2] / chunk.digest
    path.write_bytes(b"bad")
    assert await disk._reads.ask(disk._read, chunk.digest, past_cache=False) is None
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


async def test_a_put_that_nobody_waits_for_any_more_leaves_no_file(disk, tmp_path, monkeypatch):
    """Given up while its file is written, it is stored all the same; given up before that, nothing happens."""
    may_write = threading.Event()
    write = disk._files.write_temporary

    def write_later(chunk):
        may_write.wait(20)
        return write(chunk)

    monkeypatch.setattr(disk._files, "write_temporary", write_later)
    chunks = [make_chunk(200_000) for _ in range(7)]
    puts = [asyncio.ensure_future(disk.put(chunk, 1)) for chunk in chunks]
    await asyncio.sleep(0.1)  # four are being written, three wait
    for put in puts:
        put.cancel()
    may_write.set()
    last = make_chunk(200_000)
    assert (await disk.put(last, 1)).created
    await disk.__aexit__()
    assert list((tmp_path / "tmp").iterdir()) == []
    async with disk_in(tmp_path) as reopened:
        held = await reopened.has([chunk.digest for chunk in chunks], None)
        assert held == {chunk.digest for chunk in chunks[:4]}
        assert await reopened.get(last.digest) == last.body()


async def test_a_change_that_finds_the_queue_full_is_refused_and_leaves_no_file(disk, tmp_path, monkeypatch):
    """Definitely not stored, whatever its size."""
    monkeypatch.setattr(group_commit, "_MAX_PENDING", 0)
    for size_bytes in (1000, 200_000):
        with pytest.raises(OverloadedError) as caught:
            await disk.put(make_chunk(size_bytes), 1)
        assert caught.value.definite
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_closing_answers_everybody(tmp_path):
    """What was asked before is done, what comes later is refused; nobody waits for ever."""
    chunks = [make_chunk(size_bytes) for size_bytes in (1000, 200_000) * 20]
    async with disk_in(tmp_path) as disk:
        puts = [asyncio.ensure_future(disk.put(chunk, 1)) for chunk in chunks]
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert all(outcome.created for outcome in await asyncio.gather(*puts))
        with pytest.raises(RuntimeError):
            await disk.put(make_chunk(1000), 1)
        with pytest.raises(UnavailableError):
            await disk.delete(chunks[0].digest)


async def test_a_chunk_that_goes_away_between_the_look_and_the_change_is_stored(disk, monkeypatch):
    """A put that finds it held, and then does not, brings it."""
    chunk = make_chunk(200_000)
    await disk.put(chunk, 1)
    has = disk.has

    async def has_no_more(digests, start_index):
        await disk.delete(chunk.digest)
        return await has(digests, start_index)

    monkeypatch.setattr(disk, "has", has_no_more)
    assert (await disk.put(chunk, 1)).created
    assert await disk.get(chunk.digest) == chunk.body()


def refuse_as_full(*_: object) -> None:
    raise DiskFullError("full")


class TracedBytes(bytearray):
    """Bytes that can be asked whether they still exist."""


async def test_bodies_leave_memory_with_their_answers(disk, monkeypatch):
    """Stored, held already or refused: no thread and no error keeps them, and no collection is waited for."""
    alive: list[weakref.ref[TracedBytes]] = []

    async def put(body: bytes) -> None:
        traced = TracedBytes(body)
        alive.append(weakref.ref(traced))
        await disk.put(Chunk(blake3(body).hexdigest(), len(body), (traced,)), 1)

    bodies = [random_bytes(size_bytes) for size_bytes in (1000, 200_000) * 20]
    await disk.put(make_chunk(200_000), 1)
    gc.disable()
    try:
        for _ in range(2):
            await asyncio.gather(*map(put, bodies))
        monkeypatch.setattr(FreeSpace, "check", refuse_as_full)
        for size_bytes in (1000, 200_000):
            with contextlib.suppress(DiskFullError):
                await put(random_bytes(size_bytes))
        for _ in range(500):  # a thread drops them in the moment after it answered
            if not any(reference() is not None for reference in alive):
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("a body is still in memory")
    finally:
        gc.enable()


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


async def test_a_full_disk_is_known_without_asking_it_and_forgotten_when_there_is_room(tmp_path, monkeypatch):
    """By the last put, or by the last question for the status, which the heartbeat asks too; a hung disk hangs neither."""
    registry = CollectorRegistry()
    prepare_folder(tmp_path)
    space = FreeSpace(tmp_path, None, 95, typical_chunk_bytes=1000)
    disk = DiskTier(tmp_path, space=space, metrics=StorageMetrics(registry), small_limit_bytes=64 * KIB)
    blocks = dict.fromkeys(("f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail"), 1000) | {
        "f_frsize": 100
    }
    asked_in: list[threading.Thread] = []

    def answer(_: Path):
        asked_in.append(threading.current_thread())
        return statvfs(blocks)

    monkeypatch.setattr(os, "statvfs", answer)
    async with disk:
        assert disk.shortage() is None
        held = make_chunk(100)
        await disk.put(held, 0)
        blocks |= {"f_bfree": 55, "f_bavail": 55}  # 94.5 %: a small chunk fits, a typical one does not
        assert disk.shortage() is None, "it was not asked since"
        await disk.put(make_chunk(100), 0)
        assert disk.shortage() == "The file system has reached its reserve."
        assert disk.reasons_against_writes() == []
        assert registry.get_sample_value("trivet_storage_disk_bytes", {"part": "used"}) == 94_500
        assert registry.get_sample_value("trivet_storage_disk_bytes", {"part": "free"}) == 5500
        assert registry.get_sample_value("trivet_storage_disk_inodes", {"part": "free"}) == 1000
        assert await disk.get(held.digest) == held.body()
        assert await disk.delete(held.digest)
        blocks |= {"f_bfree": 500, "f_bavail": 500}
        await disk.statuses()
        assert disk.shortage() is None
        blocks |= {"f_ffree": 10, "f_favail": 10}
        with pytest.raises(DiskFullError, match="inodes"):
            await disk.put(make_chunk(100), 0)
        assert disk.shortage() == "The file system has hardly any inodes left."
        assert threading.main_thread() not in asked_in


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


async def test_pending_unlinks_are_bounded(disk, tmp_path, monkeypatch):
    """Every so often they are made durable and dropped; those of unlinks that are still to come stay."""
    monkeypatch.setattr(pending_unlinks, "MAX_PENDING", 5)
    for number in range(13):
        chunk = make_chunk(70_000 + number)
        await disk.put(chunk, 1)
        await disk.delete(chunk.digest)
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as sql:
        assert sql.execute("SELECT count(*) FROM pending_unlinks").fetchone() == (3,)


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


async def test_a_flipped_bit_in_the_page_cache_does_not_quarantine_a_whole_replica(disk, monkeypatch):
    """The second attempt reads the medium."""
    chunk = make_chunk(200_000)
    await disk.put(chunk, 1)
    monkeypatch.setattr(ChunkFiles, "read", lambda *_: b"rot")
    assert await disk.get(chunk.digest) == chunk.body()
    assert await disk.list_lost("", 10) == []


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


async def test_questions_about_many_chunks_are_answered_for_all_of_them(disk):
    """A statement takes a part of them; the last part is not forgotten, and the start index is raised on every one."""
    chunks = [make_chunk(20) for _ in range(1201)]
    await disk.put_batch([SmallChunk(chunk.digest, chunk.body(), 1) for chunk in chunks])
    digests = [chunk.digest for chunk in chunks]
    assert await disk.has(digests, None) == set(digests)
    assert await disk.has(digests, 5) == set(digests)
    assert {held.start_index for held in await disk.list_chunks("", "", 2000)} == {5}


async def test_what_is_new_is_known_without_a_question_and_what_is_held_is_found(tmp_path, monkeypatch):
    """Chunks of this run and of an earlier one; a removed one is asked for."""
    old, new, removed = (make_chunk(1000) for _ in range(3))
    async with disk_in(tmp_path) as disk:
        await disk.put(old, 1)
        await disk.put(removed, 1)
    async with disk_in(tmp_path) as disk:
        questions = []
        ask = disk._reads.ask

        def count(question, *args, **facts):
            questions.append(question)
            return ask(question, *args, **facts)

        await disk.statuses()  # measures
        monkeypatch.setattr(disk._reads, "ask", count)
        assert await disk.find_or_check_room([new]) == [False]
        assert questions == []
        assert await disk.find_or_check_room([new, old]) == [False, True]
        await disk.delete(removed.digest)
        assert await disk.find_or_check_room([removed]) == [False]
        await disk.put(new, 1)
        assert await disk.find_or_check_room([new]) == [True]
        assert len(questions) == 3


@pytest.mark.parametrize("size_bytes", [1000, 200_000])
async def test_a_chunk_that_is_written_and_deleted_in_one_commit_is_not_held(size_bytes, disk):
    """It was remembered as verified without its row, and `has` answered from that memory for a day."""
    chunk = make_chunk(size_bytes)
    taken, release = threading.Event(), threading.Event()

    def hold(_transaction: object) -> None:
        taken.set()
        release.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(disk._committer.run(hold))
        await asyncio.to_thread(taken.wait)
        group.create_task(disk.put(chunk, 5))
        await wait_until(lambda: disk._committer._queue.qsize() == 1, "the put waits for the commit")
        group.create_task(disk.delete(chunk.digest))
        await wait_until(lambda: disk._committer._queue.qsize() == 2, "the deletion waits behind it")
        release.set()
    assert not disk.is_verified(chunk.digest)
    assert await disk.has([chunk.digest], None) == await disk.has([chunk.digest], 7)
    with pytest.raises(ChunkNotFoundError):
        await disk.get(chunk.digest)
