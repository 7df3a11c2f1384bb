"""What an image installs is what uv.lock names for its service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("clock", "consensus", "gateway", "storage")


@pytest.mark.parametrize("service", SERVICES)
def test_the_lock_of_a_service_is_that_of_the_project(service: str) -> None:
    """`make lock` writes them together."""
    uv = Path(sys.executable).with_name("uv")
    wanted = subprocess.run(
        [uv, "export", "-q", "--frozen", "--offline", "--no-emit-project", "--no-default-groups", "--group", service],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    written = (ROOT / "services" / service / "requirements.lock").read_text()
    assert _requirements(written) == _requirements(wanted), "run `make lock`"


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_installs_the_lock_of_its_service(service: str) -> None:
    """And no other."""
    lines = (ROOT / "services" / service / "Dockerfile").read_text().splitlines()
    copied = [line for line in lines if line.startswith("COPY") and "requirements" in line]
    assert copied == [f"COPY services/{service}/requirements.lock /"]


def _requirements(lock: str) -> list[str]:
    return [line for line in lock.splitlines() if not line.lstrip().startswith("#")]
