"""What the tests of the client share."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from local_cluster.cluster import Cluster
from tests.integration.client.cli.command_line import CommandLine
from tests.waiting import block_until

DEADLINE_S = 60.0


@pytest.fixture
def trivet(cluster: Cluster, operations: httpx.Client, tmp_path, capsys, monkeypatch) -> CommandLine:
    """The program `trivet`, called in an empty folder. The cluster, which other tests share, lacks nothing."""
    block_until(lambda: not operations.get("/v1/cluster").json()["degraded"], "the cluster is well", DEADLINE_S)
    folder = tmp_path / "work"
    folder.mkdir()
    return CommandLine(cluster, folder, capsys, monkeypatch)


@pytest.fixture
def operations(cluster: Cluster) -> Iterator[httpx.Client]:
    """The operations port, with the root key."""
    with httpx.Client(
        base_url=cluster.operations_url("gateway-1"), headers=cluster.bearer, timeout=30, trust_env=False
    ) as client:
        yield client
