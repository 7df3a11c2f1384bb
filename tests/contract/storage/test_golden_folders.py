"""Folders that older versions left on storage nodes are opened and read by this one (`tests/golden/make_storage.py`)."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.storage.disk.tier import prepare_folder
from services.storage.metrics import StorageMetrics
from shared.partitions import GROUP_COUNT, SetSum, partition_of, sum_of
from shared.partitions import PARTITIONS_PER_GROUP as PER_GROUP
from tests.golden import make_storage as golden
from tests.integration.storage.support import digest_of

FORMATS = sorted(path.parent.name for path in golden.FOLDER.glob("format-*/storage"))


@pytest.fixture(params=FORMATS)
def folder(request, tmp_path) -> Path:
    """A copy: opening a folder may bring it up to date, and these must stay as they are."""
    return Path(shutil.copytree(golden.FOLDER / request.param / "storage", tmp_path / request.param))


def expected_of(folder: Path, mode: str) -> dict[str, Any]:
    return json.loads((folder / "expected.json").read_text())[mode]


def prepare(data: Path) -> None:
    """As `main` does; the claim fails if the identity file is not understood."""
    golden.claim(data)
    prepare_folder(data)


async def assert_holds(tier: Any, expected: dict[str, Any]) -> None:
    """Inventory, sums and lost chunks are as then, and every chunk is read back whole."""
    assert await golden.describe(tier) == expected
    for chunk in expected["chunks"]:
        body = await tier.get(chunk["digest"])
        assert (digest_of(body), len(body)) == (chunk["digest"], chunk["size_bytes"])


def test_there_is_a_first_format():
    """Else all of this would pass with nothing."""
    assert "format-1" in FORMATS


async def test_a_disk_folder_of_then_is_read_after_a_crash(folder):
    """Its write-ahead file is replayed, a deleted chunk stays deleted, a file without a row is adopted."""
    expected = expected_of(folder, "disk")
    position, deleted, (adopted, size_bytes) = (expected.pop(name) for name in ("scrub_position", "deleted", "adopted"))
    expected["chunks"].append({"digest": adopted, "size_bytes": size_bytes, "start_index": 0})
    expected["chunks"].sort(key=lambda chunk: chunk["digest"])
    expected["sums"] = sums_of(expected["chunks"])
    data = folder / "disk" / "data"
    prepare(data)
    async with golden.open_disk(data, StorageMetrics(CollectorRegistry())) as tier:
        await assert_holds(tier, expected)
        assert await tier.scrub_position() == position
    assert not (data / "chunks" / deleted[:2] / deleted).exists()
    with sqlite3.connect(data / "catalog.sqlite") as sql:  # whatever it was made with
        assert sql.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    sql.close()


async def test_a_tiered_folder_of_then_gets_what_only_redis_has(folder):
    """Chunks that were acknowledged by Redis alone are moved to disk and listed."""
    data = folder / "tiered" / "data"
    prepare(data)
    with golden.redis_at(folder / "tiered" / "redis") as server:
        async with golden.open_tiered(data, server.url) as tier:
            await assert_holds(tier, expected_of(folder, "tiered"))


async def test_a_redis_of_then_is_read(folder):
    """In mode `redis`, with its lost chunks and the position of the scrub."""
    expected = expected_of(folder, "redis")
    position = expected.pop("scrub_position")
    data = folder / "redis" / "data"
    prepare(data)
    with golden.redis_at(folder / "redis" / "redis") as server:
        async with golden.open_redis(data, server.url) as tier:
            await assert_holds(tier, expected)
            assert await tier.scrub_position() == position


def sums_of(chunks: list[dict[str, Any]]) -> list[list[Any]]:
    """As `golden.describe` gives them, from an inventory."""
    groups = [SetSum()] * GROUP_COUNT
    for chunk in chunks:
        digest = bytes.fromhex(chunk["digest"])
        groups[partition_of(digest) // PER_GROUP] += sum_of(digest, chunk["size_bytes"])
    return [[found.chunk_count, found.used_bytes, f"{found.checksum:x}"] for found in groups if found.chunk_count]
