"""A cluster whose nodes have no room left says so: to operators, to probes, and to those who look at it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import httpx
import pytest

from local_cluster.cluster import Cluster
from shared.units import MIB
from tests.integration.conftest import OVERRIDES
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

CAPACITY_BYTES = 8 * MIB
NODES = 3


@pytest.fixture
def small(tmp_path, free_port_offset) -> Iterator[Cluster]:
    """Three nodes that were granted eight chunks each."""
    settings = {"storage": {"TRIVET_CAPACITY_BYTES": str(CAPACITY_BYTES)}}
    cluster = Cluster(tmp_path / "cluster", free_port_offset(), OVERRIDES | settings)
    try:
        asyncio.run(cluster.start())
        yield cluster
    finally:
        cluster.kill_all()


def test_readiness_says_full_when_every_write_would_be_507(small, seed) -> None:
    """200 all the same, because reads and deletions go on; and `used_bytes` is what the nodes measured."""
    chance = random.Random(seed)
    ready_url = f"{small.operations_url('gateway-1')}/readyz"
    with httpx.Client(base_url=small.gateway_url, headers=small.bearer, timeout=30, trust_env=False) as gateway:
        assert "degraded" not in httpx.get(ready_url, trust_env=False, timeout=30).json()
        written, status = 0, 201
        while status == 201:
            status = gateway.put(f"/v1/files/default/{written}", content=chance.randbytes(MIB)).status_code
            written += 1
            assert written <= CAPACITY_BYTES // MIB, "never full"
        assert status == 507
        block_until(
            lambda: "full" in httpx.get(ready_url, trust_env=False, timeout=30).text, "readiness that says full"
        )
        ready = httpx.get(ready_url, trust_env=False, timeout=30)
        assert ready.status_code == 200
        assert ready.json()["degraded"][0].startswith("full: ")
        # Readiness is about a write quorum; the last node may say so with its next heartbeat.
        block_until(
            lambda: all(node["is_full"] for node in gateway.get("/v1/cluster").json()["nodes"]), "all nodes are full"
        )
        nodes = gateway.get("/v1/cluster").json()["nodes"]
        assert len(nodes) == NODES
        for node in nodes:
            assert (written - 1) * MIB <= node["used_bytes"] <= CAPACITY_BYTES
        assert gateway.get("/v1/files/default/0").status_code == 200
