"""A storage node whose disk and Redis are wiped comes back under its name, and counts for nothing that it acknowledged before."""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
from collections.abc import Iterator

import httpx
import pytest

from local_cluster.cluster import Cluster
from shared.contracts.cluster import Heartbeat, HeartbeatResponse, NodeRun
from shared.errors import NotLeaderError, RunSupersededError
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role
from shared.units import MIB
from tests.chance import random_bytes
from tests.free_ports import free_port_offset
from tests.integration.conftest import OVERRIDES
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

DEADLINE_S = 60.0
SURVIVOR, VICTIM, ABSENT = "storage-1", "storage-2", "storage-3"
REDIS_OF_VICTIM = "redis-2"
ANOTHER_DISK = "storage node has another disk"


@pytest.fixture(scope="module")
def shared_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of these tests alone: disks are lost in it."""
    found = Cluster(tmp_path_factory.mktemp("own") / "cluster", free_port_offset(), OVERRIDES)
    try:
        asyncio.run(found.start())
        yield found
    finally:
        found.kill_all()


@pytest.fixture
def own(shared_own: Cluster) -> Cluster:
    """With everything that an earlier test killed brought back."""
    asyncio.run(shared_own.start())
    print(f"cluster in {shared_own.layout.root}, gateway {shared_own.gateway_url}")
    return shared_own


@pytest.fixture
def http(own: Cluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=own.gateway_url, headers=own.bearer, timeout=120, trust_env=False) as client:
        yield client


def incarnation_of(http: httpx.Client, node: str) -> int:
    nodes = http.get("/v1/cluster").raise_for_status().json()["nodes"]
    return next(found["incarnation"] for found in nodes if found["id"] == node)


def wipe(cluster: Cluster) -> None:
    """The victim loses its disk and its Redis, in one moment, and comes back under its name."""
    names = (VICTIM, REDIS_OF_VICTIM)
    cluster.kill_all(names)
    for name in names:
        for path in cluster.layout.data_dir(name).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    asyncio.run(cluster.start(names))


def run_of(cluster: Cluster) -> NodeRun:
    """What the victim's folder says, as a copy of it would."""
    _, disk_id, counter, _ = (cluster.layout.data_dir(VICTIM) / "disk-identity").read_text().split()
    return NodeRun(disk_id=disk_id, counter=int(counter), boot_id=random_bytes(16).hex())


async def beat(cluster: Cluster, run: NodeRun) -> HeartbeatResponse:
    """A heartbeat in the victim's name."""
    heartbeat = Heartbeat(
        cluster_id=cluster.plan.get(VICTIM).environment["TRIVET_CLUSTER_ID"],
        run=run,
        url=cluster.url(VICTIM),
        zone="z",
        capacity_bytes=MIB,
        used_bytes=0,
        chunk_count=0,
    )
    async with PeerClient(cluster.keys_of(Role.STORAGE)) as client, asyncio.timeout(DEADLINE_S):
        while True:
            for member in ("consensus-1", "consensus-2", "consensus-3"):
                try:
                    path = f"/v1/nodes/{VICTIM}/heartbeat"
                    return await client.call(
                        cluster.peer(member), "POST", path, HeartbeatResponse, body=heartbeat, timeout_s=5
                    )
                except NotLeaderError:
                    await asyncio.sleep(0.05)


def chunk_files(cluster: Cluster, node: str) -> int:
    return sum(path.is_file() for path in (cluster.layout.data_dir(node) / "chunks").glob("*/*"))


class PausingBody:
    """Bytes that stop in the middle until they are let go; a byte now and then keeps the connection."""

    def __init__(self, body: bytes, pause_at: int) -> None:
        self.body = body
        self._pause_at = pause_at
        self.go_on = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        yield self.body[: self._pause_at]
        at = self._pause_at
        while not self.go_on.wait(0.2):
            yield self.body[at : at + 1]
            at += 1
        yield self.body[at:]


