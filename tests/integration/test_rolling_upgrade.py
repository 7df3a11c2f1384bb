"""A cluster of the base release becomes one of this version while it is stopped, and not while it serves.

The base release (`tests/upgrade/base.toml`) is two before this one. It proves itself with the cluster secret, which 0.3.0 still
took beside the keys of pairs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local_cluster.cluster import Cluster
from local_cluster.errors import LocalClusterError
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


def test_a_cluster_of_the_base_release_is_upgraded_while_it_is_stopped(cluster: Cluster) -> None:
    """What was stored is there, and no process is told the secret that all of them had."""
    body = put_and_get(cluster, "before")
    asyncio.run(cluster.stop())
    asyncio.run(cluster.start())
    put_and_get(cluster, "after")
    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False) as client:
        assert client.get("/v1/files/default/before").content == body
    assert all("TRIVET_CLUSTER_SECRET_FILE" not in spec.environment for spec in cluster.plan.processes)


def test_a_release_that_is_skipped_is_refused(cluster: Cluster) -> None:
    """A member of this version beside processes of the base release: it takes nothing from them, and they go on serving."""
    body = put_and_get(cluster, "before")
    asyncio.run(cluster.stop(["consensus-3"]))
    with pytest.raises(LocalClusterError, match="consensus-3"):
        asyncio.run(cluster.start(["consensus-3"], timeout_s=10))
    assert "or runs version 0.2.0" in cluster.layout.log_file("consensus-3").read_text(encoding="utf-8")
    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False) as client:
        assert client.get("/v1/files/default/before").content == body
        assert client.put("/v1/files/default/beside", content=b"x").is_success
