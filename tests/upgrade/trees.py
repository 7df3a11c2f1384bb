"""The sources of a release with an environment of its own, and a cluster of it that runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Final

import pytest

from local_cluster.cluster import Cluster
from local_cluster.settings import PROJECT_ROOT
from tests.free_ports import free_port_offset
from tests.integration.conftest import OVERRIDES

RELEASES: Final = tomllib.loads((PROJECT_ROOT / "tests" / "upgrade" / "base.toml").read_text(encoding="utf-8"))
_ENVIRONMENT: Final = {
    name: value
    for name, value in os.environ.items()  # noqa: TID251 - handed on
    if not name.startswith(("TRIVET_", "VIRTUAL_ENV", "PYTHONPATH"))
}


def installed_tree(commit: str, folder: Path) -> Path:
    """The sources of `commit` in `folder`, installed. Skips the test where they cannot be had."""
    archive = subprocess.run(["git", "archive", commit], cwd=PROJECT_ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"this clone does not have the commit {commit}")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    # What it needs is not what this version needs.
    uv = [str(Path(sys.executable).with_name("uv")), "sync", "--frozen", "--all-groups", "--quiet"]
    command = [*uv, "--python", sys.executable]
    installed = subprocess.run(command, cwd=folder, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    if installed.returncode != 0:
        pytest.skip(f"the packages of {commit} cannot be installed: {installed.stderr}")
    return folder


@contextmanager
def cluster_of(tree: Path, local_dir: Path) -> Iterator[Cluster]:
    """Of that tree, running. The object that drives it is of this version: what it starts again is, too."""
    offset = free_port_offset()
    environment = {
        **_ENVIRONMENT,
        "TRIVET_LOCAL_DIR": str(local_dir),
        "TRIVET_PORT_OFFSET": str(offset),
        **OVERRIDES["clock"],
    }
    command = [str(tree / ".venv" / "bin" / "python"), "-m", "local_cluster", "up"]
    made = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    found = Cluster(local_dir, offset, OVERRIDES)
    try:
        yield found
    finally:
        found.kill_all()
