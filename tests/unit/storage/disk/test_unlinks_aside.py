"""Files of conditional deletions are unlinked beside the commit thread, and never under a chunk that has come back."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from services.storage.disk import pending_unlinks
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.pending_unlinks import UnlinksAside
from services.storage.ports import Chunk, ConditionalDelete
from shared.errors import UnavailableError
from tests.unit.storage.disk.tiers import disk_in, make_chunk


def below(chunk: Chunk, index: int) -> ConditionalDelete:
    return ConditionalDelete(chunk.digest, lambda recorded: recorded < index)


class HeldUp:
    """Unlinks of chunk files wait until they may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_begun = threading.Event()
        self.may_go_on = threading.Event()
        real = Path.unlink

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if path.parent.parent.name == "chunks":
                self.has_begun.set()
                self.may_go_on.wait(20)
            real(path, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)


async def test_commits_do_not_wait_for_the_unlinks(disk, monkeypatch):
    """While one hangs, the deletion is committed and other chunks are stored; the caller waits, which bounds the backlog."""
    chunk = make_chunk()
    await disk.put(chunk, 1)
    held_up = HeldUp(monkeypatch)
    deleting = asyncio.ensure_future(disk.delete_if([below(chunk, 9)]))
    await asyncio.to_thread(held_up.has_begun.wait, 20)
    assert await disk.has([chunk.digest], None) == set()
    assert (await disk.put(make_chunk(1000), 1)).created
    assert (await disk.put(make_chunk(), 1)).created
    assert not deleting.done()
    held_up.may_go_on.set()
    assert await deleting == {chunk.digest}
    assert not disk._files.path_of(chunk.digest).exists()


async def test_a_chunk_that_comes_back_before_the_unlink_keeps_its_file(disk, monkeypatch):
    """Its name is taken back, so that what was asked for before does not take the new file."""
    chunks = {chunk.digest: chunk for chunk in (make_chunk(), make_chunk())}
    for chunk in chunks.values():
        await disk.put(chunk, 1)
    held_up = HeldUp(monkeypatch)
    deleting = asyncio.ensure_future(disk.delete_if([below(chunk, 9) for chunk in chunks.values()]))
    await asyncio.to_thread(held_up.has_begun.wait, 20)  # one is under way, the other waits
    (waiting,) = disk._unlinks_aside._waiting
    assert (await disk.put(chunks[waiting], 25)).created
    held_up.may_go_on.set()
    assert await deleting == chunks.keys()
    assert await disk.reread(waiting) == chunks[waiting].body()
    assert await disk.start_indexes(list(chunks)) == {waiting: 25}
    for digest in chunks:
        assert disk._files.path_of(digest).exists() is (digest == waiting)


async def test_deletions_and_puts_in_one_transaction_keep_the_new_file(disk):
    """Whichever comes first in it."""
    chunk = make_chunk()
    for _ in range(20):
        await disk.put(chunk, 1)
        calls = [disk.put(chunk, 1), disk.delete_if([below(chunk, 9)]), disk.put(chunk, 1)]
        await asyncio.gather(*(disk.put(make_chunk(90_000), 1) for _ in range(3)), *calls)
        if await disk.has([chunk.digest], None):
            assert await disk.reread(chunk.digest) == chunk.body()
            assert await disk.delete_if([below(chunk, 9)]) == {chunk.digest}
        assert not disk._files.path_of(chunk.digest).exists()


def test_a_name_is_given_only_after_an_unlink_that_has_begun(tmp_path, monkeypatch):
    """Else it would take the new file."""
    files = ChunkFiles(tmp_path)
    files.prepare()
    digest = "ab" * 32
    files.path_of(digest).write_bytes(b"old")
    aside = UnlinksAside(files)
    aside.add([digest])
    held_up = HeldUp(monkeypatch)
    unlinking = threading.Thread(target=aside.run)
    unlinking.start()
    assert held_up.has_begun.wait(20)
    is_given = threading.Event()
    giving = threading.Thread(target=lambda: (aside.take_back(digest), is_given.set()))
    giving.start()
    assert not is_given.wait(0.05)
    held_up.may_go_on.set()
    giving.join(20)
    assert is_given.is_set()
    assert not files.path_of(digest).exists()
    files.path_of(digest).write_bytes(b"new")
    aside.run()
    unlinking.join(20)
    assert files.path_of(digest).read_bytes() == b"new"


