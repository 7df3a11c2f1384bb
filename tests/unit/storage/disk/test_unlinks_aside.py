"""Files of conditional deletions are unlinked beside the commit thread, and never under a chunk that has come back."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blake3 import blake3
from prometheus_client import CollectorRegistry

from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.free_space import FreeSpace
from services.storage.disk.pending_unlinks import UnlinksAside
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk, ConditionalDelete
from shared.errors import UnavailableError
from shared.units import KIB
from tests.chance import random_bytes
from tests.integration.storage.support import poll


def make_chunk(size_bytes: int = 100_000) -> Chunk:
    body = random_bytes(size_bytes)
    return Chunk(blake3(body).hexdigest(), size_bytes, (body,))


def below(chunk: Chunk, index: int) -> ConditionalDelete:
    return ConditionalDelete(chunk.digest, lambda recorded: recorded < index)


def open_disk(folder: Path) -> DiskTier:
    prepare_folder(folder)
    metrics = StorageMetrics(CollectorRegistry())
    return DiskTier(folder, space=FreeSpace(folder, None, 99), metrics=metrics, small_limit_bytes=64 * KIB)


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[DiskTier]:
    async with open_disk(tmp_path) as tier:
        yield tier


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
    chunk, other = make_chunk(), make_chunk()
    for each in (chunk, other):
        await disk.put(each, 1)
    held_up = HeldUp(monkeypatch)
    deleting = asyncio.ensure_future(disk.delete_if([below(chunk, 9), below(other, 9)]))
    await asyncio.to_thread(held_up.has_begun.wait, 20)  # one is under way, the other waits
    putting = [asyncio.ensure_future(disk.put(each, 25)) for each in (chunk, other)]
    await poll(lambda: len(disk._unlinks_aside._waiting) == 0 or any(put.done() for put in putting))
    held_up.may_go_on.set()
    assert await deleting == {chunk.digest, other.digest}
    for each, put in zip((chunk, other), putting, strict=True):
        assert (await put).created
        assert await disk.reread(each.digest) == each.body()
    assert await disk.start_indexes([chunk.digest, other.digest]) == {chunk.digest: 25, other.digest: 25}


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
    async with open_disk(tmp_path) as disk:
        await disk.put(chunk, 1)
        with monkeypatch.context() as patch:
            patch.setattr(UnlinksAside, "run", lambda _: None)
            assert await disk.delete_if([below(chunk, 9)]) == {chunk.digest}
        assert disk._files.path_of(chunk.digest).exists()
    async with open_disk(tmp_path) as disk:
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
