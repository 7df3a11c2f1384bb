"""Storage nodes in and out of a whole cluster while it serves: added, drained, cancelled, removed, lost; and verify over them."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from local_cluster.cluster import Cluster
from tests.free_ports import free_port_offset
from tests.integration.conftest import OVERRIDES
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

WITHIN_S = 120.0
SIZES = (1_000, 20_000, 300_000, 3_000_000)
SHORT = {
    **OVERRIDES,
    "storage": {"TRIVET_HEARTBEAT_INTERVAL_S": "5", "TRIVET_RECONCILE_INTERVAL_S": "1"},
    "consensus": {"TRIVET_HEARTBEAT_INTERVAL_S": "5", "TRIVET_HEARTBEAT_GRACE_S": "15"},
}
"""A minute of silence until a node is inactive would be waited for."""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of this test alone: nodes come and go in it."""
    found = Cluster(tmp_path / "cluster", free_port_offset(), SHORT)
    try:
        asyncio.run(found.start())
        print(f"cluster in {found.layout.root}, gateway {found.gateway_url}")
        yield found
    finally:
        found.kill_all()


@pytest.fixture
def http(own: Cluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=own.gateway_url, headers=own.bearer, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def operations(own: Cluster) -> Iterator[httpx.Client]:
    url = own.operations_url("gateway-1")
    with httpx.Client(base_url=url, headers=own.bearer, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def files(http: httpx.Client, seed: int) -> dict[str, bytes]:
    """Some that are packed, some with files of their own, some of several chunks."""
    chance = random.Random(seed)
    found = {f"/v1/files/default/{at}-{size}": chance.randbytes(size) for at in range(10) for size in SIZES}
    for path, body in found.items():
        http.put(path, content=body).raise_for_status()
    return found


def cluster_of(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/v1/cluster").raise_for_status().json()
    return found


def states(http: httpx.Client) -> dict[str, str]:
    return {node["id"]: node["state"] for node in cluster_of(http)["nodes"]}


def wait_until_whole(http: httpx.Client) -> None:
    """Every node of this epoch has said that it lacks nothing, and holds nothing that it need not."""

    def is_whole() -> bool:
        found = cluster_of(http)
        reports = [node["reconcile"] for node in found["nodes"]]
        return found["under_replicated_chunks"] == 0 and all(report["surplus_chunks"] == 0 for report in reports)

    block_until(is_whole, f"whole; last {cluster_of(http)}", within_s=WITHIN_S)


def check(http: httpx.Client, files: dict[str, bytes]) -> None:
    assert {path: http.get(path).content for path in files} == files


class Load:
    """Puts and reads all the while; every answer must be a success."""

    def __init__(self, http: httpx.Client, seed: int) -> None:
        self._http = http
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.files: dict[str, bytes] = {}
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(
            base_url=self._http.base_url, headers=self._http.headers, timeout=60, trust_env=False
        ) as client:
            while not self._stop.wait(0.05):
                path = f"/v1/files/default/load-{len(self.files)}"
                body = self._chance.randbytes(self._chance.choice(SIZES[:3]))
                put = client.put(path, content=body)
                if not put.is_success:
                    self.failures.append(f"{put.status_code} {put.text}")
                    continue
                self.files[path] = body
                back = client.get(path)
                if back.content != body:
                    self.failures.append(f"{path}: {back.status_code}")


def test_a_node_is_added_takes_its_share_and_is_drained_again(
    own: Cluster, http: httpx.Client, operations: httpx.Client, files: dict[str, bytes], seed: int
) -> None:
    """Under load without one failed request; later commands know it, then know that it has left; verify is clean."""
    with Load(http, seed) as load:
        name = asyncio.run(own.add_node())
        assert name == "storage-4"
        assert Cluster(own.layout.root, own.port_offset, SHORT).names() == own.names()
        block_until(lambda: states(http)[name] == "active", "the new node is active", within_s=WITHIN_S)
        wait_until_whole(http)
        share = next(node for node in cluster_of(http)["nodes"] if node["id"] == name)["reconcile"]
        assert share["expected_chunks"] > 0
        second = operations.delete("/v1/cluster/nodes/storage-1")
        assert second.status_code == 202
        assert operations.delete("/v1/cluster/nodes/storage-2").json()["code"] in {"drain_in_progress", "too_few_nodes"}
        assert operations.delete("/v1/cluster/nodes/storage-1/drain").status_code == 204
        assert states(http) == dict.fromkeys(states(http), "active")
        begun = operations.delete(f"/v1/cluster/nodes/{name}")
        assert begun.status_code == 202
        assert begun.json()["state"] == "draining"
        block_until(lambda: name not in states(http), "the drained node has left", within_s=WITHIN_S)
    assert load.failures == []
    assert load.files
    asyncio.run(own.forget_node(name))
    assert name not in Cluster(own.layout.root, own.port_offset, SHORT).names()
    assert operations.delete(f"/v1/cluster/nodes/{name}").status_code == 404
    wait_until_whole(http)
    check(http, files | load.files)
    assert operations.delete("/v1/cluster/nodes/storage-1").json()["code"] == "too_few_nodes"
    verify_is_clean(operations)


def verify_is_clean(operations: httpx.Client) -> None:
    assert operations.post("/v1/cluster/verify").status_code == 202

    def is_over() -> bool:
        return operations.get("/v1/cluster/verify").json()["state"] != "running"

    block_until(is_over, "verify is over", within_s=WITHIN_S)
    found = operations.get("/v1/cluster/verify").json()
    assert (found["state"], found["is_clean"]) == ("finished", True), found


def test_a_lost_node_is_removed_and_its_replicas_are_restored(
    own: Cluster, http: httpx.Client, operations: httpx.Client, files: dict[str, bytes]
) -> None:
    """Refused while it is heard of; then it says that nothing was at risk, and four nodes become three without a loss."""
    asyncio.run(own.add_node())
    wait_until_whole(http)
    assert operations.delete("/v1/cluster/nodes/storage-2?lost=true").json()["code"] == "node_not_lost"
    own.kill("storage-2")
    block_until(lambda: states(http)["storage-2"] == "suspect", "it is suspect", within_s=WITHIN_S)
    block_until(lambda: states(http)["storage-2"] == "inactive", "it is inactive", within_s=WITHIN_S)
    degraded = cluster_of(http)["degraded"]
    assert any(sentence.startswith("storage-2 is inactive: silent for ") for sentence in degraded), degraded
    block_until(lambda: cluster_of(http)["under_replicated_chunks"] == 0, "the others took over", within_s=WITHIN_S)
    removed = operations.delete("/v1/cluster/nodes/storage-2?lost=true")
    assert (removed.status_code, removed.json()) == (200, {"id": "storage-2", "chunks_at_risk": 0})
    asyncio.run(own.forget_node("storage-2"))
    check(http, files)
    own.kill("storage-1")
    block_until(lambda: states(http)["storage-1"] == "inactive", "a second one is away", within_s=WITHIN_S)
    assert "no spare node: 2 live nodes for 3 replicas" in cluster_of(http)["degraded"]
    check(http, files)


def test_verify_is_started_once_and_names_a_node_that_is_away(
    own: Cluster, http: httpx.Client, operations: httpx.Client, files: dict[str, bytes]
) -> None:
    """409 or a finished pass for a second start at once; without the third node nothing is called clean."""
    wait_until_whole(http)
    own.kill("storage-3")
    first, second = operations.post("/v1/cluster/verify"), operations.post("/v1/cluster/verify")
    assert first.status_code == 202
    assert (second.status_code, second.json().get("code")) in {(409, "verify_in_progress"), (202, None)}
    block_until(lambda: operations.get("/v1/cluster/verify").json()["state"] == "finished", "over", within_s=WITHIN_S)
    found = operations.get("/v1/cluster/verify").json()
    assert found["is_clean"] is None
    assert [node["id"] for node in found["nodes"] if node["problem"]] == ["storage-3"]
    asyncio.run(own.start(["storage-3"]))
    verify_is_clean(operations)
