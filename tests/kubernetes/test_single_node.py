"""The overlay `single-node`, on one node: it starts, serves, grows, and survives what one machine can survive."""

from __future__ import annotations

import pytest

from tests.chance import random_bytes
from tests.kubernetes.deployment import Deployment
from tests.waiting import block_until

pytestmark = [pytest.mark.kubernetes, pytest.mark.root, pytest.mark.timeout(1800)]

DATA = random_bytes(5_000_000)


@pytest.fixture(scope="module")
def deployed(kubernetes, deploy) -> Deployment:
    """Installed by the page's commands."""
    kubernetes.add_node(1, volumes_gi=[5] * 5 + [2] * 8)
    deployment = deploy("single-node")
    deployment.run("make --silent secrets && kubectl apply -f k8s/namespace.yaml")
    deployment.apply("install on one node")
    deployment.until_ready("all pods after the installation", 9)
    return deployment


def test_a_file_goes_in_and_comes_back(deployed) -> None:
    """Three replicas on one host."""
    deployed.put("first", DATA)
    assert deployed.get("first") == DATA
    assert {node["state"] for node in deployed.cluster()["nodes"]} == {"active"}


def test_it_grows_to_five_storage_nodes_and_shrinks_again(deployed) -> None:
    """All of them on the one host, because the overlay has no rule against it."""
    deployed.run("k8s/scale-storage 5")
    assert [node["state"] for node in deployed.cluster()["nodes"]] == ["active"] * 5
    deployed.run("k8s/scale-storage 3")
    assert len(deployed.cluster()["nodes"]) == 3
    assert deployed.get("first") == DATA


def test_a_power_cut_of_the_node_loses_nothing(deployed, kubernetes) -> None:
    """Everything ends at once, and everything starts again from the same disk."""
    kubernetes.nodes[1].kill()
    block_until(lambda: not kubernetes.is_ready(1), "Kubernetes sees that the node is gone", within_s=120)
    kubernetes.start_node(1)
    block_until(lambda: kubernetes.is_ready(1), "the node is back", within_s=120)
    deployed.until_ready("all pods after a power cut", 9)
    assert deployed.get("first") == DATA