def test_a_node_wiped_in_mid_upload_does_not_count_for_what_it_lost(
    own: Cluster, http: httpx.Client, seed: int
) -> None:
    """Receipt 2 means two: the file is read from the wiped node alone, once the other one is gone as well."""
    wait_for_recorded_runs(own)
    own.kill(ABSENT)  # so that every chunk is on the other two
    held = {node: chunk_files(own, node) for node in (SURVIVOR, VICTIM)}
    body = PausingBody(random.Random(seed).randbytes(8 * MIB + 5), 4 * MIB)
    answers: list[httpx.Response] = []
    upload = threading.Thread(
        target=lambda: answers.append(http.put("/v1/files/default/big", content=iter(body), timeout=120))
    )
    upload.start()
    try:
        for node in (SURVIVOR, VICTIM):
            block_until(lambda node=node: chunk_files(own, node) >= held[node] + 3, f"chunks reach {node}", DEADLINE_S)
        before = incarnation_of(http, VICTIM)
        wipe(own)
        block_until(lambda: incarnation_of(http, VICTIM) > before, "the log knows of the other disk", DEADLINE_S)
    finally:
        body.go_on.set()
        upload.join(DEADLINE_S)
    (answer,) = answers
    if answer.status_code != 201:
        assert (answer.status_code, answer.json()["definite"]) == (503, True)
        assert http.get("/v1/files/default/big").status_code == 404
        answer = http.put("/v1/files/default/big", content=body.body)
    assert answer.status_code == 201
    assert answer.json()["durability"]["acknowledged"] == 2
    own.kill(SURVIVOR)
    assert http.get("/v1/files/default/big").content == body.body


def test_a_node_wiped_between_two_small_uploads_counts_for_what_it_holds_now(
    own: Cluster, http: httpx.Client, seed: int
) -> None:
    """Small uploads begin with the node map of before the wipe: what they count is read from the wiped node alone."""
    wait_for_recorded_runs(own)
    own.kill(ABSENT)
    draw = random.Random(seed)
    assert http.put("/v1/files/default/before", content=draw.randbytes(4096)).status_code == 201
    wipe(own)
    bodies = {f"/v1/files/default/after-{number}": draw.randbytes(4096) for number in range(20)}
    for path, body in bodies.items():
        # Until the node has said which disk it has now, it acknowledges nothing: 503, definite.
        block_until(lambda path=path, body=body: is_stored_twice(http, path, body), f"{path} is stored", DEADLINE_S)
    own.kill(SURVIVOR)
    for path, body in bodies.items():
        assert http.get(path).content == body


def is_stored_twice(http: httpx.Client, path: str, body: bytes) -> bool:
    answer = http.put(path, content=body)
    if answer.status_code == 503:
        assert answer.json()["definite"]
        return False
    assert answer.status_code == 201, answer.text
    return bool(answer.json()["durability"]["acknowledged"] == 2)


def test_a_node_wiped_at_rest_is_named_by_another_incarnation(own: Cluster, http: httpx.Client) -> None:
    """The cluster says so, and files go on being stored; a mere restart changes nothing."""
    wait_for_recorded_runs(own)
    before = {node: incarnation_of(http, node) for node in (SURVIVOR, VICTIM, ABSENT)}
    asyncio.run(own.restart(SURVIVOR))
    epoch, logged = http.get("/v1/cluster").json()["epoch"], consensus_logs(own).count(ANOTHER_DISK)
    wipe(own)
    assert http.get("/v1/cluster").json()["epoch"] > epoch
    assert incarnation_of(http, VICTIM) > before[VICTIM]
    assert {node: incarnation_of(http, node) for node in (SURVIVOR, ABSENT)} == {
        node: before[node] for node in (SURVIVOR, ABSENT)
    }
    assert http.put("/v1/files/default/wiped-at-rest", content=b"x" * MIB).status_code == 201
    block_until(lambda: consensus_logs(own).count(ANOTHER_DISK) > logged, "a log says so")


def test_a_run_that_another_one_has_superseded_acknowledges_nothing(own: Cluster, http: httpx.Client) -> None:
    """Two processes under one name, as with a copied folder: the later one is a new incarnation, the earlier one stops."""
    wait_for_recorded_runs(own)
    before = incarnation_of(http, VICTIM)
    copy = run_of(own)
    taken = asyncio.run(beat(own, copy))
    assert taken.is_run_recorded
    assert taken.fence == incarnation_of(http, VICTIM) > before
    # The real process goes on with its next heartbeat, which is refused; another start of it is accepted.
    asyncio.run(own.restart(VICTIM))
    with pytest.raises(RunSupersededError):
        asyncio.run(beat(own, copy))
    assert http.put("/v1/files/default/superseded", content=b"x" * MIB).status_code == 201


def consensus_logs(cluster: Cluster) -> str:
    return "".join(path.read_text() for path in cluster.layout.log_file("x").parent.glob("consensus-*"))


def wait_for_recorded_runs(cluster: Cluster) -> None:
    """A new cluster records runs as soon as every member has said that it can, which is a moment after it is ready."""
    for node in (SURVIVOR, VICTIM, ABSENT):
        block_until(lambda node=node: is_run_recorded(cluster, node), f"the run of {node} is recorded", DEADLINE_S)


def is_run_recorded(cluster: Cluster, node: str) -> bool:
    lines = consensus_logs(cluster).splitlines()
    return any("run of a storage node recorded" in line and node in line for line in lines)
