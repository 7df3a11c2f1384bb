"""The committer on a real SQLite file: how often it moves the write-ahead file into the database."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from contextlib import aclosing, closing
from pathlib import Path

import pytest

from services.storage.disk import catalog, group_commit
from services.storage.disk.group_commit import GroupCommitter, Transaction
from services.storage.disk.wal_salvage import WalPosition
from services.storage.disk.write_gate import WriteGate
from shared.errors import InternalError, UnavailableError
from shared.units import KIB
from tests.chance import random_bytes

_FRAMES = 64
_RETRY_FRAMES = 16
_LONG_PAGES = 80
_FRAME_BYTES = 24 + 4 * KIB


class Committed:
    """A committer with short limits; `statements` are those of its connection, `frames` the marks after each commit."""

    def __init__(self, database: Path) -> None:
        self.wal = database.with_name(database.name + "-wal")
        self.statements: list[str] = []
        self.frames: list[int] = []
        self.committer = GroupCommitter(database, WriteGate(), lambda _: None, lambda _: None)
        self.committer._sql.set_trace_callback(self.statements.append)
        record = self.committer._mark.record

        def record_frames() -> WalPosition | None:
            position = record()
            assert position is not None
            self.frames.append(position.frames)
            return position

        self.committer._mark.record = record_frames

    async def add(self, count: int) -> None:
        """So many chunks of two pages, a transaction each."""
        for _ in range(count):
            await self.committer.run(_add_chunk)

    @property
    def checkpoints(self) -> int:
        return sum("wal_checkpoint" in statement for statement in self.statements)

    async def aclose(self) -> None:
        self.committer.close()


def _add_chunk(transaction: Transaction) -> bool:
    return catalog.add_packed(transaction, random_bytes(32).hex(), random_bytes(6 * KIB), 0)


def _add_long(transaction: Transaction) -> bool:
    return catalog.add_packed(transaction, random_bytes(32).hex(), random_bytes(_LONG_PAGES * 4 * KIB), 0)


@pytest.fixture
async def committed(tmp_path, monkeypatch):
    monkeypatch.setattr(group_commit, "_CHECKPOINT_FRAMES", _FRAMES)
    monkeypatch.setattr(group_commit, "_CHECKPOINT_RETRY_FRAMES", _RETRY_FRAMES)
    catalog.prepare(tmp_path / "catalog.sqlite")
    async with aclosing(Committed(tmp_path / "catalog.sqlite")) as made:
        yield made


async def test_a_file_that_was_long_once_is_not_moved_at_every_commit(committed):
    """The write-ahead file never shrinks; only what is written anew in it counts."""
    await committed.add(300)
    written = committed.frames[0] + sum(
        now - before if now > before else now for before, now in itertools.pairwise(committed.frames)
    )
    assert written > 900
    assert written // (2 * _FRAMES) <= committed.checkpoints <= written // _FRAMES + 1
    assert committed.wal.stat().st_size <= 2 * _FRAMES * _FRAME_BYTES


async def test_a_reader_delays_the_reuse_and_does_not_bring_a_checkpoint_per_commit(committed, tmp_path):
    """While a snapshot is in the file it grows and is tried again now and then; without one it is used from its start."""
    with closing(catalog.open_reader(tmp_path / "catalog.sqlite")) as reader:
        await committed.add(1)
        reader.execute("BEGIN")
        catalog.find(reader, "0" * 64)
        await committed.add(100)
        grown = committed.frames[-1]
        assert grown > 300
        assert committed.checkpoints <= (grown - _FRAMES) // _RETRY_FRAMES + 1
        reader.execute("COMMIT")
        await committed.add(_RETRY_FRAMES // 2)
    assert committed.frames[-1] < _FRAMES


async def test_changes_that_are_long_themselves_do_not_let_the_file_grow(committed):
    """Each writes more frames than a checkpoint waits for, so that no commit leaves a short file."""
    for count in (1, 2):
        for _ in range(10 * count):
            await committed.committer.run(_add_long)
        assert committed.frames[-1] > _FRAMES
        assert committed.wal.stat().st_size < 4 * max(_LONG_PAGES, _FRAMES) * _FRAME_BYTES


async def test_a_defect_in_the_commit_thread_is_heard_and_ends_the_writes(committed, monkeypatch):
    """Rather an error than a thread that died and callers that wait for ever."""

    def fail(_: Transaction) -> None:
        raise ValueError("a defect")

    with monkeypatch.context() as broken:
        broken.setattr(committed.committer, "_on_commit", fail)
        with pytest.raises(InternalError):
            await committed.add(1)
    with pytest.raises(UnavailableError):
        await committed.add(1)


async def test_frames_that_cannot_be_counted_are_too_many(committed):
    """Then every commit moves them: slow, and bounded."""

    committed.committer._mark.record = lambda: None
    await committed.add(5)
    await committed.aclose()  # a checkpoint comes after the answers
    assert committed.checkpoints == 5


class Order:
    """The committer held by one operation until `go`; what was submitted meanwhile leaves its name when it runs."""

    def __init__(self, committer: GroupCommitter) -> None:
        self.go = threading.Event()
        self.ran: list[str] = []
        self._committer = committer
        self._is_held = threading.Event()
        self._calls: list[asyncio.Task[None]] = []

    async def hold(self) -> None:
        def wait(_: Transaction) -> None:
            self._is_held.set()
            self.go.wait(10)

        self._calls.append(asyncio.create_task(self._committer.run(wait)))  # noqa: TID251 - a call under way
        await asyncio.to_thread(self._is_held.wait, 10)

    async def submit(self, name: str, *, yields: bool) -> None:
        """On return it is in the queue."""
        call = self._committer.run(self._named(name), yields=yields)
        self._calls.append(asyncio.create_task(call))  # noqa: TID251 - a call under way
        await asyncio.sleep(0)

    async def done(self) -> list[str]:
        self.go.set()
        await asyncio.gather(*self._calls)
        return self.ran

    def _named(self, name: str) -> Callable[[Transaction], None]:
        return lambda _: self.ran.append(name)


async def test_what_a_request_waits_for_overtakes_what_yields(committed):
    """Whatever came first."""
    order = Order(committed.committer)
    await order.hold()
    await order.submit("pull 1", yields=True)
    await order.submit("pull 2", yields=True)
    await order.submit("put 1", yields=False)
    await order.submit("put 2", yields=False)
    assert await order.done() == ["put 1", "put 2", "pull 1", "pull 2"]


async def test_operations_that_yield_are_committed_one_at_a_time(committed):
    """A request that comes waits for one of them at most."""
    order = Order(committed.committer)
    await order.hold()
    for number in range(3):
        await order.submit(f"pull {number}", yields=True)
    before = sum(statement == "COMMIT" for statement in committed.statements)
    await order.done()
    assert sum(statement == "COMMIT" for statement in committed.statements) - before == 1 + 3


async def test_an_operation_that_yields_is_overtaken_a_few_times_only(committed, monkeypatch):
    """On a node that is never idle it is committed all the same."""
    monkeypatch.setattr(group_commit, "_MAX_BATCH", 1)
    monkeypatch.setattr(group_commit, "_MAX_OVERTAKEN", 2)
    order = Order(committed.committer)
    await order.hold()
    await order.submit("pull", yields=True)
    for number in range(6):
        await order.submit(f"put {number}", yields=False)
    ran = await order.done()
    assert 2 <= ran.index("pull") <= 3


async def test_what_yields_is_finished_before_the_end(committed):
    """As everything that was taken."""
    order = Order(committed.committer)
    await order.hold()
    for number in range(3):
        await order.submit(f"pull {number}", yields=True)
    await order.submit("put", yields=False)
    closing = asyncio.create_task(asyncio.to_thread(committed.committer.close))  # noqa: TID251 - a call under way
    assert len(await order.done()) == 4
    await closing
