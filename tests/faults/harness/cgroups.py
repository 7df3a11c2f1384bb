"""A process with little memory or little CPU: a cgroup (version 1) of its own, and back where it was afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/cgroup")


@contextmanager
def confined(controller: str, settings: Mapping[str, str], pid: int) -> Iterator[None]:
    """`pid` under `settings` (file name to content) while the body runs; skips where that cannot be done."""
    parent = ROOT / controller
    group = parent / f"trivet-faults-{os.getpid()}-{pid}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"NOT TESTED: a process with little {controller}: no cgroup can be made here ({error})")
    try:
        for name, content in settings.items():
            (group / name).write_text(content)
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            (parent / "cgroup.procs").write_text(left)
        group.rmdir()
