"""A whole cluster of real processes for the tests of this folder, on ports and in a folder of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

import httpx
import pytest

from local_cluster.cluster import Cluster
from tests.free_ports import free_port_offset as find_free_port_offset
from tests.integration.process_logs import troubles_shown
from tests.integration.second_gateway import EITHER_GATEWAY, EitherGateway, SecondGateway
from tests.waiting import block_until

OVERRIDES = {
    # Tests reach no time server: nobody answers on the discard port, and LOGICAL is what a closed network has.
    "clock": {"TRIVET_NTP_SERVERS": "127.0.0.1:9"},
}

WELL_WITHIN_S = 60.0


def is_well(cluster: Cluster) -> bool:
    """Whether it lacks nothing, as far as it knows: every node is there, and no replica is missing."""
    url = f"{cluster.operations_url('gateway-1')}/v1/cluster"
    answer = httpx.get(url, headers=cluster.bearer, timeout=30, trust_env=False)
    return answer.is_success and answer.json()["degraded"] == []


@pytest.fixture
def free_port_offset() -> Callable[[], int]:
    """Gives an offset for a cluster of a test's own."""
    return find_free_port_offset


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all tests of the session; stopped at its end."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), find_free_port_offset(), OVERRIDES)
    try:
        asyncio.run(cluster.start())
        yield cluster
    finally:
        cluster.kill_all()


@pytest.fixture(scope="session")
def shared_second(shared_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondGateway]:
    """Another gateway over the same cluster."""
    with SecondGateway(shared_cluster, tmp_path_factory.mktemp("second") / "gateway-2.log") as second:
        yield second


@pytest.fixture(scope="module")
def well_cluster(shared_cluster: Cluster) -> Cluster:
    """The shared cluster as each file of tests may expect it, whatever the file before did to it: all of it runs, and well."""
    asyncio.run(shared_cluster.start())
    block_until(lambda: is_well(shared_cluster), "the shared cluster is well", WELL_WITHIN_S)
    return shared_cluster


@pytest.fixture
def cluster(well_cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster, with everything that an earlier test killed brought back."""
    asyncio.run(well_cluster.start())
    # What is printed is shown when a test fails.
    print(f"cluster in {well_cluster.layout.root}, gateway {well_cluster.gateway_url}")
    with troubles_shown(well_cluster):
        yield well_cluster


@pytest.fixture
def second(cluster: Cluster, shared_second: SecondGateway) -> SecondGateway:
    """The other gateway, serving."""
    shared_second.wait_until_ready()
    print(f"second gateway {shared_second.url}")
    return shared_second


@pytest.fixture
def gateway_urls(cluster: Cluster, second: SecondGateway) -> tuple[str, str]:
    """Where the two gateways are."""
    return cluster.gateway_url, second.url


@pytest.fixture
def gateway(cluster: Cluster, gateway_urls: tuple[str, str]) -> Iterator[httpx.Client]:
    """A client of the public API with the root key. It asks two gateways in turn; its timeout is above every deadline of theirs.

    So whatever a test does, what it wrote through one is read through the other.
    """
    transport = EitherGateway(gateway_urls)
    headers = cluster.bearer
    with httpx.Client(
        base_url=EITHER_GATEWAY, headers=headers, transport=transport, timeout=30, trust_env=False
    ) as client:
        yield client


@pytest.fixture
def bucket(gateway: httpx.Client, request: pytest.FixtureRequest) -> str:
    """A bucket of this test alone."""
    name = f"test-{random.SystemRandom().randrange(1 << 40):010x}"
    assert gateway.put(f"/v1/buckets/{name}").status_code == 201
    return name
