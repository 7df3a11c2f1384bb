"""Writes what this version of Trivet leaves on a storage node's disk and in its Redis, for every later version to read.

`python -m tests.golden.make_storage NAME` makes `tests/golden/NAME/storage/`: run it once for a version whose formats changed,
commit the folder, never change it again. `tests/contract/storage/test_golden_folders.py` reads all of them.

    disk/       data folder of a node in mode `disk`, as a crash leaves it: with a write-ahead file, packed and large chunks, a
                deleted chunk whose unlink was not durable, a file without a row, a quarantined chunk
    tiered/     data folder in mode `tiered`, and `redis/` with chunks that only Redis has and copies
    redis/      data folder in mode `redis`, and its `redis/` with recorded and lost chunks
    expected.json   what a reader must find

Bodies are `body_of(number, size_bytes)`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from redis import Redis

from services.storage.disk.free_space import FreeSpace
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk
from services.storage.redis_node.link import RedisAddress, RedisLink
from services.storage.redis_node.server_config import USERNAME
from services.storage.redis_node.tier import RedisTier
from services.storage.tiered.tier import TieredTier
from shared.disk.data_folder import claim_data_dir
from shared.errors import ChunkCorruptError
from shared.units import KIB, MIB
from tests.integration.storage.support import REDIS_PASSWORD, RedisServer, digest_of

FOLDER = Path(__file__).parent
CLUSTER_ID = "golden-cluster"
NODE_ID = "storage-1"
SMALL_LIMIT_BYTES = 16 * KIB
LARGE_BYTES = SMALL_LIMIT_BYTES + 1
NEVER_S = 3600.0


def body_of(number: int, size_bytes: int) -> bytes:
    """Different for every number, and easy to compress."""
    return (b"chunk %d " % number * size_bytes)[:size_bytes]


def chunk_of(number: int, size_bytes: int) -> Chunk:
    """The chunk of that body."""
    body = body_of(number, size_bytes)
    return Chunk(digest_of(body), size_bytes, (body,))


def redis_address(data: Path, url: str) -> RedisAddress:
    """As a node's own."""
    return RedisAddress(
        url, REDIS_PASSWORD, f"{CLUSTER_ID}/{NODE_ID}", data / "redis-claimed", data / "redis-limit", USERNAME
    )


def open_disk(data: Path, metrics: StorageMetrics) -> DiskTier:
    """The disk tier of a claimed folder."""
    return DiskTier(data, space=FreeSpace(data, None, 99), metrics=metrics, small_limit_bytes=SMALL_LIMIT_BYTES)


def open_tiered(data: Path, url: str, *, flush_interval_s: float = NEVER_S) -> TieredTier:
    """The tiered store of a claimed folder and a Redis."""
    metrics = StorageMetrics(CollectorRegistry())
    link = RedisLink(redis_address(data, url), deadline_s=2.0, metrics=metrics)
    disk = open_disk(data, metrics)
    return TieredTier(
        disk,
        link,
        metrics=metrics,
        read_cache_bytes=MIB,
        write_behind_bytes=MIB,
        flush_interval_s=flush_interval_s,
    )


def open_redis(data: Path, url: str) -> RedisTier:
    """The Redis tier of a claimed folder and a Redis."""
    metrics = StorageMetrics(CollectorRegistry())
    return RedisTier(
        RedisLink(redis_address(data, url), deadline_s=2.0, metrics=metrics), metrics=metrics, unlimited_bytes=MIB
    )


def claim(data: Path) -> None:
    """Make the folder a node's own, as its start does."""
    data.mkdir(parents=True, exist_ok=True)
    os.close(claim_data_dir(data, CLUSTER_ID, NODE_ID).lock_fd)


