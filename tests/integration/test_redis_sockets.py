"""The Redis servers of a local cluster listen on Unix sockets of their owner, and on no port."""

from __future__ import annotations

import asyncio
import shutil
import stat
from pathlib import Path

import psutil
import pytest

from local_cluster.cluster import Cluster
from local_cluster.plan import Kind
from tests.free_ports import free_port_offset

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("folder", ["short", "with a space, 100 % ünïcode? and #", "long" * 30])
def test_a_cluster_s_redis_answers_on_a_private_socket_only(tmp_path: Path, folder: str) -> None:
    """Whatever the folder of the cluster is called: no port, a socket of mode 0600 in a folder of mode 0700."""
    cluster = Cluster(tmp_path / folder, free_port_offset())
    try:
        servers = cluster.plan.of_kind(Kind.REDIS)
        asyncio.run(cluster.start([spec.name for spec in servers]))
        for spec in servers:
            server = psutil.Process(cluster.pid(spec.name))
            assert server.net_connections("inet") == [], spec.name
            path = cluster.layout.socket(spec.name)
            assert [found.laddr for found in server.net_connections("unix") if found.laddr] == [str(path)]
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        # The socket that a killed server has left is in nobody's way.
        cluster.kill("redis-2")
        asyncio.run(cluster.start([spec.name for spec in servers]))
    finally:
        cluster.kill_all()
        if cluster.layout.sockets != cluster.layout.run:
            shutil.rmtree(cluster.layout.sockets)
