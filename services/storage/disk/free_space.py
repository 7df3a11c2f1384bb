"""Is there room? Refuses writes before the file system is really full, so that deletes and repairs still work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from shared.errors import DiskFullError


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """The room for chunks under `path`.

    Attributes:
        path: where chunks lie.
        capacity_limit_bytes: what the operator grants this node, or None for the whole file system.
        full_percent: from here on writes are refused, for bytes and for inodes alike.
    """

    path: Path
    capacity_limit_bytes: int | None
    full_percent: int

    def capacity_bytes(self) -> int:
        """What this node may hold at most. Blocks."""
        found = os.statvfs(self.path)
        size_bytes = found.f_blocks * found.f_frsize
        return size_bytes if self.capacity_limit_bytes is None else min(size_bytes, self.capacity_limit_bytes)

    def check(self, incoming_bytes: int, used_bytes: int) -> None:
        """Pass while there is room for `incoming_bytes` more. Blocks for one system call.

        Args:
            used_bytes: what this node's chunks take already; counts against `capacity_limit_bytes`.

        Raises:
            DiskFullError: the reserve would be touched; definite.
        """
        limit_bytes = self.capacity_limit_bytes
        if limit_bytes is not None and (used_bytes + incoming_bytes) * 100 > limit_bytes * self.full_percent:
            raise DiskFullError(
                "This node holds as much as it was granted.", used_bytes=used_bytes, capacity_bytes=limit_bytes
            )
        found = os.statvfs(self.path)
        # As `df` counts: what only root may use is no room.
        taken_bytes = (found.f_blocks - found.f_bfree) * found.f_frsize
        total_bytes = taken_bytes + found.f_bavail * found.f_frsize
        if (taken_bytes + incoming_bytes) * 100 > total_bytes * self.full_percent:
            raise DiskFullError(
                "The file system has reached its reserve.", used_bytes=taken_bytes, capacity_bytes=total_bytes
            )
        taken_inodes = found.f_files - found.f_ffree
        # Some file systems (btrfs) make inodes as they go and report none.
        if found.f_files and taken_inodes * 100 > (taken_inodes + found.f_favail) * self.full_percent:
            raise DiskFullError("The file system has hardly any inodes left.", free_inodes=found.f_favail)
