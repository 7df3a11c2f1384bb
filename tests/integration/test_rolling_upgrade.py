"""A cluster of the base release becomes one of this version: members one after the other, then the services around them.

The base release (`tests/upgrade/base.toml`) knows the cluster secret only; this version knows pairs of roles. Its gateways and
nodes do not understand the answers of newer members, so they are replaced together once all members are.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tarfile
import time
import tomllib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest

from local_cluster.cluster import Cluster
from local_cluster.settings import PROJECT_ROOT
from tests.chance import random_bytes
from tests.free_ports import free_port_offset
from tests.integration.conftest import OVERRIDES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

BASE = tomllib.loads((PROJECT_ROOT / "tests" / "upgrade" / "base.toml").read_text(encoding="utf-8"))["base"]
WITHIN_S = 60.0
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()  # noqa: TID251 - handed on
    if not name.startswith(("TRIVET_", "VIRTUAL_ENV"))
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The sources of the base release."""
    archive = subprocess.run(["git", "archive", BASE["commit"]], cwd=PROJECT_ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip("this clone does not have the commit of the base release")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(tmp_path / "base", filter="data")
    # What it needs is not what this version needs.
    uv = [
        str(Path(sys.executable).with_name("uv")),
        "sync",
        "--frozen",
        "--all-groups",
        "--quiet",
        "--python",
        sys.executable,
    ]
    installed = subprocess.run(uv, cwd=tmp_path / "base", env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if installed.returncode != 0:
        pytest.skip(f"the packages of the base release cannot be installed: {installed.stderr}")
    return tmp_path / "base"


@pytest.fixture
def cluster(base: Path, tmp_path: Path) -> Iterator[Cluster]:
    """Of the base release, running. The object that drives it is of this version."""
    offset = free_port_offset()
    environment = {
        **ENVIRONMENT,
        "TRIVET_LOCAL_DIR": str(tmp_path / "local"),
        "TRIVET_PORT_OFFSET": str(offset),
        **OVERRIDES["clock"],
    }
    command = [str(base / ".venv" / "bin" / "python"), "-m", "local_cluster", "up"]
    made = subprocess.run(command, cwd=base, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    found = Cluster(tmp_path / "local", offset, OVERRIDES)
    try:
        yield found
    finally:
        found.kill_all()


def put_and_get(cluster: Cluster, key: str) -> bytes:
    """Through the gateway, once more while it is refused for the moment."""
    body, deadline_s = random_bytes(300_000), time.monotonic() + WITHIN_S
    headers = cluster.bearer
    with httpx.Client(base_url=cluster.gateway_url, headers=headers, timeout=30, trust_env=False) as client:
        while True:
            try:
                stored = client.put(f"/v1/files/default/{key}", content=body)
            except httpx.TransportError:
                if time.monotonic() > deadline_s:
                    raise
                continue
            if stored.is_success:
                break
            assert stored.status_code == 503, stored.text
            assert time.monotonic() < deadline_s, stored.text
        assert client.get(f"/v1/files/default/{key}").content == body
    return body


def test_a_cluster_of_the_base_release_is_upgraded(cluster: Cluster) -> None:
    """Members of both versions vote together; at the end no process has the secret, and what was stored is there."""
    body = put_and_get(cluster, "before")
    for member in ("consensus-2", "consensus-3", "consensus-1"):
        asyncio.run(cluster.restart(member))
    others = [name for name in cluster.names() if not name.startswith("consensus")]
    asyncio.run(cluster.stop(others))
    asyncio.run(cluster.start())
    put_and_get(cluster, "upgraded")
    secret_file = str(cluster.layout.secrets / "cluster-secret")
    assert cluster.plan.get("storage-1").environment["TRIVET_CLUSTER_SECRET_FILE"] == secret_file
    assert cluster.finish_upgrade()
    for number, names in enumerate((["clock-1", "consensus-1", "storage-1"], ["consensus-2", "storage-2"])):
        for name in names:
            asyncio.run(cluster.restart(name))
        put_and_get(cluster, f"mixed-{number}")
    for name in ("consensus-3", "storage-3", "gateway-1"):
        asyncio.run(cluster.restart(name))
    put_and_get(cluster, "after")
    assert all("TRIVET_CLUSTER_SECRET_FILE" not in spec.environment for spec in cluster.plan.processes)
    assert not cluster.finish_upgrade()
    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False) as client:
        assert client.get("/v1/files/default/before").content == body
