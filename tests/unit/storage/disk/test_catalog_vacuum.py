"""Free pages of the catalog go back to the file system, and no chunk and no commit suffers from it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from blake3 import blake3
from prometheus_client import CollectorRegistry

from services.storage.disk import catalog, catalog_vacuum
from services.storage.disk.catalog_vacuum import CatalogVacuum
from services.storage.disk.changes import SmallChunk
from services.storage.disk.free_space import FreeSpace
from services.storage.disk.group_commit import Transaction, open_writer
from services.storage.disk.row_damage import read_packed
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.disk.write_gate import WriteGate
from services.storage.metrics import StorageMetrics
from services.storage.ports import ConditionalDelete
from shared.units import KIB, MIB
from tests.integration.storage.support import poll

PAGE_BYTES = 4 * KIB


def open_disk(folder: Path) -> DiskTier:
    folder.mkdir(exist_ok=True)
    prepare_folder(folder)
    metrics = StorageMetrics(CollectorRegistry())
    return DiskTier(folder, space=FreeSpace(folder, None, 99), metrics=metrics, small_limit_bytes=64 * KIB)


def small_chunk(number: int, size_bytes: int = 1000) -> SmallChunk:
    body = (b"%d " % number * size_bytes)[:size_bytes]
    return SmallChunk(blake3(body).hexdigest(), body, 1)


def anyway(digest: str) -> ConditionalDelete:
    return ConditionalDelete(digest, lambda _: True)


def fill(database: Path, count: int, *, incremental: bool = True, size_bytes: int = 1000) -> list[str]:
    """A catalog with `count` chunks; their digests."""
    with closing(open_writer(database) if incremental else sqlite3.connect(database, isolation_level=None)) as sql:
        if not incremental:
            sql.execute("PRAGMA journal_mode=WAL")
            sql.executescript(f"BEGIN; {catalog._CREATE} PRAGMA user_version={catalog.FORMAT_VERSION}; COMMIT;")
    if incremental:
        catalog.prepare(database)
    chunks = [small_chunk(number, size_bytes) for number in range(count)]
    with closing(sqlite3.connect(database, isolation_level=None)) as sql:
        sql.execute("BEGIN")
        for chunk in chunks:
            catalog.add_packed(Transaction(sql), chunk.digest, chunk.body, chunk.start_index)
        sql.execute("COMMIT")
    return [chunk.digest for chunk in chunks]


def remove(sql: sqlite3.Connection, digests: list[str]) -> None:
    sql.execute("BEGIN")
    for digest in digests:
        catalog.remove(Transaction(sql), digest)
    sql.execute("COMMIT")


def count_free(sql: sqlite3.Connection) -> int:
    return int(sql.execute("PRAGMA freelist_count").fetchone()[0])


def assert_sound(database: Path, digests: list[str]) -> None:
    """The structure, its map of pages included, and every body."""
    with closing(sqlite3.connect(database)) as sql:
        assert sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert catalog.present(sql, digests) == set(digests)
        for digest in digests[:: max(1, len(digests) // 50)]:
            row = catalog.find(sql, digest)
            assert blake3(read_packed(sql, row.packed_id)).hexdigest() == digest


async def test_the_file_shrinks_when_chunks_are_deleted(tmp_path):
    """Of 8,000 small chunks 7,600 go, and with them what they took, while the node runs and without a restart."""
    chunks = [small_chunk(number) for number in range(8000)]
    database = tmp_path / "node" / "catalog.sqlite"
    async with open_disk(tmp_path / "node") as disk:
        for start in range(0, len(chunks), 1000):
            await disk.put_batch(chunks[start : start + 1000])
        held, gone = chunks[::20], [chunk for number, chunk in enumerate(chunks) if number % 20]
        await disk.delete_if([anyway(gone[0].digest)])
        with closing(sqlite3.connect(database)) as sql:
            pages = sql.execute("PRAGMA page_count").fetchone()[0]
        assert pages * PAGE_BYTES > 8 * MIB
        assert len(await disk.delete_if([anyway(chunk.digest) for chunk in gone[1:]])) == len(gone) - 1
        await poll(lambda: database.stat().st_size < pages * PAGE_BYTES // 5, timeout_s=50)
        assert await disk.has([chunk.digest for chunk in chunks], None) == {chunk.digest for chunk in held}
        for chunk in held[::10]:
            assert await disk.get(chunk.digest) == chunk.body
        assert disk.reasons_against_writes() == []
        await disk.put_batch(gone[:100])
    assert_sound(database, [chunk.digest for chunk in held + gone[:100]])


def test_it_works_in_short_slices_with_pauses_and_stops(tmp_path):
    """Due a pause after each slice, four times as long as that took; over when a sixteenth is free, or little in all."""
    database = tmp_path / "catalog.sqlite"
    digests = fill(database, 5000)
    times = iter(float(number) for number in range(10_000))
    with closing(open_writer(database)) as sql:
        gate = WriteGate()
        vacuum = CatalogVacuum(sql, gate, lambda: next(times))
        assert vacuum.wait_s() is None
        remove(sql, digests[:-500])
        before = count_free(sql)
        assert before > 1000
        vacuum.check()
        steps = 0
        while (wait_s := vacuum.wait_s()) is not None:
            free, began_s = count_free(sql), next(times)
            vacuum.step()
            steps += 1
            assert 0 <= free - count_free(sql) <= catalog_vacuum._SLICE_PAGES
            if vacuum.wait_s() is not None and not vacuum._is_moved:
                assert vacuum._due_at_s >= began_s + 4
            assert steps < 100, wait_s
        assert count_free(sql) <= catalog_vacuum._MIN_FREE_PAGES
        assert steps >= (before - 256) // catalog_vacuum._SLICE_PAGES
        assert database.stat().st_size == sql.execute("PRAGMA page_count").fetchone()[0] * PAGE_BYTES
        assert gate.reason is None
    assert_sound(database, digests[-500:])


def test_a_few_free_pages_are_left_for_the_next_puts(tmp_path):
    """Less than an eighth, or less than a mebibyte, is no reason to move anything."""
    database = tmp_path / "catalog.sqlite"
    digests = fill(database, 8000)
    with closing(open_writer(database)) as sql:
        vacuum = CatalogVacuum(sql, WriteGate())
        remove(sql, digests[:900])
        assert 128 < count_free(sql) < sql.execute("PRAGMA page_count").fetchone()[0] // 8
        vacuum.check()
        assert vacuum.wait_s() is None
        remove(sql, digests[900:1600])
        vacuum.check()
        assert vacuum.wait_s() is not None
        # An earlier run may have left it so.
        assert CatalogVacuum(sql, WriteGate()).wait_s() is not None


def test_a_reader_delays_the_end_only(tmp_path):
    """While a snapshot is in the write-ahead file, the file is not cut; it is tried again a second later."""
    database = tmp_path / "catalog.sqlite"
    digests = fill(database, 4000)
    with closing(open_writer(database)) as sql, closing(catalog.open_reader(database)) as reader:
        vacuum = CatalogVacuum(sql, WriteGate(), lambda: 0.0)
        remove(sql, digests[:-100])
        reader.execute("BEGIN")
        assert catalog.find(reader, digests[0]) is None
        size_bytes = database.stat().st_size
        vacuum.check()
        while not vacuum._is_moved:
            vacuum.step()
        vacuum.step()
        assert vacuum.wait_s() == 1.0
        assert catalog.find(reader, digests[-1]) is not None
        reader.execute("COMMIT")
        vacuum.step()
        assert vacuum.wait_s() is None
        assert database.stat().st_size < size_bytes // 2


def test_a_crash_after_any_step_leaves_every_chunk(tmp_path):
    """What SIGKILL leaves after each slice, and after the cut, is a sound catalog."""
    database = tmp_path / "catalog.sqlite"
    digests = fill(database, 3000)
    with closing(open_writer(database)) as sql:
        vacuum = CatalogVacuum(sql, WriteGate(), lambda: 0.0)
        remove(sql, digests[:-300])
        vacuum.check()
        copies = 0
        while vacuum.wait_s() is not None:
            vacuum.step()
            copy = tmp_path / f"copy-{copies}"
            copy.mkdir()
            for name in ("catalog.sqlite", "catalog.sqlite-wal"):
                shutil.copyfile(tmp_path / name, copy / name)
            assert_sound(copy / "catalog.sqlite", digests[-300:])
            copies += 1
        assert copies > 4


def test_a_small_catalog_of_an_earlier_version_is_converted_at_start(tmp_path):
    """Once; its chunks stay, and it gives space back from then on."""
    database = tmp_path / "catalog.sqlite"
    digests = fill(database, 2000, incremental=False)
    for _ in range(2):
        catalog.prepare(database)
    assert_sound(database, digests)
    with closing(open_writer(database)) as sql:
        assert sql.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        vacuum = CatalogVacuum(sql, WriteGate())
        remove(sql, digests[:-100])
        vacuum.check()
        assert vacuum.wait_s() is not None


def test_a_large_catalog_of_an_earlier_version_stays_as_it_is(tmp_path, monkeypatch):
    """It is used all the same; its free pages serve later puts."""
    database = tmp_path / "catalog.sqlite"
    digests = fill(database, 2000, incremental=False)
    monkeypatch.setattr(catalog_vacuum, "_MAX_CONVERTED_BYTES", database.stat().st_size - 1)
    catalog.prepare(database)
    with closing(open_writer(database)) as sql:
        assert sql.execute("PRAGMA auto_vacuum").fetchone() == (0,)
        vacuum = CatalogVacuum(sql, WriteGate())
        remove(sql, digests[:-100])
        vacuum.check()
        assert vacuum.wait_s() is None
    assert_sound(database, digests[-100:])
    monkeypatch.setattr(catalog_vacuum, "_MAX_CONVERTED_BYTES", database.stat().st_size)
    catalog.prepare(database)
    with closing(open_writer(database)) as sql:
        assert sql.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_a_catalog_that_cannot_be_converted_is_used_as_it_is(tmp_path):
    """A body that SQLite cannot read to its end stops VACUUM, which is no reason to refuse the start."""
    database = tmp_path / "catalog.sqlite"
    digests = fill(database, 2000, incremental=False)
    with database.open("r+b") as file:
        file.seek(-PAGE_BYTES, 2)
        file.write(b"\xff" * PAGE_BYTES)
    catalog.prepare(database)
    with closing(open_writer(database)) as sql:
        assert sql.execute("PRAGMA auto_vacuum").fetchone() == (0,)
        assert catalog.find(sql, digests[0]) is not None


async def test_a_damaged_map_of_pages_ends_giving_back_and_nothing_else(tmp_path):
    """It is read by nothing but this: chunks are stored, read and deleted as before."""
    chunks = [small_chunk(number) for number in range(4000)]
    database = tmp_path / "node" / "catalog.sqlite"
    async with open_disk(tmp_path / "node") as disk:
        await disk.put_batch(chunks)
    with database.open("r+b") as file:
        file.seek(PAGE_BYTES)  # the second page is the first of the map
        file.write(bytes(PAGE_BYTES))
    async with open_disk(tmp_path / "node") as disk:
        assert len(await disk.delete_if([anyway(chunk.digest) for chunk in chunks[:3500]])) == 3500
        await poll(lambda: not disk._committer._vacuum._is_possible)
        assert disk.reasons_against_writes() == []
        await disk.put_batch(chunks[:10])
        for chunk in chunks[:10] + chunks[3500::50]:
            assert await disk.get(chunk.digest) == chunk.body


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_FSYNC])
def test_an_error_ends_it_until_the_next_removal_and_a_broken_disk_closes_the_gate(code, tmp_path):
    """A full disk passes; a failed fsync does not."""
    database = tmp_path / "catalog.sqlite"
    digests = fill(database, 3000)

    class Failing:
        def __init__(self, sql: sqlite3.Connection) -> None:
            self.execute = sql.execute

        def executescript(self, _: str) -> None:
            error = sqlite3.OperationalError("it failed")
            error.sqlite_errorcode = code
            raise error

    with closing(open_writer(database)) as sql:
        gate = WriteGate()
        vacuum = CatalogVacuum(Failing(sql), gate)
        remove(sql, digests[:-100])
        vacuum.check()
        vacuum.step()
        assert vacuum.wait_s() is None
        assert (gate.reason is None) is (code == sqlite3.SQLITE_FULL)
        vacuum.check()
        assert vacuum.wait_s() is not None


def test_a_deletion_does_not_write_what_it_frees(tmp_path):
    """SQLite as Debian builds it overwrites it with zeros: twice the writes of a mass deletion."""
    database = tmp_path / "catalog.sqlite"
    digests = fill(database, 400, size_bytes=4 * KIB)
    with closing(open_writer(database)) as sql:
        sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        remove(sql, digests[:200])
        frames = database.with_name("catalog.sqlite-wal").stat().st_size // PAGE_BYTES
    assert frames < 150, "of 200 bodies, each with a page of its own"
