"""Is there room? Refuses writes before the file system is really full, so that deletes and repairs still work (S-85).

Asking the file system may hang with a sick disk, so only threads ask; the last measurement is kept for the event loop.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from services.storage.metrics import StorageMetrics
from shared.errors import DiskFullError

FRESH_S: Final = 1.0
"""So old may a measurement be to grant room by it. A write that finds none by it has the file system asked."""


@dataclass(frozen=True, slots=True)
class SpaceUsage:
    """A file system as `df` counts it: what only root may use is no room. Inodes are 0 where none are reported (btrfs)."""

    size_bytes: int
    used_bytes: int
    free_bytes: int
    used_inodes: int
    free_inodes: int


class FreeSpace:
    """The room for chunks under one folder. May be used from any thread."""

    def __init__(
        self,
        path: Path,
        capacity_limit_bytes: int | None,
        full_percent: int,
        typical_chunk_bytes: int = 1,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask nothing yet.

        Args:
            path: where chunks lie.
            capacity_limit_bytes: what the operator grants this node, or None for the whole file system.
            full_percent: from here on writes are refused, for bytes and for inodes alike.
            typical_chunk_bytes: a node without room for this much is called full.
        """
        self._path = path
        self._capacity_limit_bytes = capacity_limit_bytes
        self._full_percent = full_percent
        self._typical_chunk_bytes = typical_chunk_bytes
        self._now_s = now_s
        self._usage: SpaceUsage | None = None
        self._measured_at_s = -math.inf
        self._granted_bytes = 0

    @property
    def usage(self) -> SpaceUsage | None:
        """What the file system said last; None before it was asked."""
        return self._usage

    def measure(self) -> SpaceUsage:
        """Ask the file system. Blocks for one system call."""
        found = os.statvfs(self._path)
        self._measured_at_s = self._now_s()
        self._granted_bytes = 0
        self._usage = SpaceUsage(
            size_bytes=found.f_blocks * found.f_frsize,
            used_bytes=(found.f_blocks - found.f_bfree) * found.f_frsize,
            free_bytes=found.f_bavail * found.f_frsize,
            used_inodes=found.f_files - found.f_ffree if found.f_files else 0,
            free_inodes=found.f_favail if found.f_files else 0,
        )
        return self._usage

    def capacity_bytes(self) -> int:
        """What this node may hold at most. Blocks."""
        size_bytes = self.measure().size_bytes
        return size_bytes if self._capacity_limit_bytes is None else min(size_bytes, self._capacity_limit_bytes)

    def check(self, incoming_bytes: int, used_bytes: int) -> None:
        """Pass while there is room for `incoming_bytes` more. Blocks for one system call.

        Args:
            used_bytes: what this node's chunks take already; counts against what the operator grants.

        Raises:
            DiskFullError: the reserve would be touched; definite.
        """
        refusal = self._refusal(self.measure(), incoming_bytes, used_bytes)
        if refusal is not None:
            raise refusal

    def grant(self, size_bytes: int, used_bytes: int, promised_bytes: int = 0) -> bool:
        """Whether the last measurement is fresh and has room for `size_bytes` behind what was granted since. Does not block.

        Args:
            promised_bytes: that will be stored later; some may have been granted since, and count twice.
        """
        usage = self._usage
        if usage is None or self._now_s() - self._measured_at_s > FRESH_S:
            return False
        granted_bytes = self._granted_bytes + size_bytes
        if self._refusal(usage, granted_bytes + promised_bytes, used_bytes) is not None:
            return False
        self._granted_bytes = granted_bytes
        return True

    def refusals(
        self, sizes_bytes: Sequence[int], used_bytes: int, promised_bytes: int = 0
    ) -> list[DiskFullError | None]:
        """As `check` of each, in order and behind those that have room; None for these. Blocks for one system call."""
        usage = self.measure()
        granted_bytes = promised_bytes
        found: list[DiskFullError | None] = []
        for size_bytes in sizes_bytes:
            refusal = self._refusal(usage, granted_bytes + size_bytes, used_bytes)
            granted_bytes += size_bytes if refusal is None else 0
            found.append(refusal)
        return found

    def shortage(self, used_bytes: int) -> str | None:
        """Why there was no room for a typical chunk at the last measurement; None if there was. Does not block."""
        usage = self._usage
        refusal = None if usage is None else self._refusal(usage, self._typical_chunk_bytes, used_bytes)
        return None if refusal is None else refusal.message

    def publish(self, metrics: StorageMetrics) -> None:
        """Have `metrics` show the last measurement."""
        for gauge, unit in ((metrics.disk_bytes, "bytes"), (metrics.disk_inodes, "inodes")):
            for part in ("used", "free"):
                gauge.labels(part=part).set_function(partial(self._shown, f"{part}_{unit}"))

    def _shown(self, name: str) -> float:
        return math.nan if self._usage is None else float(getattr(self._usage, name))

    def _refusal(self, usage: SpaceUsage, incoming_bytes: int, used_bytes: int) -> DiskFullError | None:
        limit_bytes = self._capacity_limit_bytes
        if limit_bytes is not None and (used_bytes + incoming_bytes) * 100 > limit_bytes * self._full_percent:
            return DiskFullError(
                "This node holds as much as it was granted.", used_bytes=used_bytes, capacity_bytes=limit_bytes
            )
        total_bytes = usage.used_bytes + usage.free_bytes
        if (usage.used_bytes + incoming_bytes) * 100 > total_bytes * self._full_percent:
            return DiskFullError(
                "The file system has reached its reserve.", used_bytes=usage.used_bytes, capacity_bytes=total_bytes
            )
        total_inodes = usage.used_inodes + usage.free_inodes
        if usage.used_inodes * 100 > total_inodes * self._full_percent:
            return DiskFullError("The file system has hardly any inodes left.", free_inodes=usage.free_inodes)
        return None
