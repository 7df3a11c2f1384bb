"""What this machine lacks for the fault tests, in words: nothing is left out silently.

`python -m tests.faults.tools.needs` prints it before `make test-faults`; tests skip with the same words.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.faults.tools.slow_disk import BLKIO


@dataclass(frozen=True, slots=True)
class Need:
    """One ability, what it takes to have it, and what stays untested without it."""

    name: str
    is_there: bool
    advice: str
    untested: str


@cache
def needs() -> tuple[Need, ...]:
    """Every ability that fault tests of this folder ask for."""
    is_root = os.geteuid() == 0
    return (
        Need("strace", bool(shutil.which("strace")), "apt install strace", "crashes and errors at a system call"),
        Need(
            "loop disks",
            is_root and _has("mkfs.ext4", "losetup", "mount") and Path("/dev/loop-control").exists(),
            "run as root with loop devices; apt install e2fsprogs mount",
            "power cuts, full and damaged file systems",
        ),
        Need("tmpfs", is_root and _has("mount"), "run as root", "file systems without inodes"),
        Need(
            "disk throttle",
            is_root and (BLKIO / "blkio.throttle.write_bps_device").exists(),
            "run as root on a kernel with cgroup v1's blkio",
            "a disk of few bytes per second",
        ),
    )


def require(*names: str) -> None:
    """Skip the test unless all of them are there, and say what was not tested."""
    for need in needs():
        if need.name in names and not need.is_there:
            pytest.skip(f"NOT TESTED: {need.untested}: no {need.name} here ({need.advice})")


def _has(*programs: str) -> bool:
    return all(shutil.which(program) for program in programs)


def main() -> None:
    """Say what is missing."""
    missing = [need for need in needs() if not need.is_there]
    for need in missing:
        print(f"trivet: no {need.name} here, so not tested: {need.untested}. To have it: {need.advice}.")
    if not missing:
        print("trivet: this machine has everything that the disk faults need.")


if __name__ == "__main__":
    main()
