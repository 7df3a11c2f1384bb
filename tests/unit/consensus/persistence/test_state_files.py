"""A snapshot takes the place of state and log as if in one step: it is broken off after every step, and started again."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.consensus.metadata import store as metadata_store
from services.consensus.metadata.database import ConstraintViolatedError, RowDamagedError
from services.consensus.metadata.entries import encode_proposal
from services.consensus.metadata.store import MetadataStore
from services.consensus.persistence.adapter import FileSnapshot, StateMachineAdapter
from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.persistence.state_damage import MARK_NAME, mark_damaged, unmark, was_marked
from services.consensus.persistence.state_files import StateFiles
from services.consensus.raft.decide import LogPosition
from services.consensus.raft.log import RaftLog
from services.consensus.raft.messages import InstallSnapshot, InstallSnapshotResponse
from services.consensus.raft.ports import (
    CannotApplyError,
    Entry,
    EntryKind,
    LogDamagedError,
    SnapshotDamagedError,
    SnapshotMeta,
)
from services.consensus.raft.snapshot_receiving import SnapshotReceiver
from shared.contracts.metadata import GetFile, Proposal
from tests.synced import Synced
from tests.unit.consensus.metadata.builders import Log, publish

PIECE_BYTES = 40_000
OLD_FILES, NEW_FILES = 3, 40


class Crash(BaseException):
    """The process is gone."""


class Immediate:
    """A `BlockingRunner` that works at once."""

    def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        done(work(), None)


@contextmanager
def crashing_at(step: int, patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every call that changes a disk counts as a step; the process is gone before step number `step` happens."""
    steps: list[str] = []

    def counted(name: str, right: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if len(steps) == step:
                raise Crash(name)
            steps.append(name)
            return right(*arguments, **named)

        return call

    with patch.context() as context:
        for module, name in (
            (os, "pwrite"),
            (os, "writev"),
            (os, "fsync"),
            (os, "fdatasync"),
            (os, "rename"),
            (os, "unlink"),
            (os, "ftruncate"),
        ):
            context.setattr(module, name, counted(name, getattr(module, name)))
        for name in ("rename", "unlink"):
            context.setattr(Path, name, counted(f"Path.{name}", getattr(Path, name)))
        right_start = SqliteLogStore._write_start
        context.setattr(SqliteLogStore, "_write_start", counted("log", right_start))
        yield steps


class Member:
    """The disk of one member, opened as `main` does."""

    def __init__(self, folder: Path) -> None:
        self.files = StateFiles(folder)
        self.store = MetadataStore.open(self.files.current)
        self.machine = StateMachineAdapter(self.store, self.files)
        self.log_store = SqliteLogStore(folder)
        self.log = RaftLog(
            self.log_store, Immediate(), last_applied=self.machine.last_applied, installed=self.machine.installed
        )

    def close(self) -> None:
        self.store.close()
        self.log_store.close()

    def files_present(self) -> int:
        queries = [GetFile(bucket="default", key=f"f{number}") for number in range(NEW_FILES)]
        results = self.store.answer(queries, term=1).results
        return sum(result.answer is not None and result.answer.file is not None for result in results)


def filled(path: Path, files: int) -> tuple[MetadataStore, int]:
    """Tables after that many publishes, and the index that they stand at."""
    log = Log(path)
    for number in range(files):
        log.apply(publish(f"f{number}"))
    return log.store, log.store.last_applied


@pytest.fixture
def snapshot(tmp_path: Path) -> Iterator[tuple[FileSnapshot, SnapshotMeta]]:
    """What a leader sends."""
    leader = tmp_path / "leader"
    leader.mkdir()
    store, index = filled(leader / "metadata.sqlite", NEW_FILES)
    taken = StateMachineAdapter(store, StateFiles(leader)).take_snapshot()
    meta = SnapshotMeta(LogPosition(term=1, index=index), 0, b"", taken.size_bytes, taken.digest)
    yield taken, meta
    taken.close()
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A follower whose state and log end long before."""
    path = tmp_path / "follower"
    path.mkdir()
    store, index = filled(path / "metadata.sqlite", OLD_FILES)
    store.close()
    log = SqliteLogStore(path)
    log.load()
    log.write(None, 1, [Entry(1, EntryKind.NO_OP, b"")] * index)
    log.close()
    return path


def receive_and_install(member: Member, snapshot: FileSnapshot, meta: SnapshotMeta) -> None:
    held = member.machine.receive(meta, 0, b"")
    while held < meta.size_bytes:
        held = member.machine.receive(meta, held, snapshot.read(held, PIECE_BYTES))
    member.machine.install(meta)
    member.log.install(meta, lambda: None)


def test_a_snapshot_becomes_the_state_and_the_log_begins_behind_it(folder: Path, snapshot) -> None:
    """At once, and after a restart."""
    taken, meta = snapshot
    member = Member(folder)
    assert member.files_present() == OLD_FILES
    receive_and_install(member, taken, meta)
    for _ in range(2):
        assert member.files_present() == NEW_FILES
        assert member.machine.last_applied == member.log.last_log_index == member.log.base.index == meta.position.index
        member.close()
        member = Member(folder)
    member.close()
    assert [path.name for path in folder.glob("*.part")] == []


def test_a_crash_at_any_step_of_an_installation_is_survived(
    folder: Path, snapshot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After each step the member starts with all of the old state or all of the new one, and the transfer can be finished."""
    taken, meta = snapshot
    outcomes: list[int] = []
    for step in range(1000):
        copy = tmp_path / f"step-{step}"
        copy.mkdir()
        for path in folder.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        member = Member(copy)
        with crashing_at(step, monkeypatch) as steps:
            try:
                receive_and_install(member, taken, meta)
            except Crash:
                pass
            else:
                break
        member.close()  # gives locks back; writes nothing that a kill would not leave
        again = Member(copy)
        outcomes.append(again.files_present())
        assert outcomes[-1] in {OLD_FILES, NEW_FILES}, f"half a snapshot after {steps}"
        assert again.log.last_applied == again.machine.last_applied, f"after {steps}"
        assert not again.log.is_behind_base, f"after {steps}"
        assert again.log.base.index in {0, meta.position.index}, f"after {steps}"
        if outcomes[-1] == OLD_FILES:
            receive_and_install(again, taken, meta)
            assert again.files_present() == NEW_FILES
        again.close()
    member.close()
    assert len(outcomes) > 12, f"too few steps were seen: {steps}"
    assert outcomes == sorted(outcomes), "there is one instant before which all is old and after which all is new"
    assert {OLD_FILES, NEW_FILES} == set(outcomes)


def test_no_power_cut_takes_back_tables_that_are_in_force(folder: Path, snapshot, monkeypatch) -> None:
    """The log is cut behind them: bytes, name and pointer, each before the next step relies on it."""
    taken, meta = snapshot
    files = StateFiles(folder)
    synced = Synced(monkeypatch)
    held = 0
    while held < meta.size_bytes:
        held = files.receive(meta, held, taken.read(held, PIECE_BYTES))
    tables = files.complete(meta)
    assert synced.is_kept(tables)
    files.put_in_force(tables, meta)
    assert synced.is_kept(folder / "current_metadata")


def test_no_power_cut_takes_back_the_mark_of_damage(tmp_path: Path, monkeypatch) -> None:
    """The next start would take the damaged tables for whole ones."""
    synced = Synced(monkeypatch)
    mark_damaged(tmp_path, RowDamagedError("a row"))
    assert was_marked(tmp_path)
    assert synced.is_kept(tmp_path / MARK_NAME)


def test_tables_that_refuse_an_entry_are_made_anew_once(tmp_path: Path) -> None:
    """New ones that refuse it again show a defect: no member makes its state anew for ever. Another entry is another matter."""
    refused = ConstraintViolatedError(17, "UNIQUE constraint failed: files.key")
    assert mark_damaged(tmp_path, refused)
    assert was_marked(tmp_path)
    unmark(tmp_path)
    assert not was_marked(tmp_path)
    assert not mark_damaged(tmp_path, refused)
    assert not was_marked(tmp_path)
    assert mark_damaged(tmp_path, ConstraintViolatedError(18, "UNIQUE constraint failed: files.key"))
    unmark(tmp_path)
    damaged = RowDamagedError("row 1")
    assert mark_damaged(tmp_path, damaged)
    unmark(tmp_path)
    assert mark_damaged(tmp_path, damaged), "a bad disk may damage the same row twice"


def test_a_transfer_goes_on_after_a_restart_where_it_ended(folder: Path, snapshot) -> None:
    """Pieces that came are kept."""
    taken, meta = snapshot
    member = Member(folder)
    assert member.machine.receive(meta, 0, taken.read(0, PIECE_BYTES)) == PIECE_BYTES
    member.close()
    member = Member(folder)
    assert member.machine.receive(meta, 0, b"") == PIECE_BYTES
    member.close()


def test_a_piece_that_does_not_go_on_is_not_kept(folder: Path, snapshot) -> None:
    """Repeated, late or from the future: the answer says what is held."""
    taken, meta = snapshot
    member = Member(folder)
    for offset in (PIECE_BYTES, 1, 0, 0):
        held = member.machine.receive(meta, offset, taken.read(offset, PIECE_BYTES))
        assert held == (0 if offset else PIECE_BYTES)
    member.close()


def test_pieces_of_another_snapshot_are_dropped(folder: Path, snapshot) -> None:
    """A new leader has a snapshot of its own; two halves do not make one."""
    taken, meta = snapshot
    member = Member(folder)
    member.machine.receive(meta, 0, taken.read(0, PIECE_BYTES))
    other = SnapshotMeta(meta.position, 0, b"", meta.size_bytes, b"\1" * 32)
    assert member.machine.receive(other, 0, b"") == 0
    assert len(list(folder.glob("*.part"))) == 1
    member.close()


def test_a_snapshot_that_cannot_be_put_in_force_leaves_the_old_tables_open(folder: Path, snapshot, monkeypatch) -> None:
    """Memory never shows tables that the next start would not open."""
    taken, meta = snapshot
    member = Member(folder)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(member.files, "put_in_force", fail)
    member.machine.receive(meta, 0, taken.read(0, meta.size_bytes))
    with pytest.raises(OSError, match="Input/output"):
        member.machine.install(meta)
    assert member.files_present() == OLD_FILES
    member.close()


def test_what_comes_before_an_unknown_entry_is_applied(folder: Path) -> None:
    """So that a member stops exactly at the entry that only a newer one knows; without any before, it says which."""
    member = Member(folder)
    first = member.store.last_applied + 1
    known = Entry(1, EntryKind.COMMAND, encode_proposal(Proposal(request_id="r", command=publish("new"))))
    unknown = Entry(1, EntryKind.COMMAND, b"\xff from the future")
    assert len(member.machine.apply(first, [known, unknown, known])) == 1
    assert member.machine.last_applied == first
    with pytest.raises(CannotApplyError, match=f"log entry {first + 1}"):
        member.machine.apply(first + 1, [unknown])
    member.close()


@pytest.mark.parametrize("damage", ["flipped byte", "other index"])
def test_a_damaged_snapshot_is_dropped_and_the_state_is_as_it_was(folder: Path, snapshot, damage: str) -> None:
    """Checked before it counts."""
    taken, meta = snapshot
    if damage == "other index":
        meta = SnapshotMeta(LogPosition(term=1, index=meta.position.index - 1), 0, b"", meta.size_bytes, meta.digest)
    member = Member(folder)
    data = bytearray(taken.read(0, meta.size_bytes))
    if damage == "flipped byte":
        data[len(data) // 2] ^= 1
    member.machine.receive(meta, 0, bytes(data))
    with pytest.raises(SnapshotDamagedError):
        member.machine.install(meta)
    assert member.files_present() == OLD_FILES
    member.close()
    member = Member(folder)
    assert member.files_present() == OLD_FILES
    assert member.machine.receive(meta, 0, b"") == 0, "the damaged pieces are still there"
    member.close()


def test_damaged_tables_are_set_aside_as_evidence(folder: Path) -> None:
    """The member begins with none; twice in a row as well."""
    for _ in range(2):
        files = StateFiles(folder)
        files.current.write_bytes(b"not a database at all, and long enough to be read as one" * 100)
        with pytest.raises(sqlite3.DatabaseError):
            MetadataStore.open(files.current)
        evidence = files.set_aside()
        assert evidence.read_bytes().startswith(b"not a database")
        store = MetadataStore.open(files.current)
        assert store.last_applied == 0
        store.close()
        assert StateFiles(folder).current == files.current


def test_a_damaged_pointer_refuses_the_start(folder: Path, snapshot) -> None:
    """Nobody guesses which tables were in force."""
    taken, meta = snapshot
    member = Member(folder)
    receive_and_install(member, taken, meta)
    member.close()
    pointer = folder / "current_metadata"
    raw = bytearray(pointer.read_bytes())
    raw[-1] ^= 1
    pointer.write_bytes(raw)
    with pytest.raises(LogDamagedError):
        StateFiles(folder)


def test_a_checkpoint_moves_the_write_ahead_file_while_applying_goes_on(tmp_path: Path) -> None:
    """What it names is applied, and the write-ahead file starts over."""
    log = Log(tmp_path / "metadata.sqlite")
    store, sizes = log.store, []
    for number in range(300):
        log.apply(publish(f"f{number}"))
        if number % 50 == 49:
            assert store.checkpoint() == store.last_applied
            sizes.append((tmp_path / "metadata.sqlite-wal").stat().st_size)
    assert sizes[-1] <= 2 * sizes[0], f"it grows with every checkpoint: {sizes}"
    store.close()


def test_evidence_keeps_its_write_ahead_file_and_is_not_overwritten(folder: Path) -> None:
    """The write-ahead file may hold what is nowhere else; the first evidence is the most telling."""
    files = StateFiles(folder)
    for content in (b"first", b"second", b"third"):
        files.current.write_bytes(content)
        files.current.with_name(files.current.name + "-wal").write_bytes(content + b" wal")
        files.set_aside()
    assert (folder / "damaged_metadata.sqlite").read_bytes() == b"first"
    assert (folder / "damaged_metadata.sqlite-wal").read_bytes() == b"first wal"
    assert (folder / "damaged_metadata_again.sqlite").read_bytes() == b"third"
    assert (folder / "damaged_metadata_again.sqlite-wal").read_bytes() == b"third wal"


def test_a_snapshot_takes_none_of_the_room_that_the_log_needs(folder: Path, snapshot) -> None:
    """Neither the copy of a leader nor the pieces that a follower keeps."""
    taken, meta = snapshot
    member = Member(folder)
    machine = StateMachineAdapter(member.store, member.files, reserve_bytes=1 << 60)
    with pytest.raises(OSError, match="not enough room"):
        machine.take_snapshot()
    with pytest.raises(OSError, match="not enough room"):
        machine.receive(meta, 0, taken.read(0, PIECE_BYTES))
    assert not member.files.copy_path.exists()
    assert list(folder.glob("*.part")) == []
    member.close()


def failing(code: int) -> Callable[[Path], int]:
    def move_bulk(path: Path) -> int:
        error = sqlite3.OperationalError(f"planted at {path}")
        error.sqlite_errorcode = code
        raise error

    return move_bulk


def test_a_checkpoint_without_room_is_durable_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write-ahead file was synced before; only moving it waits for room."""
    log = Log(tmp_path / "metadata.sqlite")
    log.apply(publish("f"))
    monkeypatch.setattr(metadata_store, "move_bulk", failing(sqlite3.SQLITE_FULL))
    assert log.store.checkpoint() == log.store.last_applied
    log.store.close()


def test_a_checkpoint_whose_fsync_failed_is_never_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error reaches whoever ends the process; the kernel would report success next time."""
    log = Log(tmp_path / "metadata.sqlite")
    monkeypatch.setattr(metadata_store, "move_bulk", failing(sqlite3.SQLITE_IOERR_FSYNC))
    with pytest.raises(sqlite3.OperationalError):
        log.store.checkpoint()
    log.store.close()


def test_a_checkpoint_that_meets_an_installation_begins_again(
    folder: Path, snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables that it was about to sync are gone; those in force are synced instead."""
    taken, meta = snapshot
    member = Member(folder)
    right, calls = metadata_store.sync_write_ahead, []

    def sync_write_ahead(path: Path) -> None:
        calls.append(path)
        if len(calls) == 1:
            receive_and_install(member, taken, meta)
        right(path)

    monkeypatch.setattr(metadata_store, "sync_write_ahead", sync_write_ahead)
    assert member.machine.checkpoint() == meta.position.index
    assert len(calls) == 2
    assert not (folder / "metadata.sqlite").exists(), "an empty file of the old name was made"
    member.close()


def test_a_state_that_went_further_meanwhile_is_not_taken_back() -> None:
    """The last piece was being written when entries were applied that make the snapshot superfluous."""
    queue: list[Callable[[], None]] = []
    answers: list[InstallSnapshotResponse] = []
    installed: list[SnapshotMeta] = []

    class Later:
        def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
            queue.append(lambda: done(work(), None))

    class Machine:
        last_applied = 5

        def receive(self, meta: SnapshotMeta, offset: int, data: bytes) -> int:
            return meta.size_bytes

        def install(self, meta: SnapshotMeta) -> None:
            installed.append(meta)

    class Behind:
        last_applied = 5
        base = LogPosition(term=0, index=0)

    machine, replaced = Machine(), []
    receiver = SnapshotReceiver(
        Behind(),
        machine,
        Later(),
        on_replaced=lambda: replaced.append(True),
        on_installed=lambda: None,
        on_fatal=lambda error: None,
    )
    meta = SnapshotMeta(LogPosition(term=1, index=6), 0, b"", 10, b"\0" * 32)
    receiver.receive(InstallSnapshot(1, "m1", meta.to_wire(), 0, b"0123456789"), answers.append)
    queue.pop(0)()  # the piece is on disk; the installation is submitted behind an apply
    machine.last_applied = 7
    queue.pop(0)()
    assert (installed, replaced, receiver.is_installing) == ([], [], False)
    assert answers[-1].installed_index == 6
