"""The commands of docs/operations.md do what the page says, in its order and in one shell, to a cluster of `make up`."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from local_cluster.cluster import Cluster
from local_cluster.settings import PROJECT_ROOT
from shared.cluster_keys import key_file
from shared.roles import Role
from tests.chance import random_bytes
from tests.free_ports import free_port_offset
from tests.integration.conftest import OVERRIDES
from tests.integration.second_gateway import SecondGateway
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PAGE = PROJECT_ROOT / "docs" / "operations.md"
FENCE = re.compile(r"^( *)```sh\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
BLOCKS = [textwrap.dedent(text) for _, text in FENCE.findall(PAGE.read_text(encoding="utf-8"))]
NOT_HERE = {"kubectl": "needs a Kubernetes cluster", "docker": "needs a container engine"}
"""A block with a command that begins so is not run, and is listed as skipped."""

WRONG_ORDER = "in a rotation it signs with a new key before every service accepts that"
SIZES = (1000, 3_000_000)
"""In the catalog, and in files of its own."""


def why_not_here(block: str) -> str | None:
    first_words = {line.split()[0] for line in block.splitlines() if line.strip()}
    return next((reason for program, reason in NOT_HERE.items() if program in first_words), None)


class Shell:
    """One shell for all blocks, which ends at the first command that fails."""

    def __init__(self, environment: Mapping[str, str], port_offset: int) -> None:
        self._port_offset = port_offset
        self._bash = subprocess.Popen(
            ["bash", "-euo", "pipefail"],
            cwd=PROJECT_ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, block: str) -> str:
        """What it printed. The only change to a block are the ports of the machine's addresses."""
        moved = re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda port: str(int(port[0]) + self._port_offset), block)
        print(f"--- {moved}")
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{{\n{moved}\n}} </dev/null\necho 'the block ended well'\n")
        self._bash.stdin.flush()
        printed, began_s = "", time.monotonic()
        for line in self._bash.stdout:
            print(f"{time.monotonic() - began_s:5.1f} s {line}", end="")
            if line == "the block ended well\n":
                return printed
            printed += line
        raise AssertionError(f"the shell ended with {self._bash.wait()}")

    def close(self) -> None:
        self._bash.kill()
        self._bash.communicate()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Not started. Its folder is given to the commands as a person would."""
    found = Cluster(tmp_path / "local", free_port_offset(), OVERRIDES)
    yield found
    # Opened again: the commands may have added nodes.
    Cluster(found.layout.root, found.port_offset, OVERRIDES).kill_all()


@pytest.fixture
def environment(cluster: Cluster) -> dict[str, str]:
    """Of the shell, and so of everything that it starts."""
    outer = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "TRIVET_"))}  # noqa: TID251
    return {
        **outer,
        **OVERRIDES["clock"],
        # A minute of silence until a node is inactive would be waited for.
        "TRIVET_HEARTBEAT_INTERVAL_S": "5",
        "TRIVET_HEARTBEAT_GRACE_S": "15",
        "TRIVET_LOCAL_DIR": str(cluster.layout.root),
        "TRIVET_PORT_OFFSET": str(cluster.port_offset),
    }


def test_every_block_of_the_page_runs(cluster: Cluster, environment: dict[str, str], seed: int) -> None:
    """And after each that leaves the cluster running, every file is there; afterwards each procedure has done what it is for."""
    files = {f"/v1/files/default/{size}": random.Random(seed).randbytes(size) for size in SIZES}
    secret_file = cluster.layout.secrets / "cluster-secret"
    shell = Shell(environment, cluster.port_offset)
    try:
        shell.run("make up")
        old_secret = secret_file.read_text()
        with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False) as gateway:
            for path, body in files.items():
                gateway.put(path, content=body).raise_for_status()
            before = incarnations(gateway)
            for block in BLOCKS:
                if why_not_here(block) is not None:
                    continue
                shell.run(block)
                if len(cluster.running()) == len(cluster.names()):
                    assert {path: gateway.get(path).content for path in files} == files
            assert len(cluster.running()) == len(cluster.names())
            after = incarnations(gateway)
    finally:
        shell.close()
    assert secret_file.read_text() != old_secret
    assert (cluster.layout.secrets / "cluster-id").read_text() == "restored-cluster\n"
    assert (cluster.layout.data_dir("consensus-3") / "damaged_metadata.sqlite").exists()
    assert {name for name in before if after[name] > before[name]} == {"storage-3"}, "whose catalog was taken away"
    refusal = backup_with(old_secret, environment, cluster)
    assert refusal.returncode == 78
    assert WRONG_ORDER in refusal.stderr


def incarnations(gateway: httpx.Client) -> dict[str, int]:
    nodes = gateway.get("/v1/cluster").raise_for_status().json()["nodes"]
    return {node["id"]: node["incarnation"] for node in nodes}


def backup_with(secret: str, environment: dict[str, str], cluster: Cluster) -> subprocess.CompletedProcess[str]:
    members = ",".join(f"{member.id}={member.url}" for member in cluster.plan.members)
    keys = cluster.layout.root / "old-peer-keys"
    keys.write_text(key_file(secret, Role.OPERATOR))
    return subprocess.run(
        [sys.executable, "-m", "services.consensus.rescue", "backup", "--to", str(cluster.layout.root / "refused")],
        cwd=PROJECT_ROOT,
        env={**environment, "TRIVET_PEER_KEYS_FILE": str(keys), "TRIVET_CONSENSUS_URLS": members},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("block", [block for block in BLOCKS if why_not_here(block) is not None])
def test_a_block_that_cannot_run_here_is_named(block: str) -> None:
    """In the list of what was skipped, with the reason."""
    pytest.skip(f"{why_not_here(block)}: {block.splitlines()[0]}")


class GatewayThatSignsTooEarly(SecondGateway):
    """Its start is over when its operations port says why it cannot serve."""

    def wait_until_ready(self) -> None:
        block_until(lambda: WRONG_ORDER in self._readiness(), f"{WRONG_ORDER}; last {self._readiness()}", within_s=60)

    def _readiness(self) -> str:
        try:
            return httpx.get(f"http://127.0.0.1:{self.operations_port}/readyz", trust_env=False).text
        except httpx.TransportError:
            return ""


def test_a_gateway_that_signs_with_the_new_secret_too_early_says_so(well_cluster: Cluster, tmp_path: Path) -> None:
    """Lines NEW, OLD at one service while the others have OLD alone: the reason names the right order."""
    both = tmp_path / "peer-keys"
    old = (well_cluster.layout.secrets / "cluster-secret").read_text()
    both.write_text(key_file(random_bytes(32).hex() + "\n" + old, Role.GATEWAY))
    with GatewayThatSignsTooEarly(well_cluster, tmp_path / "log", {"TRIVET_PEER_KEYS_FILE": str(both)}):
        pass
