"""What a running cluster writes is for its owner only."""

from __future__ import annotations

from pathlib import Path

import httpx

from local_cluster.cluster import Cluster
from shared.units import KIB


def test_no_file_or_folder_of_a_running_cluster_is_open_to_other_users(cluster: Cluster, gateway: httpx.Client) -> None:
    """Catalogs, chunk files, Redis' append-only files, Raft logs, metadata, logs, secrets: nothing for group or others."""
    for size_bytes in (100, 700 * KIB):
        gateway.put(f"/v1/files/default/private-{size_bytes}", content=b"x" * size_bytes).raise_for_status()
    root = cluster.layout.root
    found = [path for path in root.rglob("*") if not path.is_symlink()]
    names = {path.name for path in found}
    assert {"metadata.sqlite", "raft_log.sqlite", "catalog.sqlite"} <= names, "the cluster's files were not looked at"
    assert [f"{_mode(path):o} {path.relative_to(root)}" for path in found if _mode(path) & 0o077] == []


def test_no_process_of_a_cluster_may_leave_a_core(cluster: Cluster) -> None:
    """A core dump would hold secrets and the bytes of files."""
    services = [spec.name for spec in cluster.plan.processes if spec.kind != "redis"]
    limits = {name: Path(f"/proc/{cluster.pid(name)}/limits").read_text() for name in services}
    lines = {name: next(line for line in text.splitlines() if "core file" in line) for name, text in limits.items()}
    assert {name: line.split()[4:6] for name, line in lines.items() if line.split()[4:6] != ["0", "0"]} == {}


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:  # a temporary file of a service at work
        return 0
