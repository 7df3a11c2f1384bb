"""Ports for the clusters and services of tests that run in several processes at once: each process looks in ranges of its own."""

from __future__ import annotations

import os
import random
import socket
from typing import Final

from local_cluster import free_ports
from local_cluster.plan import HOST, Shape

_GAP = 1000
"""More than the ports of one cluster span, so that neighbours at the ends of two ranges do not meet."""

_WITH_ROOM: Final = Shape(storage_nodes=6)
"""Many tests add a storage node later, or begin with more than others."""

SINGLE: Final = range(61_000, 65_450)
"""Above the ports that the system hands out, which it would give to somebody else before a service that starts has taken them,
and low enough for the operations port that a service takes by default, `ServiceSettings.OPERATIONS_DISTANCE` above its own."""

_given: Final = set[int]()


def free_port_offset(shape: Shape = _WITH_ROOM) -> int:
    """As `local_cluster.free_ports.free_port_offset`, apart from that of every other worker of this test run."""
    return free_ports.free_port_offset(_part_of(free_ports.OFFSETS, gap=_GAP), shape)


def free_port() -> int:
    """One that is free now, by TCP and UDP, and that no test of this run was given before, as long as there are such."""
    left = [port for port in _part_of(SINGLE) if port not in _given] or list(_part_of(SINGLE))
    random.SystemRandom().shuffle(left)
    port = next(port for port in left if _is_free(port))
    _given.add(port)
    return port


def _part_of(every: range, gap: int = 0) -> range:
    """That of this worker."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))  # noqa: TID251 pytest-xdist says it so
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # noqa: TID251 as above
    width = len(every) // count
    start = every.start + worker * width
    return range(start, start + width - gap)


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                return False
    return True
