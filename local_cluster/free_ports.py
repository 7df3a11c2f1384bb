"""Finds a place for one more cluster on this machine: for tests and benchmarks, which run beside others."""

from __future__ import annotations

import random
import socket
from typing import Final

from local_cluster.errors import LocalClusterError
from local_cluster.plan import DEFAULT_SHAPE, HOST, Shape, all_ports

OFFSETS: Final = range(100, 23_700)
"""Below the ports that the system hands out for outgoing connections (from 32768 on Linux)."""

_ATTEMPTS: Final = 200


def free_port_offset(among: range = OFFSETS, shape: Shape = DEFAULT_SHAPE) -> int:
    """An offset with which every port of a cluster of this shape is free now. Raises LocalClusterError.

    Nothing is reserved: callers that look at the same time give ranges that are apart.
    """
    draw = random.SystemRandom()
    for _ in range(_ATTEMPTS):
        offset = draw.choice(among)
        if all(_is_free(port) for port in all_ports(offset, shape)):
            return offset
    raise LocalClusterError("No range of free ports was found on this machine.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
