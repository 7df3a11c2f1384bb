"""A storage node is wiped while a gateway remembers what it confirmed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from blake3 import blake3

from local_cluster.cluster import Cluster
from shared.contracts.chunks import HasRequest, HasResponse
from shared.peer_calls.http_client import PeerClient
from shared.units import KIB
from tests.free_ports import free_port_offset
from tests.integration.conftest import OVERRIDES
from tests.integration.test_replaced_disks import DEADLINE_S, VICTIM, incarnation_of, wait_for_recorded_runs, wipe
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

SLOW_REPAIR = {
    # Every GET shows how many of the three are confirmed.
    "gateway": {"TRIVET_READ_QUORUM": "3"},
    # What the wiped node fetches by itself is a fraction of what it lost.
    "storage": {"TRIVET_RECONCILE_MAX_BYTES_PER_S": "1024"},
}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of this test alone: a disk is lost in it."""
    found = Cluster(tmp_path / "cluster", free_port_offset(), OVERRIDES | SLOW_REPAIR)
    try:
        asyncio.run(found.start())
        print(f"cluster in {found.layout.root}, gateway {found.gateway_url}")
        yield found
    finally:
        found.kill_all()


async def lacking(cluster: Cluster, digests: list[str]) -> set[str]:
    """Those that the victim itself does not hold now."""
    async with PeerClient(cluster.keys) as client:
        question = HasRequest(digests=digests)
        answer = await client.call(
            cluster.peer(VICTIM), "POST", "/v1/chunks/has", HasResponse, body=question, timeout_s=10
        )
    return set(digests) - set(answer.present)


def test_a_wiped_node_counts_for_nothing_that_is_remembered_of_it(own: Cluster, seed: int) -> None:
    """From the moment at which the cluster knows of its new disk no GET counts a chunk that the node does not hold."""
    wait_for_recorded_runs(own)
    draw = random.Random(seed)
    bodies = {f"/v1/files/default/file-{number}": draw.randbytes(300 * KIB) for number in range(60)}
    digests = {path: blake3(body).hexdigest() for path, body in bodies.items()}
    with httpx.Client(base_url=own.gateway_url, headers=own.bearer, timeout=60, trust_env=False) as http:
        for path, body in bodies.items():
            assert http.put(path, content=body).status_code == 201
        for path in bodies:
            block_until(lambda path=path: confirmed(http.get(path)) == 3, "three replicas", DEADLINE_S)

        def age_s() -> int:
            return int(http.get("/v1/files/default/file-0").headers["x-trivet-confirmation-age"])

        block_until(lambda: age_s() >= 1, "counted without asking")

        before = incarnation_of(http, VICTIM)
        wipe(own)
        block_until(lambda: incarnation_of(http, VICTIM) > before, "the log knows of the other disk", DEADLINE_S)
        lost = asyncio.run(lacking(own, list(digests.values())))
        assert len(lost) >= len(bodies) // 2
        counted = {path: confirmed(http.get(path)) for path in bodies if digests[path] in lost}
        still_lost = asyncio.run(lacking(own, list(lost)))
        wrong = [path for path, count in counted.items() if count == 3 and digests[path] in still_lost]
        assert not wrong, f"{len(wrong)} of {len(counted)} counted a replica that is not there"
        assert any(count == 2 for count in counted.values())
        # Each of these reads found the replica missing, and had it put back.
        block_until(lambda: not asyncio.run(lacking(own, list(lost))), "read repair", DEADLINE_S)


def confirmed(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    return int(answer.headers["x-trivet-replicas-confirmed"])
