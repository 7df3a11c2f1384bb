"""What every log store promises: the real one on SQLite and the simulator's pass the same tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.consensus.log_store import SqliteLogStore
from services.consensus.raft.decide import LogPosition
from services.consensus.raft.ports import Entry, EntryKind, LogDamagedError, LogStore
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
    assert reopen().load() == (LogPosition(term=0, index=0), [], [], 0)


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
