"""A file system on the cluster of the session, in a bucket of each test's own."""

from __future__ import annotations

from typing import Any

import pytest

from local_cluster.cluster import Cluster
from trivet.filesystem import TrivetFileSystem


@pytest.fixture
def storage_options(cluster: Cluster) -> dict[str, Any]:
    """What a user gives pandas: where the store is, and a key."""
    return {"endpoint_url": cluster.gateway_url, "key": str(cluster.layout.root_key)}


@pytest.fixture
def fs(storage_options) -> TrivetFileSystem:
    """As every library gets it: one instance for equal options."""
    return TrivetFileSystem(**storage_options)
