"""What the tests of the client share."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from local_cluster.cluster import Cluster
from tests.integration.client.cli.command_line import CommandLine
from tests.integration.conftest import WELL_WITHIN_S, is_well
from tests.waiting import block_until


@pytest.fixture
def trivet(cluster: Cluster, tmp_path, capsys, monkeypatch) -> CommandLine:
    """The program `trivet`, called in an empty folder. The cluster lacks nothing, also after a test that let a node join."""
    block_until(lambda: is_well(cluster), "the cluster is well", WELL_WITHIN_S)
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
