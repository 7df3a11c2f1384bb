"""The disk tier on a real folder: puts, reads and deletions beside each other."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest
from blake3 import blake3

from services.storage.disk import group_commit
from services.storage.disk.changes import SmallChunk
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.free_space import FreeSpace
from services.storage.ports import Chunk, ChunkPut
from shared.errors import ChunkNotFoundError, DiskFullError, OverloadedError, UnavailableError
from tests.chance import random_bytes
from tests.unit.storage.disk.tiers import disk_in, make_chunk
from tests.waiting import wait_until


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


async def test_a_replaced_replica_is_not_quarantined_for_its_predecessor(disk, tmp_path):
    """A reader that saw bad bytes takes only that replica away, not the good one stored meanwhile."""
    chunk = make_chunk(200_000)
    await disk.put(chunk, 1)
    path = tmp_path / "chunks" / chunk.digest[:2] / chunk.digest
    path.write_bytes(b"bad")
    assert await disk._reads.ask(disk._reader.read, chunk.digest, past_cache=False) is None
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
    may_write, begun = threading.Event(), []
    write = disk._files.write_temporary

    def write_later(chunk):
        begun.append(chunk)
        may_write.wait(20)
        return write(chunk)

    monkeypatch.setattr(disk._files, "write_temporary", write_later)
    chunks = [make_chunk(200_000) for _ in range(7)]
    puts = [asyncio.ensure_future(disk.put(chunk, 1)) for chunk in chunks]
    await wait_until(lambda: len(begun) == 4, "four are being written, three wait")
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


async def test_a_flipped_bit_in_the_page_cache_does_not_quarantine_a_whole_replica(disk, monkeypatch):
    """The second attempt reads the medium."""
    chunk = make_chunk(200_000)
    await disk.put(chunk, 1)
    monkeypatch.setattr(ChunkFiles, "read", lambda *_: b"rot")
    assert await disk.get(chunk.digest) == chunk.body()
    assert await disk.list_lost("", 10) == []


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
