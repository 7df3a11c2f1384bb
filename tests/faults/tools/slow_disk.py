"""A disk of few bytes per second, by the block throttle of cgroup v1. Where that is missing, delay calls with strace."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Self

BLKIO = Path("/sys/fs/cgroup/blkio")


class WriteThrottle:
    """Within a `with`, the processes given to `add` write at most `bytes_per_s` to the loop device."""

    def __init__(self, device: str, bytes_per_s: int) -> None:
        number = os.stat(device).st_rdev  # noqa: PTH116 pathlib has no shorter way to a device number
        self._rule = f"{os.major(number)}:{os.minor(number)} {bytes_per_s}"

    def __enter__(self) -> Self:
        self._group = Path(tempfile.mkdtemp(prefix="trivet-faults-", dir=BLKIO))
        (self._group / "blkio.throttle.write_bps_device").write_text(self._rule)
        return self

    def add(self, pid: int) -> None:
        (self._group / "cgroup.procs").write_text(str(pid))

    def __exit__(self, *_: object) -> None:
        for pid in (self._group / "cgroup.procs").read_text().split():
            (BLKIO / "cgroup.procs").write_text(pid)
        self._group.rmdir()
