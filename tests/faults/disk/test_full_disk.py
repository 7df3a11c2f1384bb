"""D12 and D14: a storage node whose file system runs out of bytes or of inodes."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from shared.errors import DiskFullError
from shared.units import MIB
from tests.chance import random_bytes
from tests.integration.storage.support import ChunkClient, StorageProcess, digest_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

_CHUNK_BYTES = 500_000


async def fill(client: ChunkClient, size_bytes: int) -> tuple[dict[str, int], DiskFullError]:
    """Put chunks until the node says that it is full."""
    held: dict[str, int] = {}
    while True:
        body = random_bytes(size_bytes)
        try:
            await client.put(body)
        except DiskFullError as error:
            return held, error
        held[digest_of(body)] = len(body)
        assert len(held) < 5000, "it is never full"


async def all_are_right(client: ChunkClient, held: dict[str, int]) -> None:
    assert set(await client.has(list(held))) == set(held)
    for digest in held:
        assert digest_of(await client.get(digest)) == digest


@pytest.mark.parametrize("mode", ["disk", "tiered"])
async def test_a_full_disk_takes_no_writes_and_goes_on_with_the_rest(mode, mounts, start_node, redis, client_of):
    """64 MiB: read-only at 95 %, 507 and certainly not stored; reads and deletes work; with room it writes again."""
    disk = mounts.loop_disk(64 * MIB)
    node = start_node(mode=mode, redis=redis, extra={"TRIVET_DATA_DIR": str(disk.folder / "node")})
    mounts.before_removal(node.kill)
    client = client_of(node)
    held, refusal = await fill(client, _CHUNK_BYTES)
    assert refusal.definite
    usage = shutil.disk_usage(disk.folder)
    assert 0.93 <= usage.used / (usage.used + usage.free) <= 0.955
    small, _ = await fill(client, 4000)
    held |= small
    await all_are_right(client, held)
    for digest in list(held)[:10]:
        await client.delete(digest)
        del held[digest]
    body = random_bytes(_CHUNK_BYTES)
    await client.put(body)
    held[digest_of(body)] = len(body)
    await all_are_right(client, held)


@pytest.mark.parametrize("mode", ["disk", "tiered"])
async def test_a_disk_filled_by_others_is_survived(mode, mounts, start_node, redis, client_of):
    """Not one byte is left: every put is refused with 507, nothing is lost, and nobody has to restart the node afterwards.

    What a measurement of a moment ago granted room may still be taken into Redis, and is not lost either.
    """
    disk = mounts.loop_disk(64 * MIB)
    node = start_node(
        mode=mode, redis=redis, extra={"TRIVET_DATA_DIR": str(disk.folder / "node"), "TRIVET_FLUSH_INTERVAL_S": "0.1"}
    )
    mounts.before_removal(node.kill)
    client = client_of(node)
    held: dict[str, int] = {}
    for size_bytes in (4000, _CHUNK_BYTES) * 10:
        body = random_bytes(size_bytes)
        await client.put(body)
        held[digest_of(body)] = size_bytes
    take_every_byte(disk.folder / "ballast")
    granted, _ = await fill(client, 20)
    held |= granted
    for size_bytes in (20, 4000, _CHUNK_BYTES) * 3:
        with pytest.raises(DiskFullError) as caught:
            await client.put(random_bytes(size_bytes))
        assert caught.value.definite
    await all_are_right(client, held)
    digest = next(iter(held))
    with contextlib.suppress(DiskFullError):  # whether there is room to write the deletion down is not ours to say
        await client.delete(digest)
        del held[digest]
    (disk.folder / "ballast").unlink()
    body = random_bytes(_CHUNK_BYTES)
    await client.put(body)
    held[digest_of(body)] = len(body)
    await all_are_right(client, held)
    assert (await client.status())["is_accepting_writes"] is True
    node.kill()
    node.start()
    await all_are_right(client_of(node), held)


def take_every_byte(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size_bytes in (MIB, 4096, 1):
            try:
                while True:
                    file.write(b"\xff" * size_bytes)
            except OSError:
                continue


async def test_a_disk_without_inodes_takes_no_writes_and_goes_on_with_the_rest(mounts, start_node, client_of):
    """As with bytes: 507 before the last inode is taken, so that SQLite and deletions still have theirs."""
    memory = mounts.tmpfs("size=512m", "nr_inodes=400")
    node: StorageProcess = start_node(mode="disk", extra={"TRIVET_DATA_DIR": str(memory.folder / "node")})
    mounts.before_removal(node.kill)
    client = client_of(node)
    held, error = await fill(client, 70_000)
    assert "inodes" in error.message
    assert os.statvfs(memory.folder).f_favail > 10
    with pytest.raises(DiskFullError):
        await client.put(b"small")
    await all_are_right(client, held)
    for digest in list(held)[:20]:
        await client.delete(digest)
        del held[digest]
    body = random_bytes(70_000)
    await client.put(body)
    held[digest_of(body)] = len(body)
    await all_are_right(client, held)
