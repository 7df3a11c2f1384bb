"""What the tests of the client share."""

from __future__ import annotations

import pytest

from local_cluster.cluster import Cluster
from tests.integration.client.cli.command_line import CommandLine


@pytest.fixture
def trivet(cluster: Cluster, tmp_path, capsys, monkeypatch) -> CommandLine:
    """The program `trivet`, called in an empty folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    return CommandLine(cluster, folder, capsys, monkeypatch)
