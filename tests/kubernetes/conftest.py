"""One Kubernetes per file, with the images of this tree and a checkout of its own to deploy from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from local_cluster.settings import PROJECT_ROOT
from tests.containers.conftest import checkout, images, plugins  # noqa: F401 - fixtures
from tests.containers.engine import Engine
from tests.containers.packages import CACHE as CONTAINERS
from tests.kubernetes.cluster import PAUSE_IMAGE, Kubernetes
from tests.kubernetes.deployment import Deployment
from tests.kubernetes.programs import CACHE, require_programs

NAMED = yaml.safe_load((PROJECT_ROOT / "k8s" / "base" / "kustomization.yaml").read_text())["images"]
VERSION = next(each["newTag"] for each in NAMED if each["name"] == "trivet-gateway")
VERSIONS = (VERSION, f"{VERSION}-again")
"""The one that the manifests name, and another tag of the same images to upgrade to."""


@pytest.fixture(scope="session")
def archive(request) -> Path:
    """The images, of both versions, as a registry would give them."""
    require_programs()
    names = list(request.getfixturevalue("images").values())
    (redis,) = [f"{each['name']}:{each['newTag']}" for each in NAMED if each["name"] == "redis"]
    saved = [*names, redis, PAUSE_IMAGE]
    with Engine(CONTAINERS / "docker", request.getfixturevalue("plugins")) as engine:
        for name in names:
            saved.append(name.replace(*VERSIONS))
            engine.run("docker", "tag", name, saved[-1])
        # It holds the network of a pod, and does nothing.
        container = engine.run("docker", "create", "--network", "none", redis, "pause").strip()
        engine.run(
            "docker",
            "commit",
            "--change",
            'ENTRYPOINT ["/usr/bin/sleep", "infinity"]',
            "--change",
            "CMD []",
            container,
            PAUSE_IMAGE,
        )
        engine.run("docker", "rm", container)
        engine.run("docker", "save", "--output", str(CACHE / "images.tar"), *saved)
        engine.run("docker", "image", "rm", PAUSE_IMAGE, *(name.replace(*VERSIONS) for name in names))
    return CACHE / "images.tar"


@pytest.fixture(scope="module")
def kubernetes(archive: Path) -> Iterator[Kubernetes]:
    """A control plane without nodes."""
    with Kubernetes(CACHE / "run", archive) as started:
        yield started


@pytest.fixture(scope="module")
def deploy(kubernetes: Kubernetes, request) -> Iterator[Callable[[str], Deployment]]:
    """Deploys an overlay; at the end it says how long everything took."""
    made: list[Deployment] = []
    secrets = Path("k8s", "secrets", "kustomization.yaml")

    def deployment(overlay: str) -> Deployment:
        folder = request.getfixturevalue("checkout")
        shutil.copy(PROJECT_ROOT / secrets, folder / secrets)
        made.append(Deployment(kubernetes, folder, overlay, {}))
        return made[-1]

    yield deployment
    for each in made:
        print(f"\n{each.overlay}:")
        for what, took_s in each.seconds.items():
            print(f"{took_s:7.1f} s  {what}")