async def test_a_crash_before_the_unlink_does_not_bring_the_chunk_back(tmp_path, monkeypatch):
    """The file that it leaves is removed at the next start, not adopted."""
    chunk = make_chunk()
    async with disk_in(tmp_path) as disk:
        await disk.put(chunk, 1)
        with monkeypatch.context() as patch:
            patch.setattr(UnlinksAside, "run", lambda _: None)
            assert await disk.delete_if([below(chunk, 9)]) == {chunk.digest}
        assert disk._files.path_of(chunk.digest).exists()
    async with disk_in(tmp_path) as disk:
        assert await disk.has([chunk.digest], None) == set()
        assert not disk._files.path_of(chunk.digest).exists()


async def test_a_file_that_cannot_be_removed_ends_acknowledgements(disk, monkeypatch):
    """As after a plain deletion."""
    chunk = make_chunk()
    await disk.put(chunk, 1)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "unlink", fail)
    assert await disk.delete_if([below(chunk, 9)]) == {chunk.digest}
    assert "could not be removed" in disk.reasons_against_writes()[0]


async def test_a_deletion_in_doubt_leaves_the_file(disk, monkeypatch):
    """Its row may be back after a restart, and needs it then."""
    chunk = make_chunk()
    await disk.put(chunk, 1)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(UnavailableError):
        await disk.delete_if([below(chunk, 9)])
    disk._unlinks_aside.run()
    assert disk._files.path_of(chunk.digest).exists()


def recorded_in(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as sql:
        return {digest.hex() for (digest,) in sql.execute("SELECT digest FROM pending_unlinks")}


async def test_records_of_unlinks_are_dropped_once_they_are_durable(disk, tmp_path, monkeypatch):
    """Half of the bound is enough; the folders are synced first, by another thread than the one that commits."""
    monkeypatch.setattr(pending_unlinks, "MAX_PENDING", 10)
    synced: dict[str, str] = {}
    sync = pending_unlinks.sync_directory

    def record(directory: Path) -> None:
        synced[directory.name] = threading.current_thread().name
        sync(directory)

    monkeypatch.setattr(pending_unlinks, "sync_directory", record)
    chunks = [make_chunk(70_000) for _ in range(5)]
    for chunk in chunks:
        await disk.put(chunk, 1)
    await disk.delete_if([below(chunk, 9) for chunk in chunks[:4]])
    assert recorded_in(tmp_path) == {chunk.digest for chunk in chunks[:4]}
    assert synced == {}
    await disk.delete_if([below(chunks[4], 9)])
    assert recorded_in(tmp_path) == set()
    assert synced.keys() == {chunk.digest[:2] for chunk in chunks}
    assert all(name.startswith("disk-write") for name in synced.values())


async def test_the_record_of_a_file_that_is_deleted_again_meanwhile_stays(disk, tmp_path, monkeypatch):
    """Its last unlink came after the folder was synced."""
    monkeypatch.setattr(pending_unlinks, "MAX_PENDING", 4)
    first, again = make_chunk(70_000), make_chunk(70_000)
    for chunk in (first, again):
        await disk.put(chunk, 1)
    sync_finished = pending_unlinks.sync_finished
    loop = asyncio.get_running_loop()

    async def put_and_delete() -> None:
        await disk.put(again, 1)
        await disk.delete(again.digest)

    def sync_slowly(*args: object) -> list[str]:
        finished = sync_finished(*args)
        asyncio.run_coroutine_threadsafe(put_and_delete(), loop).result(20)
        return finished

    monkeypatch.setattr(pending_unlinks, "sync_finished", sync_slowly)
    await disk.delete_if([below(first, 9), below(again, 9)])
    assert recorded_in(tmp_path) == {again.digest}
    assert disk._pending.count == 1
