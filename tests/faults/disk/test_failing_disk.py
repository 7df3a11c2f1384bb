"""D5 and D16: a disk that fails a sync, cannot be read, or turns read-only under a storage node."""

from __future__ import annotations

import asyncio
import time

import pytest

from shared.errors import ChunkCorruptError, UnavailableError
from shared.units import MIB
from tests.chance import random_bytes
from tests.faults.disk.chunk_load import ChunkLoad
from tests.faults.disk.node_on_disk import NodeOnDisk
from tests.faults.tools.needs import require
from tests.faults.tools.strace import EVERY_READ, Attached, Injection
from tests.integration.storage.support import ChunkClient, StorageProcess, digest_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.mark.parametrize("mode", ["disk", "tiered"])
@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
async def test_one_failed_sync_ends_all_success(call, mode, seed, start_node, redis, tmp_path):
    """EIO once in each thread, then success again: whatever began after the first refusal is refused, reads go on."""
    require("strace")
    node = start_node(mode=mode, redis=redis, extra={"TRIVET_FLUSH_INTERVAL_S": "0.2"})
    load = ChunkLoad(seed)
    async with load.running(node):
        await load.wait_for_more(30)
    with Attached(node.process.pid, Injection(call, "error=EIO", "1"), tmp_path / "trace"):
        async with load.running(node):
            ends = time.monotonic() + 60
            while not node_refuses(node):
                assert time.monotonic() < ends, "a sync failed, and the node goes on acknowledging"
                await asyncio.sleep(0.01)
        await everything_is_refused(node)
    await everything_is_refused(node)  # though the disk is well again
    await load.check(node)
    node.kill()
    node.start()
    await load.check(node)


def node_refuses(node: StorageProcess) -> bool:
    return any("failed" in reason for reason in node.reasons())


async def everything_is_refused(node: StorageProcess) -> None:
    client = ChunkClient(node)
    try:
        for size_bytes in (20, 4096, 300_000) * 5:
            with pytest.raises(UnavailableError) as caught:
                await client.put(random_bytes(size_bytes))
            assert caught.value.definite
        assert (await client.status())["is_accepting_writes"] is False
    finally:
        await client.peers.aclose()


@pytest.mark.parametrize("size_bytes", [4096, 300_000], ids=["packed", "file"])
async def test_a_chunk_that_cannot_be_read_is_an_error_and_never_a_wrong_byte(
    size_bytes, start_node, client_of, tmp_path
):
    """EIO from the medium: this replica is given up, the others of the node are served."""
    require("strace")
    node = start_node(mode="disk")
    client = client_of(node)
    bodies = [random_bytes(size_bytes) for _ in range(2)]
    for body in bodies:
        await client.put(body)
    node.stop()
    node.start()  # nothing of it is in a cache of the process
    client = client_of(node)
    digest = digest_of(bodies[0])
    paths = (
        [node.data_dir / "catalog.sqlite"] if size_bytes < 10_000 else [node.data_dir / "chunks" / digest[:2] / digest]
    )
    with Attached(node.process.pid, Injection(EVERY_READ, "error=EIO", paths=paths), tmp_path / "trace"):
        with pytest.raises((ChunkCorruptError, UnavailableError)):
            await client.get(digest)
        if size_bytes > 10_000:
            assert await client.get(digest_of(bodies[1])) == bodies[1]


@pytest.mark.parametrize("mode", ["disk", "tiered"])
async def test_a_disk_that_turns_read_only_leaves_service(mode, mounts, seed):
    """Writes are refused from then on, /readyz says why, reads are right; after the repair nothing acknowledged is missing."""
    machine = NodeOnDisk(mounts, mounts.loop_disk(256 * MIB), mode, TRIVET_FLUSH_INTERVAL_S="0.2")
    load = ChunkLoad(seed)
    async with load.running(machine.node):
        await load.wait_for_more(40)
        machine.disk.become_read_only()
        async with asyncio.timeout(60):
            while not machine.node.reasons() or (await status_of(machine.node))["is_accepting_writes"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    await everything_is_refused(machine.node)
    await load.check(machine.node)
    machine.kill()
    machine.disk.restore_power()
    machine.start()
    await load.check(machine.node)


async def status_of(node: StorageProcess) -> dict[str, object]:
    client = ChunkClient(node)
    try:
        return await client.status()
    finally:
        await client.peers.aclose()
