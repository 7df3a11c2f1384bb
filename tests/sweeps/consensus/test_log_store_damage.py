"""A damaged log is noticed, whatever byte it is, and is never silently shortened."""

from __future__ import annotations

import random
import shutil
import sqlite3
import zlib
from pathlib import Path

import pytest

from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.raft.ports import Entry, EntryKind, LogDamagedError

ENTRIES = [Entry(1 + number // 7, EntryKind.COMMAND, bytes([number]) * 40) for number in range(30)]


def write_log(folder: Path, *, checkpoint: bool) -> None:
    store = SqliteLogStore(folder)
    store.load()
    for first in range(0, len(ENTRIES), 5):
        store.write(None, first + 1, ENTRIES[first : first + 5])
    if checkpoint:
        store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        store.close()
        return
    # As kill -9 leaves it: closing would fold the write-ahead file into the database.
    for name in ("raft_log.sqlite", "raft_log.sqlite-wal", "raft_log.acknowledged"):
        (folder / f"{name}.kept").write_bytes((folder / name).read_bytes())
    store.close()
    (folder / "raft_log.sqlite-shm").unlink(missing_ok=True)
    for kept in folder.glob("*.kept"):
        kept.replace(folder / kept.name.removesuffix(".kept"))


def read_log(folder: Path) -> list[Entry]:
    store = SqliteLogStore(folder)
    try:
        stored = store.load()
        return store.read(1, stored.last_index, max_bytes=1 << 30) if stored.last_index else []
    finally:
        store.close()


@pytest.mark.parametrize("name", ["raft_log.sqlite-wal", "raft_log.acknowledged"])
def test_any_flipped_byte_is_noticed_or_harmless(tmp_path: Path, name: str) -> None:
    """After one flipped byte the log is either whole or refused; it is never shorter or different."""
    seed = 20261122
    draw = random.Random(seed)
    original = tmp_path / "original"
    write_log(original, checkpoint=False)
    size = (original / name).stat().st_size
    refused = 0
    for attempt, offset in enumerate(sorted(draw.sample(range(size), min(size, 150)))):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        for path in original.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        raw = bytearray((folder / name).read_bytes())
        raw[offset] ^= 1 << draw.randrange(8)
        (folder / name).write_bytes(raw)
        try:
            assert read_log(folder) == ENTRIES, f"seed {seed}, byte {offset} of {name}: the log changed silently"
        except LogDamagedError:
            refused += 1
    assert refused > 0, "no flip was noticed, so the test looked at nothing"


def test_a_truncated_write_ahead_file_is_refused(tmp_path: Path) -> None:
    """SQLite ignores the torn rest of its write-ahead file; entries that were acknowledged are missed all the same."""
    write_log(tmp_path / "log", checkpoint=False)
    wal = tmp_path / "log" / "raft_log.sqlite-wal"
    wal.write_bytes(wal.read_bytes()[: wal.stat().st_size // 2])
    with pytest.raises(LogDamagedError, match="acknowledged"):
        read_log(tmp_path / "log")


def test_a_row_that_was_changed_on_disk_is_refused(tmp_path: Path) -> None:
    """Every row carries a checksum over its index, term, kind and payload."""
    write_log(tmp_path / "log", checkpoint=True)
    database = sqlite3.connect(tmp_path / "log" / "raft_log.sqlite")
    database.execute("UPDATE entries SET payload = x'00' WHERE position = 12")
    database.commit()
    database.close()
    with pytest.raises(LogDamagedError, match="entry 12"):
        read_log(tmp_path / "log")


def test_a_missing_row_is_refused(tmp_path: Path) -> None:
    """A gap is damage."""
    write_log(tmp_path / "log", checkpoint=True)
    database = sqlite3.connect(tmp_path / "log" / "raft_log.sqlite")
    database.execute("DELETE FROM entries WHERE position = 12")
    database.commit()
    database.close()
    with pytest.raises(LogDamagedError, match="lacks entry 12"):
        read_log(tmp_path / "log")


def test_a_crash_between_lowering_the_mark_and_erasing_is_no_damage(tmp_path: Path) -> None:
    """The acknowledged index is lowered first, so the log is longer than it says: nothing is missing."""
    write_log(tmp_path / "log", checkpoint=True)
    store = SqliteLogStore(tmp_path / "log")
    store._mark.write(10, is_durable=True)
    store.close()
    assert read_log(tmp_path / "log") == ENTRIES


def test_a_log_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    """An older program does not touch what it cannot read."""
    write_log(tmp_path / "log", checkpoint=True)
    database = sqlite3.connect(tmp_path / "log" / "raft_log.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(LogDamagedError, match="format 99"):
        read_log(tmp_path / "log")


def first_byte_of_last_commit(wal: bytes) -> int:
    """From SQLite's format: a header of 32 bytes, then frames of 24 bytes and a page; the last frame of a commit has a size."""
    page_bytes = int.from_bytes(wal[8:12], "big")
    frames = range(32, len(wal), 24 + page_bytes)
    ends = [at + 24 + page_bytes for at in frames if wal[at + 4 : at + 8] != bytes(4)]
    return ends[-2]


@pytest.mark.parametrize("was_acknowledged", [False, True])
def test_a_record_torn_at_any_byte_is_dropped_whole_or_refused(tmp_path: Path, was_acknowledged: bool) -> None:
    """The last commit is cut at a byte: not acknowledged, it is as if it had never been; acknowledged, the member stops."""
    original = tmp_path / "original"
    write_log(original, checkpoint=False)
    whole = (original / "raft_log.sqlite-wal").read_bytes()
    draw = random.Random(20261125)
    offsets = sorted(draw.sample(range(first_byte_of_last_commit(whole), len(whole)), 200))
    if not was_acknowledged:
        head = (len(ENTRIES) - 5).to_bytes(8, "little")
        (original / "raft_log.acknowledged").write_bytes(head + zlib.crc32(head).to_bytes(4, "little"))
    lengths = set()
    for offset in offsets:
        folder = tmp_path / str(offset)
        shutil.copytree(original, folder)
        (folder / "raft_log.sqlite-wal").write_bytes(whole[:offset])
        if was_acknowledged:
            with pytest.raises(LogDamagedError, match="acknowledged"):
                read_log(folder)
            continue
        found = read_log(folder)
        assert found == ENTRIES[: len(found)], f"byte {offset}"
        lengths.add(len(found))
    assert was_acknowledged or lengths == {len(ENTRIES) - 5}, lengths
