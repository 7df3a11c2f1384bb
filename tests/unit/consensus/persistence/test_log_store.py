"""The log of a member on disk: what is synced before what, and a crash between two steps."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.raft.decide import LogPosition
from services.consensus.raft.ports import Entry, EntryKind, LogDamagedError

ENTRY = Entry(1, EntryKind.COMMAND, b"x")


@pytest.fixture
def syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The name of each file or folder that was synced by ours (SQLite syncs its own), and how many entries the log had then."""
    found: list[tuple[str, int]] = []
    right: Callable[[int], None] = os.fsync

    def fsync(descriptor: int) -> None:
        right(descriptor)
        found.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, entry_count(tmp_path)))

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def entry_count(folder: Path) -> int:
    """As another process would see it."""
    path = folder / "raft_log.sqlite"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as log:
        (is_there,) = log.execute("SELECT count(*) FROM sqlite_master WHERE name='entries'").fetchone()
        return log.execute("SELECT count(*) FROM entries").fetchone()[0] if is_there else 0


def test_a_new_log_has_its_mark_and_its_names_on_disk_before_it_is_used(tmp_path, syncs) -> None:
    """A member that acknowledged entries must not find an empty folder after a power cut."""
    SqliteLogStore(tmp_path).close()
    assert [name for name, _ in syncs] == ["raft_log.acknowledged", tmp_path.name]


def test_the_mark_is_lowered_on_disk_before_the_log_gets_shorter(tmp_path, syncs) -> None:
    """A crash between the two must not look like entries that were lost."""
    store = SqliteLogStore(tmp_path)
    store.write(None, 1, [ENTRY] * 5)
    syncs.clear()
    store.write(3, 3, [ENTRY])
    assert syncs == [("raft_log.acknowledged", 5)]
    store.close()


def test_a_log_that_is_replaced_by_a_snapshot_before_its_end_lowers_the_mark_first(tmp_path, syncs) -> None:
    """The same for the whole log."""
    store = SqliteLogStore(tmp_path)
    store.write(None, 1, [ENTRY] * 5)
    syncs.clear()
    store.reset(LogPosition(term=2, index=4), None)
    assert syncs == [("raft_log.acknowledged", 5)]
    store.close()


def test_every_commit_leaves_its_last_index_in_the_mark(tmp_path) -> None:
    """By it, a log that lost its end is told from one that was never longer."""
    store = SqliteLogStore(tmp_path)
    store.write(None, 1, [ENTRY] * 5)
    store.write(None, 6, [ENTRY] * 2)
    store.close()
    assert SqliteLogStore(tmp_path)._mark.value == 7


def test_a_cut_that_fails_half_way_changes_nothing(tmp_path, monkeypatch) -> None:
    """Entries and the place where the log starts change together."""
    store = SqliteLogStore(tmp_path)
    store.write(None, 1, [ENTRY] * 5)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(store, "_write_start", fail)
        with pytest.raises(OSError, match="Input/output"):
            store.cut(3)
    loaded = store.load()
    assert (loaded.base.index, loaded.last_index) == (0, 5)
    store.close()


@pytest.mark.parametrize("column", ["position", "term", "configuration_position"])
def test_a_changed_start_of_the_log_is_refused(tmp_path, column) -> None:
    """Everything before it is believed to be in a checkpoint."""
    store = SqliteLogStore(tmp_path)
    store.write(None, 1, [ENTRY] * 5)
    assert store.cut(3)
    store.close()
    with closing(sqlite3.connect(tmp_path / "raft_log.sqlite")) as log, log:
        log.execute(f"UPDATE start SET {column} = {column} + 1")
    with pytest.raises(LogDamagedError):
        SqliteLogStore(tmp_path).load()
