"""File systems made for one test: mounted under a folder whose name says who made it, and always taken away again.

A test process that was killed leaves its mounts behind; the next one that makes a mount removes those first.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psutil

from tests.faults.tools.loop_disk import LoopDisk
from tests.faults.tools.tmpfs import Tmpfs

_PREFIX = "trivet-faults"
_NAME = re.compile(rf"{_PREFIX}-(\d+)-(\d+)-")


class Mounts:
    """Makes disks for one test. Invariant: after `__exit__` none of them is mounted and no loop device is left."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        remove_what_the_dead_left()
        started_s = int(psutil.Process().create_time())
        prefix = f"{_PREFIX}-{os.getpid()}-{started_s}-"
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def loop_disk(self, size_bytes: int, mount_point: Path | None = None) -> LoopDisk:
        """A new ext4 in a file of its own, mounted at `mount_point` or at a folder of its choosing."""
        folder = self._new_folder()
        disk = LoopDisk(folder / "image", mount_point or folder / "mounted", size_bytes)
        self._stack.callback(disk.remove)
        disk.make()
        return disk

    def tmpfs(self, *options: str, mount_point: Path | None = None) -> Tmpfs:
        """A new tmpfs; options as `size=8m` or `nr_inodes=700`."""
        memory = Tmpfs(mount_point or self._new_folder() / "mounted", options)
        self._stack.callback(memory.remove)
        memory.make()
        return memory

    def before_removal(self, act: Callable[[], None]) -> None:
        """Call `act`, for example the killing of a process, before the disks that exist now are taken away."""
        self._stack.callback(act)

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))


def remove_what_the_dead_left() -> None:
    """Unmount what test processes that no longer live have mounted, and remove their folders."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        mount_point = line.split(" ")[1]
        found = _NAME.search(mount_point)
        if found is not None and not _lives(int(found[1]), int(found[2])):
            subprocess.run(["umount", "--lazy", mount_point], check=False)
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}-*"):
        found = _NAME.match(folder.name)
        if found is not None and not _lives(int(found[1]), int(found[2])):
            shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: int, started_s: int) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - started_s) < 3
    except psutil.Error:
        return False
