"""A cluster of the base release becomes one of this version: members one after the other, then the services around them.

The base release (`tests/upgrade/base.toml`) knows the cluster secret only; this version knows pairs of roles. Its gateways and
nodes do not understand the answers of newer members, so they are replaced together once all members are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local_cluster.cluster import Cluster
from tests.chance import random_bytes
from tests.upgrade.trees import RELEASES, cluster_of, installed_tree

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

WITHIN_S = 60.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Of the base release, running."""
    with cluster_of(installed_tree(RELEASES["base"]["commit"], tmp_path / "base"), tmp_path / "local") as running:
        yield running


def put_and_get(cluster: Cluster, key: str) -> bytes:
    """Through the gateway, once more while it is refused for the moment."""
    body, deadline_s = random_bytes(300_000), time.monotonic() + WITHIN_S
    headers = cluster.bearer
    with httpx.Client(base_url=cluster.gateway_url, headers=headers, timeout=30, trust_env=False) as client:
        while True:
            try:
                stored = client.put(f"/v1/files/default/{key}", content=body)
            except httpx.TransportError:
                if time.monotonic() > deadline_s:
                    raise
                continue
            if stored.is_success:
                break
            assert stored.status_code == 503, stored.text
            assert time.monotonic() < deadline_s, stored.text
        assert client.get(f"/v1/files/default/{key}").content == body
    return body


def test_a_cluster_of_the_base_release_is_upgraded(cluster: Cluster) -> None:
    """Members of both versions vote together; at the end no process has the secret, and what was stored is there."""
    body = put_and_get(cluster, "before")
    for member in ("consensus-2", "consensus-3", "consensus-1"):
        asyncio.run(cluster.restart(member))
    others = [name for name in cluster.names() if not name.startswith("consensus")]
    asyncio.run(cluster.stop(others))
    asyncio.run(cluster.start())
    put_and_get(cluster, "upgraded")
    secret_file = str(cluster.layout.secrets / "cluster-secret")
    assert cluster.plan.get("storage-1").environment["TRIVET_CLUSTER_SECRET_FILE"] == secret_file
    assert cluster.finish_upgrade()
    for number, names in enumerate((["clock-1", "consensus-1", "storage-1"], ["consensus-2", "storage-2"])):
        for name in names:
            asyncio.run(cluster.restart(name))
        put_and_get(cluster, f"mixed-{number}")
    for name in ("consensus-3", "storage-3", "gateway-1"):
        asyncio.run(cluster.restart(name))
    put_and_get(cluster, "after")
    assert all("TRIVET_CLUSTER_SECRET_FILE" not in spec.environment for spec in cluster.plan.processes)
    assert not cluster.finish_upgrade()
    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False) as client:
        assert client.get("/v1/files/default/before").content == body
