"""What `make images` builds: small, labelled, without an installer, and nothing left over."""

from __future__ import annotations

import json

import pytest

from tests.containers.conftest import Deployment
from tests.containers.packages import PYTHON_IMAGE

pytestmark = [pytest.mark.containers, pytest.mark.root, pytest.mark.timeout(900)]

LIMIT_BYTES = {"clock": 80e6, "consensus": 80e6, "gateway": 100e6, "storage": 80e6}
"""Above the base image."""

SERVICES = tuple(LIMIT_BYTES)


def inspect(deployment: Deployment, image: str) -> dict:
    return json.loads(deployment.engine.run("docker", "image", "inspect", image))[0]


def sh(deployment: Deployment, image: str, script: str) -> str:
    return deployment.engine.run("docker", "run", "--rm", "--entrypoint", "/bin/sh", image, "-c", script).strip()


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_small(deployment, images, service) -> None:
    """Over the base that all four share."""
    above = inspect(deployment, images[service])["Size"] - inspect(deployment, PYTHON_IMAGE)["Size"]
    print(f"{service}: {above / 1e6:.0f} MB above the base")
    assert 0 < above <= LIMIT_BYTES[service]


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_says_what_it_is_and_runs_as_nobody(deployment, images, service) -> None:
    """OCI labels with version and commit."""
    config = inspect(deployment, images[service])["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["title"] == f"trivet-{service}"
    assert images[service].endswith(f":{labels['version']}")
    assert {"description", "licenses", "revision"} <= labels.keys()
    assert config["User"] == "10001:10001"
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "/bin/bash"]


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_no_installer_and_no_other_service(deployment, images, service) -> None:
    """What is not there has no holes."""
    image = images[service]
    installers = " -o ".join(
        f"-name {name}" for name in ("pip", "'pip-*'", "setuptools", "'setuptools-*'", "ensurepip")
    )
    assert sh(deployment, image, f"find /venv /usr/local/lib {installers}") == ""
    others = {line for line in sh(deployment, image, "ls /app/services").split() if not line.startswith("__")}
    assert others == {service, "probe.sh"}


def test_each_image_is_built_once(deployment, images) -> None:
    """An image without a name is one that was built and replaced at once."""
    assert deployment.engine.run("docker", "image", "ls", "--quiet", "--filter", "dangling=true") == ""
    names = deployment.engine.run("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert sorted(name for name in names if name.startswith("trivet-")) == sorted(images.values())
