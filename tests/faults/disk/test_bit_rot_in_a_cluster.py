"""D7 and D9: bytes change on the disks of storage nodes; what a gateway serves is right, or it is an explicit error."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from blake3 import blake3

from local_cluster.cluster import Cluster
from shared.errors import PeerUnreachableError
from shared.peer_calls.http_client import PeerClient
from shared.units import KIB, MIB
from tests.faults.tools.bit_rot import flip_bit, flip_bits
from tests.free_ports import free_port_offset
from tests.waiting import block_until

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(600)]

_NODES = ("storage-1", "storage-2", "storage-3")
_PACKED_PART = slice(50, 450)
"""Of a packed body: it lies in one piece in its page."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    overrides = {
        "clock": {"TRIVET_NTP_SERVERS": "127.0.0.1:9"},
        "storage-2": {
            "TRIVET_SCRUB_PERIOD_S": "4",
            "TRIVET_SCRUB_MAX_BYTES_PER_S": str(1024 * MIB),
            "TRIVET_SCRUB_START_DELAY_S": "1",
        },
    }
    made = Cluster(tmp_path_factory.mktemp("rot"), free_port_offset(), overrides)
    try:
        asyncio.run(made.start(timeout_s=120))
        yield made
    finally:
        made.kill_all()


@pytest.fixture
def gateway(cluster: Cluster) -> Iterator[httpx.Client]:
    asyncio.run(cluster.start(timeout_s=120))
    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=60, trust_env=False) as client:
        yield client


async def ask(cluster: Cluster, node: str, method: str, path: str, **request: Any) -> httpx.Response:
    """A signed call; a busy machine may be slow to connect, which is tried again."""
    async with asyncio.timeout(60), PeerClient(cluster.keys) as client:
        while True:
            try:
                return await client.request(cluster.peer(node), method, path, timeout_s=20, **request)
            except PeerUnreachableError:
                await asyncio.sleep(0.1)


async def status_of(cluster: Cluster, node: str) -> dict[str, Any]:
    return (await ask(cluster, node, "GET", "/v1/status")).json()


async def metric_of(cluster: Cluster, node: str, name: str) -> float:
    url = f"{cluster.operations_url(node)}/metrics"
    text = (await asyncio.to_thread(httpx.get, url, timeout=60, trust_env=False)).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


async def lost_chunks_of(cluster: Cluster, node: str) -> float:
    return await metric_of(cluster, node, "trivet_storage_lost_chunks")


def put(gateway: httpx.Client, key: str, body: bytes) -> None:
    assert gateway.put(f"/v1/files/default/{key}", content=body).status_code in {200, 201}


def wait_for_every_replica(cluster: Cluster, digests: set[str]) -> None:
    """N = 3 on three nodes: each of them holds every chunk, the third maybe after the answer."""

    question = httpx.Request("POST", "http://x/", json={"digests": sorted(digests)}).content
    headers = {"content-type": "application/json"}

    async def is_there() -> bool:
        for node in _NODES:
            answer = await ask(cluster, node, "POST", "/v1/chunks/has", content=question, headers=headers)
            if set(answer.json()["present"]) != digests:
                return False
        return True

    block_until(lambda: asyncio.run(is_there()), "three replicas of each chunk", 90)


def file_of(cluster: Cluster, node: str, body: bytes) -> Path:
    digest = blake3(body).hexdigest()
    return cluster.layout.data_dir(node) / "chunks" / digest[:2] / digest


def rot(cluster: Cluster, node: str, chunks: list[bytes], probability: float, draw: random.Random) -> int:
    """Flip bits in the replicas of a node that does not run; how many replicas are damaged."""
    catalog = cluster.layout.data_dir(node) / "catalog.sqlite"
    packed = catalog.read_bytes()
    damaged = 0
    for body in chunks:
        path = file_of(cluster, node, body)
        if path.exists():
            flips = flip_bits(path, probability, draw)
        else:
            first = packed.index(body[_PACKED_PART])
            flips = flip_bits(catalog, probability, draw, first=first, last=first + 400)
        damaged += flips > 0
    return damaged


def test_rot_in_one_replica_is_never_served_and_all_found(cluster, gateway, seed, repetitions):
    """100 % right reads at any rate of rot; one pass of the scrub finds every bad replica; all are whole again within 60 s."""
    draw = random.Random(seed)
    files = {f"large-{number}": draw.randbytes(2 * MIB) for number in range(10)}
    files |= {f"small-{number}": draw.randbytes(draw.randrange(500, 60 * KIB)) for number in range(60)}
    for key, body in files.items():
        put(gateway, key, body)
    chunks = [body[at : at + MIB] for body in files.values() for at in range(0, len(body), MIB)]
    rates = [1e-3, 1e-4, 1e-5, 1e-6]
    for probability in rates[:: repetitions(3, 1)]:
        wait_for_every_replica(cluster, {blake3(chunk).hexdigest() for chunk in chunks})
        asyncio.run(cluster.stop(["storage-2"]))
        damaged = rot(cluster, "storage-2", chunks, probability, draw)
        asyncio.run(cluster.start(timeout_s=120))
        for key, body in files.items():
            assert gateway.get(f"/v1/files/default/{key}").content == body, f"{key} at {probability}"
        block_until(
            lambda: asyncio.run(status_of(cluster, "storage-2"))["scrub"]["finished_passes"] >= 1, "a whole pass", 90
        )
        found = asyncio.run(metric_of(cluster, "storage-2", "trivet_storage_corrupt_total"))
        took = block_until(
            lambda: asyncio.run(status_of(cluster, "storage-2"))["refetch"]["lost_chunks"] == 0,
            "every chunk is back",
            90,
        )
        print(
            f"rate {probability}: {damaged} of {len(chunks)} replicas damaged, {found:.0f} found, repaired after {took:.1f} s"
        )
        assert found == damaged
        assert took < 60


def test_a_chunk_without_a_good_replica_is_an_error_and_not_one_byte(cluster, gateway, seed):
    """Every replica is bad: a file of one chunk gets a problem document, a longer one is aborted before the bad chunk."""
    draw = random.Random(seed)
    single, several = draw.randbytes(700 * KIB), draw.randbytes(3 * MIB)
    put(gateway, "single", single)
    put(gateway, "several", several)
    bad = several[MIB : 2 * MIB]
    wait_for_every_replica(cluster, {blake3(chunk).hexdigest() for chunk in (single, bad)})
    for node in _NODES:
        flip_bit(file_of(cluster, node, single), draw.randrange(len(single)), 0)
        flip_bit(file_of(cluster, node, bad), draw.randrange(len(bad)), 0)
    for _ in range(3):  # also when the replicas are in quarantine already
        answer = gateway.get("/v1/files/default/single")
        assert answer.status_code == 503, answer.text[:300]
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] in {"data_unavailable", "chunk_corrupt"}
        received = bytearray()
        with pytest.raises(httpx.TransportError), gateway.stream("GET", "/v1/files/default/several") as stream:
            receive(stream, received)
        assert len(received) <= MIB
        assert several.startswith(bytes(received))
    for node in _NODES:
        block_until(
            lambda node=node: asyncio.run(lost_chunks_of(cluster, node)) >= 2, f"{node} shows what it has lost", 90
        )


def receive(stream: httpx.Response, into: bytearray) -> None:
    for piece in stream.iter_raw():
        into += piece
