"""What a leader adds to its answers that is not in the log: how full the nodes are, and its own time."""

from __future__ import annotations

import secrets

import pytest

from services.consensus.metadata.entries import RUNS_VERSION
from shared.consensus_calls.client import ConsensusClient
from shared.contracts.access import BY_SYSTEM
from shared.contracts.cluster import Heartbeat, HeartbeatResponse, NodeRun
from shared.contracts.metadata import ClusterAnswer, CreateBucket, GetCluster
from shared.contracts.time import ClockState, Stamp
from shared.timekeeping.host_clock import SystemHostClock
from shared.timekeeping.hybrid_logical_clock import hlc_from_ns
from tests.integration.consensus.members import CLUSTER_ID, Members
from tests.integration.consensus.scene import Scene, running_scene
from tests.waiting import wait_until

HOUR_NS = 3_600 * 1_000_000_000

pytestmark = [pytest.mark.timeout(180)]


async def heartbeat(members: Members, client, node_id: str, used_bytes: int | None, *, is_full: bool | None) -> None:
    leader = members.addresses[await members.leader(client)]
    beat = Heartbeat(
        cluster_id=CLUSTER_ID,
        run=NodeRun(disk_id=node_id[-1] * 32, counter=1, boot_id="b" * 32),
        url=f"http://{node_id}",
        zone="z",
        capacity_bytes=1 << 40,
        used_bytes=used_bytes,
        chunk_count=None,
        is_full=is_full,
    )
    path = f"/v1/nodes/{node_id}/heartbeat"
    answer = await client.call(leader, "POST", path, HeartbeatResponse, body=beat, timeout_s=5.0)
    assert answer.is_admitted


async def told(consensus: ConsensusClient) -> dict[str, tuple[int | None, bool | None]]:
    answer, _ = await consensus.read(GetCluster())
    assert isinstance(answer, ClusterAnswer)
    return {node.id: (node.used_bytes, node.is_full) for node in answer.node_map.nodes}


async def knows_runs(scene: Scene) -> bool:
    return (await scene.members.status(scene.client, 0)).entry_version >= RUNS_VERSION


async def log_end(scene: Scene) -> int:
    return max([(await scene.members.status(scene.client, number)).last_log_index for number in range(3)])


async def test_used_bytes_is_the_heartbeats_and_null_while_nobody_measured(tmp_path) -> None:
    """0 would pass for a measurement. It is not ordered in the log, and a new leader does not know it before it hears it."""
    async with running_scene(tmp_path) as scene:
        members, client = scene.members, scene.client
        consensus = ConsensusClient(members.addresses, client)
        assert await told(consensus) == {"storage-1": (None, None), "storage-2": (None, None)}
        # Entries of the second version, once all members know it, record the run of a node at its first heartbeat.
        await wait_until(lambda: knows_runs(scene), "the members record runs", 30)
        await heartbeat(members, client, "storage-1", 123_456, is_full=True)
        await heartbeat(members, client, "storage-2", None, is_full=None)
        assert await told(consensus) == {"storage-1": (123_456, True), "storage-2": (None, None)}
        before = await log_end(scene)
        await heartbeat(members, client, "storage-1", 0, is_full=False)
        assert await told(consensus) == {"storage-1": (0, False), "storage-2": (None, None)}
        assert await log_end(scene) - before <= 1, "a measurement went through the log"
        leader = await members.leader(client)
        members.kill(leader)
        members.start(leader)
        assert (await told(consensus))["storage-1"] == (None, None)
        await heartbeat(members, client, "storage-1", 7, is_full=False)
        assert (await told(consensus))["storage-1"] == (7, False)
        await consensus.aclose()


async def test_a_read_tells_a_time_that_nothing_in_the_log_is_ahead_of(tmp_path) -> None:
    """What a gateway seeds its clock with: neither below a stamp that was applied nor below the leader's own clock."""
    async with running_scene(tmp_path) as scene:
        consensus = ConsensusClient(scene.members.addresses, scene.client)
        before = hlc_from_ns(SystemHostClock().wall_ns())
        _, context = await consensus.read(GetCluster())
        assert context.hlc >= before
        ahead = Stamp(hlc=hlc_from_ns(SystemHostClock().wall_ns() + HOUR_NS), state=ClockState.LOGICAL)
        creation = CreateBucket(bucket=f"b-{secrets.token_hex(4)}", stamp=ahead)
        await consensus.propose(creation, requester=BY_SYSTEM)
        _, after = await consensus.read(GetCluster())
        assert after.hlc >= ahead.hlc
        await consensus.aclose()
