"""A small file system in memory, for running out of bytes or of inodes."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Tmpfs:
    """Mounted from `make` to `remove`."""

    def __init__(self, folder: Path, options: tuple[str, ...]) -> None:
        self.folder = folder
        self._options = options

    def make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ",".join(("mode=0755", *self._options))
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "trivet-faults", str(self.folder)], check=True)

    def resize(self, *options: str) -> None:
        """Give it other limits while it is in use."""
        subprocess.run(["mount", "-o", ",".join(("remount", *options)), str(self.folder)], check=True)

    def remove(self) -> None:
        if self.folder.is_mount():
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
