"""Whose connection is this? The kernel knows which process holds the other end of a socket on this machine.

So one proxy before a port can tell links apart by their source, whatever URL the caller was given: members hand each other's
addresses on, and a proxy per pair of processes would be walked around.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

OUTSIDE = "outside"
"""A caller that is no process of the cluster: the test itself, or one that has ended meanwhile."""


class Callers:
    """Finds the process behind a port by its name in the cluster."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids

    def name_of(self, port: int, called_port: int) -> str:
        """The process that connected from 127.0.0.1:`port` to 127.0.0.1:`called_port`."""
        inode = _inode_of(port, called_port)
        if inode is None:
            return OUTSIDE
        link = f"socket:[{inode}]"
        return next((name for name, pid in self._pids().items() if _holds(pid, link)), OUTSIDE)


def _inode_of(port: int, called_port: int) -> str | None:
    ends = f"0100007F:{port:04X} 0100007F:{called_port:04X} "
    with Path("/proc/net/tcp").open(encoding="ascii") as table:
        for line in table:
            if ends in line:
                inode = line.split()[9]
                return None if inode == "0" else inode
    return None


def _holds(pid: int, link: str) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(folder)  # noqa: PTH208 hundreds per call: no objects
    except OSError:
        return False
    # The newest first: the connection has just been made.
    for descriptor in reversed(descriptors):
        try:
            if os.readlink(f"{folder}/{descriptor}") == link:  # noqa: PTH115 as above
                return True
        except OSError:
            continue
    return False
