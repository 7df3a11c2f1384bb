"""What every log store promises: the real one on SQLite and the simulator's pass the same tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.raft.decide import LogPosition
from services.consensus.raft.ports import SIZE_MARK_ENTRIES, Entry, EntryKind, LogDamagedError, LogStore
from tests.simulation.disk import SimulatedDisk, SimulatedLogStore


def command(term: int, text: str) -> Entry:
    return Entry(term, EntryKind.COMMAND, text.encode())


@pytest.fixture(params=["sqlite", "simulated"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path):
    """A function that opens the same log again, as a restart does."""
    if request.param == "simulated":
        disk = SimulatedDisk()
        yield lambda: SimulatedLogStore(disk)
        return
    opened: list[SqliteLogStore] = []

    def again() -> SqliteLogStore:
        for store in opened:
            store.close()
        opened[:] = [SqliteLogStore(tmp_path)]
        return opened[0]

    yield again
    for store in opened:
        store.close()


def fill(store: LogStore) -> list[Entry]:
    entries = [
        Entry(1, EntryKind.CONFIGURATION, b"first"),
        command(1, "a"),
        command(2, "b"),
        Entry(2, EntryKind.NO_OP, b""),
        Entry(4, EntryKind.CONFIGURATION, b"second"),
    ]
    store.load()
    store.write(None, 1, entries)
    return entries


def test_an_empty_store_is_an_empty_log(reopen) -> None:
    """A new folder holds nothing at position zero."""
    assert reopen().load() == (LogPosition(term=0, index=0), [], [], 0, [])


def test_what_was_written_is_there_after_a_restart(reopen) -> None:
    """Entries, runs of terms and configurations are found again."""
    entries = fill(reopen())
    store = reopen()
    stored = store.load()
    assert stored.terms == [(1, 1), (3, 2), (5, 4)]
    assert stored.configurations == [(1, b"first"), (5, b"second")]
    assert stored.last_index == 5
    assert store.read(1, 5, max_bytes=1 << 30) == entries
    assert store.read(2, 3, max_bytes=1 << 30) == entries[1:3]


def test_erasing_and_appending_is_one_step(reopen) -> None:
    """A conflicting tail is replaced, and what was before it stays."""
    entries = fill(reopen())
    reopen().load()
    store = reopen()
    store.load()
    store.write(3, 3, [command(5, "instead")])
    store = reopen()
    assert store.load().last_index == 3
    assert store.read(1, 3, max_bytes=1 << 30) == [*entries[:2], command(5, "instead")]


def test_reading_what_is_not_there_is_an_error(reopen) -> None:
    """A range beyond the end is never answered with less."""
    store = reopen()
    fill(store)
    with pytest.raises(LogDamagedError):
        store.read(4, 6, max_bytes=1 << 30)


def test_a_read_is_bounded_in_bytes_and_gives_one_entry_at_least(reopen) -> None:
    """A follower far behind a log of large entries costs the leader one batch of memory, not all of it."""
    store = reopen()
    store.load()
    store.write(None, 1, [command(1, "x" * 100)] * 5)
    assert len(store.read(1, 5, max_bytes=1)) == 1
    assert len(store.read(1, 5, max_bytes=250)) == 3
    assert len(store.read(1, 5, max_bytes=500)) == 5


def cut_to(store: LogStore, index: int) -> None:
    for _ in range(100):
        if store.cut(index):
            return
    raise AssertionError(f"never cut to {index}")


def test_a_cut_log_begins_behind_the_cut_and_knows_its_configuration(reopen) -> None:
    """Position and configuration of the last entry that went are kept; the rest is as it was."""
    entries = fill(reopen())
    store = reopen()
    store.load()
    cut_to(store, 3)
    assert store.read(4, 5, max_bytes=1000) == entries[3:]
    stored = reopen().load()
    assert stored.base == LogPosition(index=3, term=2)
    assert stored.configurations == [(1, b"first"), (5, b"second")]
    assert stored.terms == [(4, 2), (5, 4)]
    assert stored.last_index == 5


@pytest.mark.parametrize("index", [1, 2, 4, 5])
def test_a_log_may_be_cut_anywhere_also_at_its_end(reopen, index: int) -> None:
    """What follows is appended as if nothing had happened."""
    entries = fill(reopen())
    store = reopen()
    store.load()
    cut_to(store, index)
    store.write(None, 6, [command(4, "next")])
    stored = reopen().load()
    assert (stored.base.index, stored.base.term) == (index, entries[index - 1].term)
    assert stored.last_index == 6
    assert reopen().read(6, 6, max_bytes=1000) == [command(4, "next")]


def test_cutting_again_below_the_cut_changes_nothing(reopen) -> None:
    """A cut is never taken back."""
    fill(reopen())
    store = reopen()
    store.load()
    cut_to(store, 4)
    cut_to(store, 2)
    assert reopen().load().base.index == 4


def test_a_long_log_is_cut_a_slice_at_a_time(reopen) -> None:
    """So that a group commit never waits for all of it; a crash between two slices leaves a shorter log, and a whole one."""
    store = reopen()
    store.load()
    store.write(None, 1, [Entry(1, EntryKind.CONFIGURATION, b"first"), *[command(1, "x")] * 4999])
    assert not store.cut(4000)
    stored = reopen().load()
    assert 0 < stored.base.index < 4000
    assert (stored.last_index, stored.configurations) == (5000, [(1, b"first")])
    store = reopen()
    store.load()
    cut_to(store, 4000)
    assert reopen().load().base.index == 4000


@pytest.mark.parametrize("base", [3, 5, 9], ids=["shorter", "equal", "longer"])
def test_a_reset_log_is_empty_behind_its_new_base(reopen, base: int) -> None:
    """Whatever stood in it: a snapshot has taken its place."""
    fill(reopen())
    store = reopen()
    store.load()
    store.reset(LogPosition(index=base, term=7), (2, b"third"))
    stored = reopen().load()
    assert stored == (LogPosition(index=base, term=7), [], [(2, b"third")], base, [])
    store = reopen()
    store.load()
    store.write(None, base + 1, [command(7, "next")])
    assert reopen().load().last_index == base + 1


def test_the_size_marks_tell_how_many_bytes_stand_in_the_log(reopen) -> None:
    """Coarsely: what is kept for followers is bounded in bytes."""
    store = reopen()
    store.load()
    store.write(None, 1, [command(1, "12345")] * 1000)
    marks = reopen().load().size_marks
    assert marks == sorted(marks)
    assert marks[-1][0] > 1000 - 2 * SIZE_MARK_ENTRIES
    assert all(size == 5 * index for index, size in marks)


def test_the_connection_that_commits_syncs_every_commit(tmp_path) -> None:
    """Read from that very connection: `synchronous` is a property of a connection, and a weaker one fails no other test."""
    store = SqliteLogStore(tmp_path / "synced")
    assert store._database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()
