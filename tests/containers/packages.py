"""What the machine lacks to run containers, and where it comes from: Debian's packages, and base images made of them.

No image is pulled: the base images that Dockerfiles and docker-compose.yml name are made by debootstrap under those very
names. What takes long to make is kept in `.local/containers`, so the next run has it at once.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from local_cluster.settings import PROJECT_ROOT
from tests.containers.engine import Engine

CACHE: Final = PROJECT_ROOT / ".local" / "containers"
MIRROR: Final = "http://deb.debian.org/debian"
_CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")

_ENGINE: Final = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "runc": "runc",
    "docker": "docker.io",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "nsenter": "util-linux",
    "ip": "iproute2",
}
"""Program and package."""

PYTHON_IMAGE: Final = "python:3.11-slim"
_STAND_INS: Final = ("redis-server", "haproxy", "prometheus", "tzdata")


def require_engine() -> None:
    """Have the engine's programs, or skip and say why not."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: containers: an engine of its own needs root")
    missing = sorted({package for program, package in _ENGINE.items() if not shutil.which(program)})
    if missing:
        if not shutil.which("apt-get"):
            pytest.skip(f"NOT TESTED: containers: {', '.join(missing)} and no apt-get here")
        apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
        subprocess.run([*apt, "update", "-q"], check=True, capture_output=True)
        # --no-remove: an engine of another origin that is installed here stays.
        words = [*apt, "install", "-yq", "--no-install-recommends", "--no-remove", *missing]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"NOT TESTED: containers: {' '.join(words)}: {done.stderr.strip()}")


def compose_plugins() -> Path:
    """A folder with the plugins compose and buildx. Debian 12 has none that can do what we use; those of Debian 13 run there."""
    folder = CACHE / "plugins"
    names = ("docker-compose", "docker-buildx")
    if all((folder / name).exists() for name in names):
        return folder
    work = CACHE / "plugins.new"
    shutil.rmtree(work, ignore_errors=True)
    for name in ("sources", "lists/partial", "archives/partial", "debs", "root"):
        (work / name).mkdir(parents=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (work / "sources" / "trixie.list").write_text(f"deb [signed-by={keyring}] {MIRROR} trixie main\n")
    options = {"Etc::sourcelist": "/dev/null", "Etc::sourceparts": work / "sources", "State::Lists": work / "lists"}
    options |= {"Cache": work, "Cache::archives": work / "archives"}
    apt = ["apt-get", "-q", *(word for key, value in options.items() for word in ("-o", f"Dir::{key}={value}"))]
    subprocess.run([*apt, "update"], check=True, capture_output=True)
    subprocess.run([*apt, "download", *names], cwd=work / "debs", check=True, capture_output=True)
    for package in (work / "debs").glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(work / "root")], check=True)
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copy2(work / "root" / "usr/libexec/docker/cli-plugins" / name, folder / name)
    shutil.rmtree(work)
    return folder


def make_base_images(engine: Engine, redis: str, proxy: str, prometheus: str) -> None:
    """Give `engine` the base image, and images that stand in for the three others, under the names given."""
    have = set(engine.run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}").split())
    if PYTHON_IMAGE not in have:
        certificates = f"ENV PIP_CERT={_CERTIFICATES}"
        _import(engine, _root("python", ("python3.11", "python3.11-venv", "tzdata")), PYTHON_IMAGE, [certificates])
    changes = {
        redis: ["VOLUME /data"],
        proxy: ["USER haproxy"],
        prometheus: ['ENTRYPOINT ["/usr/bin/prometheus"]', "VOLUME /prometheus"],
    }
    for name, lines in changes.items():
        if name not in have:
            _import(engine, _root("others", _STAND_INS), name, lines)


def _import(engine: Engine, tar: Path, name: str, changes: Iterable[str]) -> None:
    engine.run("docker", "import", *(word for line in changes for word in ("--change", line)), str(tar), name)


def _root(name: str, packages: tuple[str, ...]) -> Path:
    """The tar file of Debian's smallest root file system with `packages`."""
    tar = CACHE / f"{name}-{platform.machine()}.tar"
    if tar.exists():
        return tar
    folder = CACHE / f"{name}.new"
    shutil.rmtree(folder, ignore_errors=True)
    base = CACHE / f"base-{platform.machine()}.tar"
    if not base.exists():
        words = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(folder), MIRROR]
        subprocess.run(words, check=True, capture_output=True)
        _pack(folder, base)
        shutil.rmtree(folder)
    folder.mkdir()
    subprocess.run(["tar", "-C", str(folder), "-xf", str(base)], check=True)
    shutil.copy("/etc/resolv.conf", folder / "etc" / "resolv.conf")
    install = f"apt-get install -yq --no-install-recommends {' '.join(packages)}"
    words = [
        "chroot",
        str(folder),
        "sh",
        "-ec",
        f"export DEBIAN_FRONTEND=noninteractive; apt-get update -q; {install}; apt-get clean",
    ]
    subprocess.run(words, check=True, capture_output=True)
    shutil.rmtree(folder / "var/lib/apt/lists")
    # The certificates that this machine trusts, so that a build gets as far as this machine.
    shutil.copy(_CERTIFICATES, folder / _CERTIFICATES.relative_to("/"))
    if name == "python":
        for link in ("python", "python3"):
            (folder / "usr/local/bin" / link).symlink_to("/usr/bin/python3.11")
    else:
        # As in the official images: the user and group of Redis, and the folders that become volumes.
        for path, user, group in (("data", 999, 1000), ("prometheus", 65534, 65534)):
            (folder / path).mkdir()
            os.chown(folder / path, user, group)
    _pack(folder, tar)
    shutil.rmtree(folder)
    return tar


def _pack(folder: Path, tar: Path) -> None:
    new = tar.with_suffix(".new.tar")
    subprocess.run(["tar", "-C", str(folder), "-cf", str(new), "."], check=True)
    new.rename(tar)