@contextlib.contextmanager
def redis_at(folder: Path) -> Iterator[RedisServer]:
    """A server on the files in `folder`."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


async def describe(tier: Any) -> dict[str, Any]:
    """What a reader finds in a tier: the inventory, sums, lost chunks and the position of the scrub."""
    sums = await tier.sums(None)
    return {
        "chunks": [chunk.model_dump(mode="json") for chunk in await tier.list_chunks("", "", 1000)],
        "sums": [[found.chunk_count, found.used_bytes, f"{found.checksum:x}"] for found in sums if found.chunk_count],
        "lost": [[lost.digest, lost.start_index] for lost in await tier.list_lost("", 1000)],
    }


async def make_disk(folder: Path) -> dict[str, Any]:
    """Copied while the tier is open, as a crash would leave it."""
    live = Path(tempfile.mkdtemp()) / "data"
    claim(live)
    prepare_folder(live)
    async with open_disk(live, StorageMetrics(CollectorRegistry())) as tier:
        for number in range(1, 6):
            await tier.put(chunk_of(number, 100 * number), start_index=number)
        for number in range(11, 15):
            await tier.put(chunk_of(number, LARGE_BYTES + number), start_index=number)
        await tier.delete(chunk_of(2, 200).digest)
        deleted, rotten = chunk_of(12, LARGE_BYTES + 12), chunk_of(13, LARGE_BYTES + 13)
        deleted_path = live / "chunks" / deleted.digest[:2] / deleted.digest
        body = deleted_path.read_bytes()
        await tier.delete(deleted.digest)
        deleted_path.write_bytes(body)
        rotten_path = live / "chunks" / rotten.digest[:2] / rotten.digest
        rotten_path.write_bytes(b"\0" + rotten_path.read_bytes()[1:])
        with contextlib.suppress(ChunkCorruptError):
            await tier.get(rotten.digest)
        await tier.save_scrub_position(chunk_of(1, 100).digest)
        adopted = chunk_of(15, LARGE_BYTES + 15)
        expected = await describe(tier)
        (live / "chunks" / adopted.digest[:2] / adopted.digest).write_bytes(adopted.body())
        copy_data(live, folder / "data")
    return expected | {
        "scrub_position": chunk_of(1, 100).digest,
        "deleted": deleted.digest,
        "adopted": [adopted.digest, adopted.size_bytes],
    }


async def make_tiered(folder: Path) -> dict[str, Any]:
    """Three chunks flushed and copied in Redis, three that only Redis has, a large one."""
    live = Path(tempfile.mkdtemp())
    claim(live / "data")
    prepare_folder(live / "data")
    with redis_at(live / "redis") as server:
        async with open_tiered(live / "data", server.url) as tier:
            for number in range(21, 24):
                await tier.put(chunk_of(number, 100 * number), start_index=number)
            await tier.put(chunk_of(31, LARGE_BYTES), start_index=31)
            await tier.sums(None)  # flushes
            for number in range(24, 27):
                await tier.put(chunk_of(number, 100 * number), start_index=number)
            copy_data(live / "data", folder / "data")
            copy_redis(live / "redis", folder / "redis")
            return await describe(tier)


async def make_redis(folder: Path) -> dict[str, Any]:
    """Recorded, deleted and lost chunks."""
    live = Path(tempfile.mkdtemp())
    claim(live / "data")
    prepare_folder(live / "data")
    with redis_at(live / "redis") as server:
        async with open_redis(live / "data", server.url) as tier:
            for number in range(41, 46):
                await tier.put(chunk_of(number, 100 * number), start_index=number)
            await tier.delete(chunk_of(42, 4200).digest)
            with Redis.from_url(server.url, password=REDIS_PASSWORD) as client:
                client.set(f"trivet:chunk:{chunk_of(43, 4300).digest}", b"rot")
            with contextlib.suppress(ChunkCorruptError):
                await tier.get(chunk_of(43, 4300).digest)
            await tier.save_scrub_position(chunk_of(41, 4100).digest)
            copy_data(live / "data", folder / "data")
            copy_redis(live / "redis", folder / "redis")
            return await describe(tier) | {"scrub_position": chunk_of(41, 4100).digest}


def copy_data(live: Path, folder: Path) -> None:
    """Without the lock, shared memory that no crash of a machine leaves, and empty folders."""
    shutil.copytree(live, folder, ignore=shutil.ignore_patterns("*-shm", "lock", "tmp"))
    for part in (folder / "chunks").iterdir():
        if not any(part.iterdir()):
            part.rmdir()


def copy_redis(live: Path, folder: Path) -> None:
    """The append-only files."""
    shutil.copytree(live, folder, ignore=shutil.ignore_patterns("log"))


def make(folder: Path) -> None:
    """Write everything."""
    expected = {
        kind: asyncio.run(write(folder / kind))
        for kind, write in (("disk", make_disk), ("tiered", make_tiered), ("redis", make_redis))
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.make_storage", description=__doc__)
    parser.add_argument("name", help="format-N")
    folder = FOLDER / parser.parse_args().name / "storage"
    folder.mkdir(parents=True)
    try:
        make(folder)
    except BaseException:
        shutil.rmtree(folder)
        raise


if __name__ == "__main__":
    main()
