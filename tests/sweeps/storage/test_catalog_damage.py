"""A flipped bit anywhere in the catalog: the node refuses to start, or every chunk is right, gone or an error."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3
from prometheus_client import CollectorRegistry

from services.storage.disk.free_space import FreeSpace
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk, LostChunk
from shared.errors import ChunkCorruptError, ChunkNotFoundError, UnavailableError
from shared.units import KIB

_FLIPS = 40
_SEED = 20261125


def disk_in(folder: Path) -> DiskTier:
    prepare_folder(folder)
    space = FreeSpace(folder, None, 99)
    return DiskTier(folder, space=space, metrics=StorageMetrics(CollectorRegistry()), small_limit_bytes=64 * KIB)


async def fate_of(disk: DiskTier, digest: str, body: bytes) -> str:
    try:
        found = await disk.get(digest)
    except (ChunkNotFoundError, ChunkCorruptError, UnavailableError) as error:
        return error.code
    assert found == body, "wrong bytes were served"
    return "right"


@pytest.fixture
async def original(tmp_path) -> Original:
    draw = random.Random(_SEED)
    folder = tmp_path / "original"
    folder.mkdir()
    bodies = [draw.randbytes(draw.choice([40, 900, 5000, 70_000])) for _ in range(60)]
    chunks = {blake3(body).hexdigest(): body for body in bodies}
    async with disk_in(folder) as disk:
        for digest, body in chunks.items():
            await disk.put(Chunk(digest, len(body), (body,)), 1)
        for number in range(3):
            await disk.record_lost(f"{number:064x}", 1)
    assert not (folder / "catalog.sqlite-wal").exists(), "an orderly end leaves all of it in one file"
    return Original(folder, chunks, (folder / "catalog.sqlite").read_bytes())


@dataclass
class Original:
    """A folder in order, of which damaged copies are made."""

    folder: Path
    chunks: dict[str, bytes]
    catalog: bytes

    async def fates_after_flip(self, offset: int, bit: int) -> Counter[str]:
        """What becomes of each chunk, or of the start. Everything else that reads the catalog must go on, too."""
        folder = self.folder.with_name("damaged")
        shutil.copytree(self.folder, folder)
        damaged = bytearray(self.catalog)
        damaged[offset] ^= 1 << bit
        (folder / "catalog.sqlite").write_bytes(damaged)
        fates: Counter[str] = Counter()
        try:
            async with disk_in(folder) as disk:
                listed = await disk.list_chunks("", "", 1000)
                assert await disk.has([chunk.digest for chunk in listed], 0) == {chunk.digest for chunk in listed}
                assert sum(found.chunk_count for found in await disk.sums(None)) == len(listed)
                fates["lost"] += len(await disk.list_lost("", 1000)) - 3
                for digest, body in self.chunks.items():
                    fates[await fate_of(disk, digest, body)] += 1
        except SystemExit:
            fates["refused to start"] += 1
        except UnavailableError:
            fates["not opened"] += 1
        except Exception as error:
            raise AssertionError(f"byte {offset}, bit {bit}") from error
        shutil.rmtree(folder)
        return fates


async def test_a_flipped_bit_in_the_catalog_never_gives_a_wrong_byte(original):
    """Whatever it hits: the header, an index page, a row, a body."""
    draw = random.Random(_SEED + 1)
    fates: Counter[str] = Counter()
    for _ in range(_FLIPS):
        fates += await original.fates_after_flip(draw.randrange(len(original.catalog)), draw.randrange(8))
    print(_SEED, dict(fates))
    assert fates["right"] > 0.9 * _FLIPS * len(original.chunks), fates
    assert fates["chunk_corrupt"] > 0, "no flip hit a body, so nothing was tested"


async def test_a_flipped_bit_in_the_header_of_a_row_costs_that_row_or_a_sentence(original):
    """Where SQLite keeps the types of the columns, which it does not check: the node starts, or says why it does not."""
    draw = random.Random(_SEED + 2)
    fates: Counter[str] = Counter()
    flips = 0
    for digest in [draw.choice(sorted(original.chunks)), "0" * 63 + "1"]:
        place = original.catalog.index(bytes.fromhex(digest))
        # Before the digest: length of the record, length of its header, a type for each of four columns, of three bytes at most.
        for offset in range(place - 8, place):
            for bit in draw.sample(range(8), 4):
                found = await original.fates_after_flip(offset, bit)
                flips += 1
                if "right" in found:
                    assert found["right"] >= len(original.chunks) - 2, (_SEED, offset, bit, found)
                fates += found
    print(_SEED, flips, dict(fates))
    # Some make a record end before its last column; SQLite calls that a malformed file, and so do we, in one sentence.
    assert fates["refused to start"] + fates["not opened"] < 0.67 * flips, fates
    assert fates["not opened"] == 0, "found while it is served only"


_NONSENSE = {
    "size_bytes": ["NULL", "'twelve'", "CAST(x'ff00' AS TEXT)", "x'01'", "-5", "1.5"],
    "start_index": ["NULL", "'one'", "x'01'", "-1"],
    "packed_id": ["'x'", "x'00ff'", "0.5"],
    "digest": ["CAST(digest AS TEXT)", "substr(digest, 2)", "'short'", "x''", "17"],
}
"""What a damaged header makes of a column; the last brings rows out of order, too."""


@pytest.mark.parametrize("size_bytes", [900, 70_000], ids=["packed", "file"])
@pytest.mark.parametrize(("column", "nonsense"), [(name, value) for name in _NONSENSE for value in _NONSENSE[name]])
async def test_a_row_of_nonsense_is_put_right_at_the_start(column, nonsense, size_bytes, tmp_path):
    """The chunk is whole again from its body or its file, whatever column was hit: none of them is the only witness."""
    bodies = {blake3(body).hexdigest(): body for body in (bytes([number]) * size_bytes for number in range(5))}
    async with disk_in(tmp_path) as disk:
        for digest, body in bodies.items():
            await disk.put(Chunk(digest, len(body), (body,)), 3)
    victim = sorted(bodies)[2]
    write_nonsense(tmp_path / "catalog.sqlite", victim, column, nonsense)
    async with disk_in(tmp_path) as disk:
        assert [chunk.digest for chunk in await disk.list_chunks("", "", 10)] == sorted(bodies)
        assert await disk.list_lost("", 10) == []
        assert (await disk.statuses())[0].used_bytes == sum(map(len, bodies.values()))
        for digest, body in bodies.items():
            assert await disk.get(digest) == body
            assert await disk.get_size_bytes(digest) == len(body)


@pytest.mark.parametrize("is_body_there", [True, False], ids=["whole", "gone"])
@pytest.mark.parametrize("size_bytes", [900, 70_000], ids=["packed", "file"])
@pytest.mark.parametrize("column", ["size_bytes", "start_index", "packed_id"])
async def test_a_row_that_turns_into_nonsense_under_a_running_node_is_not_believed(
    column, size_bytes, is_body_there, tmp_path
):
    """It answers no question and is in nobody's way; a read or a put brings it right, or it is lost and comes back."""
    bodies = [bytes([number]) * size_bytes for number in range(3)]
    digest, other, third = (blake3(body).hexdigest() for body in bodies)
    async with disk_in(tmp_path) as disk:
        for name, body in zip((digest, other, third), bodies, strict=True):
            await disk.put(Chunk(name, len(body), (body,)), 3)
        if not is_body_there:
            take_body_away(tmp_path, digest)
        for name in (digest, other, third):
            write_nonsense(tmp_path / "catalog.sqlite", name, column, "'nonsense'")
        assert await disk.has([digest], None) == set()
        assert await disk.list_chunks("", "", 10) == []
        with pytest.raises(ChunkCorruptError):
            await disk.get_size_bytes(digest)
        if is_body_there and (column != "packed_id" or size_bytes > 64 * KIB):
            assert await disk.get(digest) == bodies[0]
        else:
            with pytest.raises(ChunkCorruptError):
                await disk.get(digest)
            assert [lost.digest for lost in await disk.list_lost("", 10)] == [digest]
            assert await disk.restore(Chunk(digest, len(bodies[0]), (bodies[0],)))
        assert (await disk.put(Chunk(other, size_bytes, (bodies[1],)), 2)).created
        assert await disk.delete(third)
        for name, body in zip((digest, other), bodies, strict=False):
            assert await disk.get(name) == body
            assert await disk.get_size_bytes(name) == size_bytes
        assert {chunk.digest for chunk in await disk.list_chunks("", "", 10)} == {digest, other}
        assert disk.reasons_against_writes() == []
        sums = await disk.sums(None)
    async with disk_in(tmp_path) as disk:
        counted = [(found.chunk_count, found.checksum) for found in await disk.sums(None)]
        assert counted == [(found.chunk_count, found.checksum) for found in sums]


