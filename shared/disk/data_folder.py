"""Whose data folder is this? Written once, checked at every start, locked while the process lives.

A folder of another cluster or node would bring back data that nobody stored here, so it is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.disk.durable_files import replace_file
from shared.settings import refuse_to_start

FORMAT_VERSION: Final = 1
_IDENTITY_NAME: Final = "identity.json"
_LOCK_NAME: Final = "lock"
_IGNORED: Final = {"lost+found", _LOCK_NAME}


@dataclass(frozen=True, slots=True)
class ClaimedFolder:
    """A data folder that is ours; `lock_fd` holds it until the process ends, however it ends."""

    path: Path
    lock_fd: int


def claim_data_dir(path: Path, cluster_id: str, node_id: str) -> ClaimedFolder:
    """Make `path` this node's own, or check that it already is; durable before it returns.

    Ends the process with one sentence when the folder belongs to somebody else, is in use or cannot be written.
    """
    try:
        # Not its parents: a disk that was not mounted must not become an empty node on the disk below.
        path.mkdir(mode=0o700, exist_ok=True)
        _make_private(path)
    except OSError as error:
        refuse_to_start(f"the data folder {path} cannot be used: {error.strerror}")
    claimed = lock_data_dir(path)
    try:
        _check_or_write(path, {"format_version": FORMAT_VERSION, "cluster_id": cluster_id, "node_id": node_id})
    except OSError as error:
        refuse_to_start(f"the data folder {path} cannot be used: {error.strerror}")
    return claimed


def hand_over_data_dir(path: Path, old_cluster_id: str, cluster_id: str, node_id: str) -> None:
    """Make a folder of this node in the cluster `old_cluster_id` its folder in `cluster_id`; the caller holds its lock.

    Doing it again changes nothing. Durable on return.

    Raises:
        ValueError: it is another node's, or of a third cluster.
        OSError: it cannot be read or written.
    """
    identity_path = path / _IDENTITY_NAME
    found = json.loads(identity_path.read_bytes())
    if found.get("format_version") != FORMAT_VERSION or found.get("node_id") != node_id:
        raise ValueError(f"{path} is not the data folder of {node_id}")
    if found.get("cluster_id") not in {old_cluster_id, cluster_id}:
        raise ValueError(f"{path} belongs to cluster {found.get('cluster_id')}, not to {old_cluster_id}")
    replace_file(identity_path, json.dumps(found | {"cluster_id": cluster_id}, indent=1).encode())


def lock_data_dir(path: Path) -> ClaimedFolder:
    """Hold the folder as a running service would. Ends the process with one sentence when it is in use."""
    try:
        lock_fd = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        refuse_to_start(f"the data folder {path} cannot be used: {error.strerror}")
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        refuse_to_start(f"the data folder {path} is in use by another process")
    return ClaimedFolder(path, lock_fd)


def _make_private(path: Path) -> None:
    """Shut other users out, also of a folder that an older version made for everybody."""
    try:
        path.chmod(0o700)
    except PermissionError:
        # The mount point of a volume is often root's, with its group as the service's way in.
        return


def _check_or_write(path: Path, ours: dict[str, object]) -> None:
    identity_path = path / _IDENTITY_NAME
    if not identity_path.exists():
        strangers = sorted(entry.name for entry in path.iterdir() if not _is_ignored(entry.name))
        if strangers:
            refuse_to_start(f"the data folder {path} is not empty and not one of Trivet's: it holds {strangers[0]!r}")
        replace_file(identity_path, json.dumps(ours, indent=1).encode())
        return
    try:
        found = json.loads(identity_path.read_bytes())
        version, cluster_id, node_id = (found[name] for name in ours)
    except (ValueError, KeyError, TypeError):
        refuse_to_start(f"{identity_path} is damaged; restore it before this service may start")
    if version != FORMAT_VERSION:
        refuse_to_start(f"the data folder {path} has format {version}; this version reads {FORMAT_VERSION}")
    if cluster_id != ours["cluster_id"]:
        refuse_to_start(f"the data folder {path} belongs to cluster {cluster_id}, not to {ours['cluster_id']}")
    if node_id != ours["node_id"]:
        refuse_to_start(f"the data folder {path} belongs to node {node_id}, not to {ours['node_id']}")


def _is_ignored(name: str) -> bool:
    # A crash while the identity was written leaves its temporary file.
    return name in _IGNORED or name.startswith(f".{_IDENTITY_NAME}.")
