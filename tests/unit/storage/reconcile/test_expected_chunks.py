"""The expected set on disk: its sums, its position, its lists, and what becomes of them at a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.storage.reconcile.database import FILE_NAME, DatabaseDamagedError, ReconcileDatabase
from services.storage.reconcile.expected_chunks import (
    ExpectedChunks,
    ListedDifferences,
    MissingChunk,
    Position,
    Total,
)
from shared.errors import NotReadyError
from shared.partitions import PartitionTable, SetSum
from tests.unit.storage.reconcile.world import make_chunks


def sized(count: int, size_bytes: int = 10) -> list[tuple[bytes, int]]:
    return sorted((digest, size_bytes) for digest in make_chunks(count))


def sums_of(chunks: list[tuple[bytes, int]]) -> list[SetSum]:
    table = PartitionTable()
    table.fill(chunks)
    return list(table.groups())


class Opened:
    def __init__(self, path: Path, cluster_id: str = "c") -> None:
        self.path = path
        self.database = ReconcileDatabase(path)
        self.expected = ExpectedChunks(self.database, cluster_id)

    async def open(self) -> Opened:
        await self.database.open()
        await self.expected.load()
        return self


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    made = await Opened(tmp_path / FILE_NAME).open()
    yield made
    await made.database.close()


async def list_all(opened: Opened, chunks: list[tuple[bytes, int]], position: Position) -> None:
    await opened.expected.begin_listing()
    await opened.expected.add_listed(chunks)
    await opened.expected.finish_listing("key", position)


async def test_a_listing_takes_the_place_of_the_set_when_it_is_finished(opened):
    """Until then the set is the old one; the sums are those of the set."""
    old, new = sized(50), sized(60)
    await list_all(opened, old, Position(5))
    assert await opened.expected.groups() == sums_of(old)
    await opened.expected.begin_listing()
    await opened.expected.add_listed(new)
    assert await opened.expected.groups() == sums_of(old)
    await opened.expected.finish_listing("other", Position(9, 2))
    assert await opened.expected.groups() == sums_of(new)
    assert (opened.expected.position, opened.expected.placement_key) == (Position(9, 2), "other")
    assert await opened.expected.list_prefix("") == new


async def test_changes_are_applied_once_however_often_they_come(opened):
    """A chunk that is there is not added again, one that is not there is not removed again: the sums stay right."""
    chunks = sized(20)
    await list_all(opened, chunks[:10], Position(5))
    for _ in range(2):
        await opened.expected.apply(
            added=chunks[5:], removed=[digest for digest, _ in chunks[:5]], position=Position(6)
        )
        assert await opened.expected.groups() == sums_of(chunks[5:])
    assert opened.expected.total.chunk_count == 15
    prefix = chunks[7][0].hex()[:3]
    assert chunks[7] in await opened.expected.list_prefix(prefix)
    assert all(digest.hex().startswith(prefix) for digest, _ in await opened.expected.list_prefix(prefix))


async def test_a_restart_goes_on_from_what_was_written(opened):
    """Set, sums, position and key are those of before; the lists are empty, because what is held may have changed."""
    chunks = sized(30)
    await list_all(opened, chunks, Position(5))
    await opened.expected.apply(
        removed=[chunks[0][0]], missing=[MissingChunk(chunks[1][0], 10, 5)], position=Position(7, 3)
    )
    await opened.database.close()
    again = await Opened(opened.path).open()
    assert again.expected.position == Position(7, 3)
    assert again.expected.placement_key == "key"
    assert await again.expected.groups() == sums_of(chunks[1:])
    assert again.expected.count("missing") == Total()
    assert await again.expected.missing_page(b"", 10) == []
    await again.database.close()


async def test_what_another_cluster_left_is_forgotten(opened):
    """Its digests are of other files."""
    await list_all(opened, sized(5), Position(5))
    await opened.database.close()
    other = await Opened(opened.path, "another").open()
    assert other.expected.position is None
    assert other.expected.total == SetSum()
    await other.database.close()


async def test_a_damaged_file_is_begun_anew(opened):
    """It can be asked again, so it is no reason to stop; at a start, and while it runs."""
    await list_all(opened, sized(5), Position(5))
    await opened.database.close()
    opened.path.write_bytes(b"no database" * 1000)
    again = await Opened(opened.path).open()
    assert again.expected.position is None
    await list_all(again, sized(2000), Position(6))
    await again.database.read(lambda sql: sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    with again.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"x" * 40_000)
    await again.database.read(lambda sql: sql.execute("PRAGMA shrink_memory").fetchall())
    with pytest.raises(DatabaseDamagedError):
        await again.expected.list_prefix("")
    await again.database.remake()
    await again.expected.forget()
    assert (again.expected.position, again.expected.total) == (None, SetSum())
    await again.database.close()


async def test_nothing_is_asked_of_a_file_that_is_not_open(tmp_path):
    """A call that comes before the start hears that it is too early."""
    with pytest.raises(NotReadyError):
        await Opened(tmp_path / FILE_NAME).expected.set_note("a", "b")


async def test_the_totals_of_the_lists_are_those_of_their_rows(opened):
    """Through comparisons, answers of the log, pulls and deletions, rows that come twice, and a removed reference."""
    expected = opened.expected
    await list_all(opened, [], Position(5))
    chunks = sized(40)
    missing = [MissingChunk(digest, 10, 5) for digest, _ in chunks[:20]]
    await expected.record(ListedDifferences("", missing, chunks[20:]))
    await expected.apply(missing=missing[:3])
    assert expected.count("missing") == Total(20, 200)
    assert expected.count("unchecked") == Total(20, 200)
    await expected.record_references({digest: number % 4 == 0 for number, (digest, _) in enumerate(chunks[20:])})
    await expected.record_references({chunks[20][0]: False})
    assert (expected.count("surplus"), expected.count("orphans")) == (Total(4, 40), Total(16, 160))
    # What was said of a chunk stays when it is found again.
    await expected.record(ListedDifferences("", missing, chunks[20:]))
    assert (expected.count("surplus"), expected.count("unchecked")) == (Total(4, 40), Total())
    await expected.drop_missing([chunks[0][0], chunks[1][0], chunks[30][0]])
    await expected.apply(removed=[chunks[2][0]])
    await expected.drop_extra([digest for digest, _ in chunks[20:30]])
    assert expected.count("missing") == Total(17, 170)
    assert [chunk.digest for chunk in await expected.missing_page(chunks[5][0], 3)] == [
        digest for digest, _ in chunks[6:9]
    ]
    assert await expected.extra_page(b"", 100) == [digest for digest, _ in chunks[30:]]
    await list_all(opened, [], Position(6))
    assert {expected.count(name) for name in ("missing", "surplus", "orphans", "unchecked")} == {Total()}
