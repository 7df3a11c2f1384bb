"""D4: the disk of one node says that bytes are durable which are not, and then loses power.

No file system of our own is needed for that: the calls that make bytes durable are answered with success, and not made. What
the log of ext4 had not written by itself is gone with the power, whatever was acknowledged.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from local_cluster.cluster import Cluster
from local_cluster.plan import Shape
from shared.units import KIB, MIB
from tests.faults.disk.file_load import FileLoad
from tests.faults.harness.operator import QUICK, Operator
from tests.faults.tools.loop_disk import LoopDisk
from tests.faults.tools.needs import require
from tests.faults.tools.strace import EVERY_SYNC, Attached, Injection, read_trace
from tests.free_ports import free_port_offset

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(900)]

_SHAPE = Shape(storage_nodes=3, gateways=2)
"""No spare node: one that is slow under strace is written to all the same."""
_LIAR = "storage-2"
_SIZES_BYTES = (20, 10 * KIB, 300 * KIB, MIB + 1)
_FILES = 20
"""Of chunks, on the disk that lies."""
_WITHIN_S = 60.0


def test_what_a_lying_disk_loses_is_found_and_restored(mounts, tmp_path, seed, repetitions):
    """No request fails and no acknowledged file changes; within a minute every replica is back, and verify finds them all."""
    require("strace")
    disk = mounts.loop_disk(512 * MIB, mount_point=tmp_path / "data" / _LIAR)
    overrides = {**QUICK, "clock": {"TRIVET_NTP_SERVERS": "127.0.0.1:9"}}
    cluster = Cluster(tmp_path, free_port_offset(_SHAPE), overrides, _SHAPE)
    mounts.before_removal(cluster.kill_all)
    asyncio.run(cluster.start(timeout_s=120))
    load = FileLoad(cluster, "default", seed, sizes_bytes=_SIZES_BYTES)
    for number in range(repetitions(1, 10)):
        lost = _lie_and_lose_power(cluster, disk, load, tmp_path / f"trace-{number}")
        asyncio.run(cluster.start(timeout_s=120))
        took_s = asyncio.run(_require_rest(Operator(cluster)))
        load.check()
        print(f"{lost} files of chunks were gone; all replicas {took_s:.1f} s after the node was ready")
    assert not load.failures, load.failures[:3]


def _lie_and_lose_power(cluster: Cluster, disk: LoopDisk, load: FileLoad, trace: Path) -> int:
    """How many files of chunks the disk has lost."""
    pid = cluster.pid(_LIAR)
    assert pid is not None
    with Attached(pid, Injection(EVERY_SYNC, "retval=0"), trace), load:
        while len(held := _chunk_files(disk)) < _FILES:
            load.wait_for_more(20)
        disk.cut_power([pid])
        cluster.kill_all([_LIAR])
        load.wait_for_more(20)
    disk.restore_power()
    lost = held - _chunk_files(disk)
    print(f"{len(held)} files of chunks before, {len(read_trace(trace))} syncs that were not made")
    assert lost, "the disk has lost nothing, so nothing was tested"
    return len(lost)


def _chunk_files(disk: LoopDisk) -> set[str]:
    return {path.name for path in (disk.folder / "chunks").glob("*/*") if path.is_file()}


async def _require_rest(operator: Operator) -> float:
    """Seconds until all replicas are there."""
    took_s = await operator.wait_for_replicas(_WITHIN_S)
    report = await operator.verify()
    assert report["is_clean"] is True, report
    return took_s
