"""What a power cut at this moment would leave of small files: every durable write is held against it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


class Synced:
    """What the disk holds for certain: of each file the bytes, of each folder the names, as they were when last synced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._found: dict[int, object] = {}
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._sync)

    def _sync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}")
        self._found[os.fstat(descriptor).st_ino] = self._now(path)

    @staticmethod
    def _now(path: Path) -> object:
        return sorted(os.listdir(path)) if path.is_dir() else path.read_bytes()  # noqa: PTH208 a descriptor's path

    def has_name(self, path: Path) -> bool:
        """Whether a power cut now would leave something under that name."""
        names = self._found.get(path.parent.stat().st_ino)
        return isinstance(names, list) and path.name in names

    def is_whole(self, path: Path) -> bool:
        """Whether a power cut now would leave `path` as it is."""
        return self._found.get(path.stat().st_ino) == self._now(path)

    def is_kept(self, path: Path) -> bool:
        """Whether a power cut now would leave `path` under its name and as it is."""
        return self.has_name(path) and self.is_whole(path)
