"""What services say about their API is true, whatever they are sent: schemathesis against a cluster of its own.

Of its own, because a stranger's proposals may move its clock to the end of time.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local_cluster.cluster import Cluster
from shared.roles import Role
from tests.free_ports import free_port_offset
from tests.integration.conftest import OVERRIDES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(420)]

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
MAX_EXAMPLES = 20
"""Random requests for every operation, besides the examples and the cases that cover its description."""

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
)


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("described"), free_port_offset(), OVERRIDES)
    try:
        asyncio.run(cluster.start())
        yield cluster
    finally:
        cluster.kill_all()


def peer_of(cluster: Cluster, name: str) -> dict[str, str]:
    """What `signing_hooks` needs to call an internal service."""
    keys = (cluster.layout.secrets / f"peer-keys-{Role.OPERATOR}").read_text()
    return {"id": name, "url": cluster.url(name), "role": cluster.peer(name).role, "keys": keys}


def describe(cluster: Cluster) -> dict[str, Any]:
    url = f"{cluster.gateway_url}/v1/cluster"
    described: dict[str, Any] = httpx.get(url, headers=cluster.bearer, trust_env=False, timeout=30).json()
    return described


def ask_everything(url: str, seed: int, folder: Path, credentials: dict[str, str] | None = None) -> dict[int, int]:
    """Run schemathesis against one listener; how often it answered with each status."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": str(REPOSITORY),
        "NO_PROXY": "127.0.0.1",
        "SCHEMATHESIS_HOOKS": str(HERE / "signing_hooks.py"),
    }
    if credentials is not None:
        (folder / "credentials.json").write_text(json.dumps(credentials))
    program = Path(sys.executable).parent / "st"
    command = [str(program), "--config-file", str(HERE / "schemathesis.toml"), "run", f"{url}/openapi.json"]
    command += ["--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"]
    # A number of cases and not a time: on a busy machine there would be none.
    command += ["--max-examples", str(MAX_EXAMPLES)]
    command += ["--seed", str(seed), "--no-color", "--warnings", "off", "--generation-database", "none"]
    command += ["--request-timeout", "20"]
    outcome = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=400, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return {int(status): count for status, count in json.loads((folder / "statuses.json").read_text()).items()}


def test_b16_the_public_surface_is_as_described(own_cluster, seed, tmp_path) -> None:
    """No 5xx but 503 and 507, no status, type, header or body that the description does not have."""
    statuses = ask_everything(own_cluster.gateway_url, seed, tmp_path, own_cluster.bearer)
    print(statuses)
    assert sum(count for status, count in statuses.items() if status < 300) >= 5


def test_b16_the_surface_for_operators_is_as_described(own_cluster, seed, tmp_path) -> None:
    """The same on the operations listener, with the root key on every request that may carry it."""
    url = own_cluster.operations_url("gateway-1")
    statuses = ask_everything(url, seed, tmp_path, own_cluster.bearer)
    print(statuses)
    assert sum(count for status, count in statuses.items() if status < 300) >= 5
    nodes = describe(own_cluster)["nodes"]
    assert {node["id"] for node in nodes} >= {"storage-1", "storage-2", "storage-3"}, "strangers' names removed none"


@pytest.mark.parametrize("service", ["storage", "consensus", "clock"])
def test_b16_an_internal_surface_is_as_described(own_cluster, seed, tmp_path, service) -> None:
    """The same with a valid signature on every request; of the consensus members the leader is asked."""
    leader = describe(own_cluster)["leader"]
    name = leader if service == "consensus" else f"{service}-1"
    statuses = ask_everything(own_cluster.url(name), seed, tmp_path, peer_of(own_cluster, name))
    print(statuses)
    assert statuses.get(401, 0) == 0
    assert sum(count for status, count in statuses.items() if status < 300) >= 5
