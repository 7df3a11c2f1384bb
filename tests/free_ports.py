"""Ports for the clusters of tests that run in several processes at once: each process looks in a range of its own."""

from __future__ import annotations

import os
from typing import Final

from local_cluster import free_ports
from local_cluster.plan import Shape

_GAP = 1000
"""More than the ports of one cluster span, so that neighbours at the ends of two ranges do not meet."""

_WITH_ROOM: Final = Shape(storage_nodes=6)
"""Many tests add a storage node later, or begin with more than others."""


def free_port_offset(shape: Shape = _WITH_ROOM) -> int:
    """As `local_cluster.free_ports.free_port_offset`, apart from that of every other worker of this test run."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))  # noqa: TID251 pytest-xdist says it so
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # noqa: TID251 as above
    every = free_ports.OFFSETS
    width = len(every) // count
    start = every.start + worker * width
    return free_ports.free_port_offset(range(start, start + width - _GAP), shape)