async def test_a_wrong_length_in_a_row_is_found_by_reading_and_put_right(tmp_path):
    """A bit within the number itself: the type is right, and only the bytes can tell."""
    body = bytes(900)
    digest = blake3(body).hexdigest()
    async with disk_in(tmp_path) as disk:
        await disk.put(Chunk(digest, len(body), (body,)), 3)
    write_nonsense(tmp_path / "catalog.sqlite", digest, "size_bytes", "901")
    async with disk_in(tmp_path) as disk:
        assert await disk.reread(digest) == body
        assert await disk.get_size_bytes(digest) == 900
        assert (await disk.statuses())[0].used_bytes == 900


async def test_nonsense_in_the_small_tables_hinders_nothing(tmp_path):
    """Lost chunks, pending unlinks and the position of the scrub; at the start and later."""
    nonsense = [
        "INSERT INTO lost VALUES ('text', 'x'), (x'00', NULL), (17, 1), (CAST(x'ff' AS TEXT), 1)",
        "INSERT INTO lost VALUES (zeroblob(32), 'x')",
        "INSERT INTO pending_unlinks VALUES ('text'), (x'00'), (17), (CAST(x'ff' AS TEXT))",
        "INSERT OR REPLACE INTO positions VALUES ('scrub', CAST(x'ff' AS TEXT))",
    ]

    async def check(disk: DiskTier) -> None:
        assert await disk.list_lost("", 10) == [LostChunk("00" * 32, 0)]
        assert (await disk.statuses())[0].lost_chunk_count == 1
        assert await disk.scrub_position() == ""
        assert disk.reasons_against_writes() == []

    async with disk_in(tmp_path) as disk:
        run_sql(tmp_path / "catalog.sqlite", *nonsense)
        await check(disk)
    async with disk_in(tmp_path) as disk:
        await check(disk)


def take_body_away(folder: Path, digest: str) -> None:
    key = f"x'{digest}'"
    run_sql(
        folder / "catalog.sqlite",
        f"DELETE FROM packed WHERE id = (SELECT packed_id FROM chunks WHERE digest = {key})",
    )
    for path in folder.rglob(f"*{digest}*"):
        path.unlink()


def write_nonsense(database: Path, digest: str, column: str, nonsense: str) -> None:
    run_sql(database, f"UPDATE chunks SET {column} = {nonsense} WHERE digest = x'{digest}'")


def run_sql(database: Path, *statements: str) -> None:
    """Past the declared types and NOT NULL, which guard what is written and not what is read."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=10)) as sql:
        sql.execute("PRAGMA writable_schema=ON")
        sql.execute(
            "UPDATE sqlite_schema SET sql = replace(replace(sql, 'INTEGER NOT NULL', 'BLOB'), 'BLOB NOT NULL', 'BLOB')"
        )
        sql.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'packed_id INTEGER', 'packed_id BLOB') WHERE name = 'chunks'"
        )
    with closing(sqlite3.connect(database, isolation_level=None, timeout=10)) as sql:
        for statement in statements:
            sql.execute(statement)
