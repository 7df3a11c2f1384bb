"""One engine and one cluster for all tests here: images built from a copy of this tree, then `docker compose up --wait`."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_cluster.container_secrets import make_container_secrets
from local_cluster.settings import PROJECT_ROOT
from tests.containers.engine import Engine
from tests.containers.packages import CACHE, compose_plugins, make_base_images, require_engine

COPIED = (
    "Makefile",
    "README.md",
    "docker-compose.yml",
    ".dockerignore",
    ".ci",
    "compose",
    "k8s",
    "local_cluster",
    "observability",
    "services",
    "shared",
)
FILES = "http://127.0.0.1:8080/v1/files/default"
OPERATIONS = "http://127.0.0.1:8090"
"""As they are published, in the network of the engine."""

IMAGES = ("clock", "consensus", "gateway", "storage")


@dataclass
class Deployment:
    """A checkout of its own whose docker-compose.yml is used as it is.

    Attributes:
        up_s: how long the first `up --wait` took.
    """

    engine: Engine
    checkout: Path
    up_s: float = 0.0

    def run(self, *words: str, timeout_s: float = 300.0) -> str:
        """A command in the checkout, in the engine's network; what it printed. Raises AssertionError when it fails."""
        began_s = time.monotonic()
        printed = self.engine.run(*words, cwd=self.checkout, timeout_s=timeout_s)
        print(f"{time.monotonic() - began_s:6.1f} s  {' '.join(words)[:120]}")
        return printed

    def compose(self, *words: str, timeout_s: float = 300.0) -> str:
        """`docker compose …`."""
        return self.run("docker", "compose", *words, timeout_s=timeout_s)

    def curl(self, *words: str) -> str:
        """With the root key; the body of the answer."""
        return self.run("curl", "-K", "k8s/secrets/curl.conf", "--fail-with-body", "--silent", "--show-error", *words)

    def inspect(self, name: str) -> Any:
        """What the engine says of a container of the project."""
        return yaml.safe_load(self.engine.run("docker", "inspect", f"trivet-{name}-1"))[0]


@pytest.fixture(scope="session")
def plugins() -> Iterator[Path]:
    """The engine's programs are there; one run at a time uses the cache."""
    require_engine()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield compose_plugins()


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a deployment needs of this tree, with secrets of its own."""
    folder = tmp_path_factory.mktemp("checkout") / "trivet"
    folder.mkdir()
    for name in COPIED:
        source = PROJECT_ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "secrets"))
        elif source.exists():
            shutil.copy2(source, folder / name)
    (folder / ".venv").symlink_to((PROJECT_ROOT / ".venv").resolve())
    # Older than .venv, so that make installs nothing.
    os.utime(folder / ".ci" / "uv.txt", (0, 0))
    # Joins and drains take a few heartbeats.
    (folder / ".env").write_text("TRIVET_HEARTBEAT_INTERVAL_S=5\n")
    make_container_secrets(folder / "k8s" / "secrets", folder / ".env")
    return folder


@pytest.fixture(scope="session")
def images(plugins: Path, checkout: Path) -> dict[str, str]:
    """`make images`, with this machine's network; the names of what it built."""
    compose = yaml.safe_load((checkout / "docker-compose.yml").read_text())
    builds = {"services": {f"{name}-1": {"build": {"network": "host"}} for name in IMAGES}}
    (checkout / "network.yml").write_text(yaml.safe_dump(builds))
    with Engine(CACHE / "docker", plugins) as engine:
        make_base_images(engine, *(_default(compose, name) for name in ("redis-1", "proxy", "prometheus")))
        # Under no name, so that what is dangling after this build is what this build left.
        engine.run(
            "sh", "-c", "docker image ls --quiet 'trivet-*' | sort -u | xargs --no-run-if-empty docker image rm --force"
        )
        engine.run("docker", "image", "prune", "--force")
        engine.run(
            "make", "images", cwd=checkout, extra={"COMPOSE_FILE": "docker-compose.yml:network.yml"}, timeout_s=600
        )
    (checkout / "network.yml").unlink()
    return {name: _default(compose, f"{name}-1") for name in IMAGES}


@pytest.fixture(scope="session")
def deployment(plugins: Path, images: dict[str, str], checkout: Path) -> Iterator[Deployment]:
    """An engine in a network of its own, with no container yet."""
    with Engine(CACHE / "docker", plugins, network=f"trivet-{os.getpid()}") as engine:
        deployed = Deployment(engine, checkout)
        try:
            yield deployed
        finally:
            deployed.compose("--profile", "*", "down", "--volumes", "--remove-orphans")


@pytest.fixture(scope="session")
def cluster(deployment: Deployment) -> Deployment:
    """A cluster that is up."""
    began_s = time.monotonic()
    deployment.compose("up", "--detach", "--wait")
    deployment.up_s = time.monotonic() - began_s
    return deployment


def _default(compose: Any, service: str) -> str:
    """The image's name when no variable is set."""
    name = str(compose["services"][service]["image"])
    while "${" in name:
        head, _, rest = name.partition("${")
        variable, _, tail = rest.partition("}")
        name = head + variable.partition(":-")[2] + tail
    return name
