"""Whose data folder is this? One cluster's, one service's, one process' at a time.

The bound of the hybrid logical clock lies in it. Two processes on one folder would overwrite each other's bound, and a
folder from elsewhere would start the clock above a bound that was never its own.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Final

from shared.settings import refuse_to_start

FORMAT_VERSION: Final = 1
_IDENTITY_FILE: Final = "identity.json"
_LOCK_FILE: Final = "lock"


def claim_data_dir(path: Path, cluster_id: str, node_id: str) -> int:
    """Make `path` this service's own, or check that it is; the descriptor that holds it until the process ends.

    Ends the process with one sentence when the folder belongs to somebody else, is in use or cannot be written.
    """
    identity = {"format_version": FORMAT_VERSION, "cluster_id": cluster_id, "node_id": node_id}
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock_fd = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _lock(lock_fd, path)
        found = _read(path / _IDENTITY_FILE)
        if found is None:
            _write(path / _IDENTITY_FILE, identity)
            return lock_fd
    except OSError as error:
        refuse_to_start(f"TRIVET_DATA_DIR: {path} cannot be used: {error.strerror}")
    for name, expected in identity.items():
        if found.get(name) != expected:
            refuse_to_start(f"TRIVET_DATA_DIR: {path} has {name} {found.get(name)!r}, this service has {expected!r}")
    return lock_fd


def _lock(lock_fd: int, path: Path) -> None:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        refuse_to_start(f"TRIVET_DATA_DIR: {path} is in use by another process")


def _read(path: Path) -> dict[str, object] | None:
    """The identity on disk; None where there is none yet."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        refuse_to_start(f"TRIVET_DATA_DIR: {path} is damaged")
    return found


def _write(path: Path, identity: dict[str, object]) -> None:
    # A torn file would keep the service from starting, so it appears whole or not at all.
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w") as file:
        json.dump(identity, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
