"""What docs/deploy-kubernetes.md does with storage nodes and members, on the cluster in containers: there is no Kubernetes here.

The commands of kubectl are stood in for; those of Trivet are real.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.chance import random_bytes
from tests.containers.conftest import FILES, OPERATIONS, Deployment

pytestmark = [pytest.mark.containers, pytest.mark.root, pytest.mark.timeout(900)]

KUBECTL = """\
#!/bin/bash
# The StatefulSet `storage` is as long as the file says; its pod storage-4 is a container of that name.
echo "$*" >> {folder}/calls
case "$*" in
*" get statefulset storage "*) cat {folder}/replicas ;;
*" patch statefulset storage "*)
    number=$(sed 's/.*"replicas": \\([0-9]*\\).*/\\1/' <<< "$*")
    echo "$number" > {folder}/replicas
    [ "$number" -lt 5 ] || docker compose --profile storage-4 up --detach --wait redis-4 storage-4
    [ "$number" -gt 4 ] || docker compose --profile storage-4 rm --stop --force storage-4 redis-4 ;;
*) exit 64 ;;
esac
"""


@pytest.fixture(scope="module")
def running(cluster: Deployment) -> Deployment:
    """The page about containers ends with the removal of everything."""
    cluster.compose("up", "--detach", "--wait")
    return cluster


@pytest.fixture
def scale(running: Deployment, tmp_path: Path):
    """`k8s/scale-storage N` from 4 replicas, storage-0 and three more."""
    (tmp_path / "kubectl").write_text(KUBECTL.format(folder=tmp_path))
    (tmp_path / "kubectl").chmod(0o755)
    (tmp_path / "replicas").write_text("4")

    def call(number: int) -> str:
        script = f"PATH={tmp_path}:$PATH TRIVET_OPERATIONS_URL={OPERATIONS} k8s/scale-storage {number}"
        return running.run("bash", "-ec", script)

    call.folder = tmp_path
    return call


def nodes(running: Deployment) -> dict[str, str]:
    """The state of every storage node."""
    return {node["id"]: node["state"] for node in json.loads(running.curl(f"{OPERATIONS}/v1/cluster"))["nodes"]}


def test_a_storage_node_is_admitted_when_it_comes_and_drained_before_it_goes(running, scale) -> None:
    """And the number of pods is lowered after that, with the annotation that the guard asks for."""
    (scale.folder / "file").write_bytes(random_bytes(8_000_000))
    print(scale(5))
    assert nodes(running)["storage-4"] == "active"
    running.curl("-T", str(scale.folder / "file"), f"{FILES}/over-four-nodes")
    shown = scale(4)
    assert "storage-4 is out of the cluster" in shown
    assert "storage-4" not in nodes(running)
    running.curl("-o", str(scale.folder / "again"), f"{FILES}/over-four-nodes")
    assert (scale.folder / "again").read_bytes() == (scale.folder / "file").read_bytes()
    last = (scale.folder / "calls").read_text().splitlines()[-1]
    assert '"trivet/drained-to": "4"' in last
    assert '"replicas": 4' in last


def test_a_drain_below_the_number_of_replicas_is_refused_and_no_pod_is_taken_away(running, scale) -> None:
    """The cluster says so; the script ends with its answer."""
    with pytest.raises(AssertionError, match="too_few_nodes"):
        scale(3)
    assert (scale.folder / "replicas").read_text() == "4"
    assert "storage-3" in nodes(running)


def test_a_member_that_lost_its_volume_comes_back_under_a_new_id_at_the_same_address(running, tmp_path) -> None:
    """The first one, which the initialisation asks, too."""
    data = random_bytes(300_000)
    (tmp_path / "file").write_bytes(data)
    running.curl("-T", str(tmp_path / "file"), f"{FILES}/before")
    compose = running.checkout / "docker-compose.yml"
    change = ["run", "--rm", "--no-deps", "--entrypoint", "/venv/bin/python"]
    tool = ["initialise", "-m", "services.consensus.tools.change_members"]

    def urls() -> list[str]:
        return ["--env", re.search(r"TRIVET_CONSENSUS_URLS: (.*)", compose.read_text())[0].replace(": ", "=")]

    running.compose("rm", "--stop", "--force", "consensus-1")
    running.run("docker", "volume", "rm", "trivet_consensus-1")
    running.compose(*change, *urls(), *tool, "remove", "consensus-1")
    text = compose.read_text().replace("TRIVET_NODE_ID: consensus-1 ", "TRIVET_NODE_ID: consensus-1b ")
    compose.write_text(re.sub(r"\bconsensus-1(?==http)", "consensus-1b", text))
    running.compose("up", "--detach", "--no-deps", "consensus-1")
    address = ["consensus-1b", "http://consensus-1:8201", "consensus-1:8251"]
    running.compose(*change, *urls(), *tool, "add", *address)
    running.compose("up", "--detach", "--wait")
    members = json.loads(running.curl(f"{OPERATIONS}/v1/cluster"))["members"]
    assert {member["id"] for member in members} == {"consensus-1b", "consensus-2", "consensus-3"}
    running.curl("-o", str(tmp_path / "again"), f"{FILES}/before")
    assert (tmp_path / "again").read_bytes() == data
