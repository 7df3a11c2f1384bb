"""D2: the power of the whole cluster is cut at once, again and again; every acknowledged change is there."""

from __future__ import annotations

import asyncio
import random

import pytest

from local_cluster.cluster import Cluster
from shared.units import GIB
from tests.faults.disk.file_load import FileLoad
from tests.free_ports import free_port_offset

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(3600)]


def test_a_cluster_that_loses_power_has_everything_that_it_acknowledged(mounts, tmp_path, seed, repetitions):
    """All eleven processes on one disk: storage, Redis, consensus and clock lose the same instant."""
    disk = mounts.loop_disk(4 * GIB, mount_point=tmp_path / "data")
    cluster = Cluster(tmp_path, free_port_offset(), {"clock": {"TRIVET_NTP_SERVERS": "127.0.0.1:9"}})
    mounts.before_removal(cluster.kill_all)
    asyncio.run(cluster.start(timeout_s=120))
    draw = random.Random(seed)
    load = FileLoad(cluster, "default", seed)
    cuts = repetitions(1, 30)
    for _ in range(cuts):
        with load:
            load.wait_for_more(draw.randrange(20, 150))
            disk.cut_power([cluster.pid(spec.name) for spec in cluster.plan.processes])
            cluster.kill_all()
        disk.restore_power()
        asyncio.run(cluster.start(timeout_s=120))
        load.check()
    print(
        f"{cuts} cuts, {load.successes} requests served, {len(load.files)} files checked, {len(load.failures)} refused"
    )
