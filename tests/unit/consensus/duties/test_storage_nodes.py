"""The leader and its storage nodes, over the real state machine: states, capacities, removal after a drain."""

from __future__ import annotations

import secrets
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.consensus.duties import storage_nodes
from services.consensus.duties.failure_detector import FailureDetector
from services.consensus.duties.node_reports import NodeReports
from services.consensus.duties.storage_nodes import StorageNodes
from services.consensus.metadata.entries import (
    GARBAGE_VERSION,
    KNOWN_ENTRY_VERSION,
    CommittedEntry,
    encode_proposal,
)
from services.consensus.metadata.store import MetadataStore
from shared.contracts.calls import Proposed
from shared.contracts.cluster import HealthReport, Heartbeat, NodeState, StorageNode
from shared.contracts.metadata import (
    AdmitNode,
    AnnounceMember,
    AnyCommand,
    CreateBucket,
    DrainNode,
    InitCluster,
    Proposal,
    RaiseEntryVersion,
    SetNodeState,
)
from shared.errors import ClusterMismatchError, LeaderUnavailableError, TrivetError, error_from_problem
from shared.units import GIB
from tests.unit.consensus.metadata.builders import run, stamp
from tests.unit.reconcile_reports import report

NODES = tuple(f"storage-{number}" for number in (1, 2, 3, 4))
FAILING = HealthReport(is_failing=True, is_slow=False)


class LeadingMember:
    """A service whose proposals are applied the moment they are made."""

    def __init__(self, store: MetadataStore) -> None:
        self.store = store
        self.term = 3
        self.proposed: list[AnyCommand] = []
        self.refusals: dict[str, TrivetError] = {}
        """By node id: what a proposal about it is answered."""
        self.member: Any = self
        self.raft = SimpleNamespace(storage=self)

    @property
    def leader_role(self) -> object:
        return SimpleNamespace(term=self.term)

    async def read_barrier(self) -> int:
        return self.store.last_applied

    async def propose_one(self, request_id: str, command: AnyCommand, *, retain_s: int = 600) -> Proposed[Any]:
        self.proposed.append(command)
        if (error := self.refusals.get(getattr(command, "node_id", ""))) is not None:
            raise error
        proposal = Proposal(request_id=request_id, retain_s=retain_s, command=command)
        (result,) = self.store.apply_batch([CommittedEntry(self.store.last_applied + 1, 1, encode_proposal(proposal))])
        assert result is not None
        if result.problem is not None:
            raise error_from_problem(result.problem)
        return Proposed.of(type(command), result.log_index, result.term, result.result)


class Scene:
    """One leader, its clock and four storage nodes that have dialled in."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 1000.0
        self.leader = LeadingMember(MetadataStore.open(folder / "metadata.sqlite"))
        self.reports = NodeReports()
        detector = FailureDetector(grace_s=60, heartbeat_interval_s=30)
        clock: Any = SimpleNamespace(stamp=stamp)
        service: Any = self.leader
        self.nodes = StorageNodes(service, detector, self.reports, clock, cluster_id="c")

    async def make_cluster(self, entry_version: int) -> None:
        for command in (
            InitCluster(cluster_id="c", admitted_nodes=[], stamp=stamp()),
            AnnounceMember(member_id="m", entry_version=entry_version, stamp=stamp()),
            RaiseEntryVersion(entry_version=entry_version, stamp=stamp()),
            *(AdmitNode(node_id=node_id, stamp=stamp()) for node_id in NODES),
        ):
            await self.propose(command)
        for node_id in NODES:
            await self.beat(node_id)
        self.leader.proposed.clear()

    async def propose(self, command: AnyCommand) -> Proposed[Any]:
        return await self.leader.propose_one(secrets.token_hex(8), command)

    async def beat(self, node_id: str, **changes: Any) -> None:
        number = int(node_id[-1])
        fields: dict[str, Any] = {
            "cluster_id": "c",
            "run": run(disk_id=f"{number:032x}", boot_id=f"{number + 100:032x}"),
            "url": f"http://{node_id}",
            "zone": node_id,
            "capacity_bytes": 10 * GIB,
            "used_bytes": 0,
            "chunk_count": 0,
        }
        await self.nodes.heard(node_id, Heartbeat(**fields | changes))

    async def pass_time(self, seconds: float, *, speaking: tuple[str, ...] = ()) -> None:
        """With a look at the nodes every second; those that speak send a heartbeat every 10 s."""
        for elapsed in range(1, int(seconds) + 1):
            self.now_s += 1
            if elapsed % 10 == 0:
                for node_id in speaking:
                    await self.beat(node_id)
            await self.nodes._check(self.leader.term)

    def node(self, node_id: str) -> StorageNode:
        found = {node.id: node for node in self.leader.store.node_map().nodes}[node_id]
        return self.reports.of_term(self.leader.term).fill(found)

    def has(self, node_id: str) -> bool:
        return any(node.id == node_id for node in self.leader.store.node_map().nodes)

    @property
    def epoch(self) -> int:
        return self.leader.store.node_map().epoch


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(tmp_path)
    monkeypatch.setattr(storage_nodes.time, "monotonic", lambda: made.now_s)
    return made


@pytest.fixture
async def upgraded(scene: Scene) -> Scene:
    await scene.make_cluster(KNOWN_ENTRY_VERSION)
    return scene


async def test_a_node_is_joining_until_it_dials_in(upgraded: Scene) -> None:
    """And active from its first heartbeat on."""
    await upgraded.propose(AdmitNode(node_id="storage-5", stamp=stamp()))
    await upgraded.pass_time(100, speaking=NODES)
    assert (upgraded.node("storage-5").state, upgraded.node("storage-5").reason) == (
        NodeState.JOINING,
        "it has not dialled in yet",
    )
    await upgraded.beat("storage-5")
    assert (upgraded.node("storage-5").state, upgraded.node("storage-5").reason) == (NodeState.ACTIVE, None)


async def test_a_silent_node_becomes_suspect_then_inactive_and_returns(upgraded: Scene) -> None:
    """After one and a half intervals, after the grace period, and with its next heartbeat; one entry each."""
    others = NODES[:3]
    await upgraded.pass_time(45, speaking=others)
    assert upgraded.node("storage-4").state is NodeState.ACTIVE
    await upgraded.pass_time(1, speaking=others)
    assert (upgraded.node("storage-4").state, upgraded.node("storage-4").reason) == (
        NodeState.SUSPECT,
        "silent for 46 s",
    )
    await upgraded.pass_time(14, speaking=others)
    assert upgraded.node("storage-4").state is NodeState.SUSPECT
    await upgraded.pass_time(1, speaking=others)
    assert upgraded.node("storage-4").state is NodeState.INACTIVE
    await upgraded.beat("storage-4")
    assert (upgraded.node("storage-4").state, upgraded.node("storage-4").reason) == (NodeState.ACTIVE, None)
    assert [command.state for command in upgraded.leader.proposed if isinstance(command, SetNodeState)] == [
        NodeState.SUSPECT,
        NodeState.INACTIVE,
        NodeState.ACTIVE,
    ]


async def test_a_failing_node_is_suspect_while_it_says_so(upgraded: Scene) -> None:
    """And for an interval more."""
    await upgraded.beat("storage-1", health=FAILING)
    assert (upgraded.node("storage-1").state, upgraded.node("storage-1").reason) == (
        NodeState.SUSPECT,
        "it refuses writes",
    )
    await upgraded.pass_time(29, speaking=NODES)
    assert upgraded.node("storage-1").state is NodeState.SUSPECT
    await upgraded.pass_time(1, speaking=NODES)
    assert upgraded.node("storage-1").state is NodeState.ACTIVE


async def test_a_new_leader_starts_with_a_full_grace_period(upgraded: Scene) -> None:
    """Nobody becomes inactive by an election, however long the election took."""
    upgraded.now_s += 1000
    upgraded.leader.term += 1
    await upgraded.pass_time(46)  # its first look is after one second
    assert {upgraded.node(node_id).state for node_id in NODES} == {NodeState.ACTIVE}
    await upgraded.pass_time(16)
    assert {upgraded.node(node_id).state for node_id in NODES} == {NodeState.INACTIVE}


async def test_a_heartbeat_before_the_first_look_of_a_leadership_counts(upgraded: Scene) -> None:
    """And is no return: what an earlier leadership of this member heard is forgotten first."""
    for _ in range(6):
        upgraded.now_s += 1000
        upgraded.leader.term += 1
        await upgraded.beat("storage-1")
    assert upgraded.node("storage-1").state is NodeState.ACTIVE


async def test_members_of_the_version_before_have_no_suspects(scene: Scene) -> None:
    """Such a node stays active until it is inactive, as ever."""
    await scene.make_cluster(GARBAGE_VERSION - 1)
    await scene.beat("storage-1", health=FAILING)
    await scene.pass_time(60, speaking=NODES[:3])
    assert scene.node("storage-1").state is NodeState.ACTIVE
    assert scene.node("storage-4").state is NodeState.ACTIVE
    await scene.pass_time(1, speaking=NODES[:3])
    assert scene.node("storage-4").state is NodeState.INACTIVE


async def test_a_capacity_that_wavers_raises_no_epoch(upgraded: Scene) -> None:
    """Below a whole GiB never; a node that says another one with every heartbeat, once in ten minutes."""
    epoch = upgraded.epoch
    for extra in (0, 1, GIB - 1):
        await upgraded.beat("storage-1", capacity_bytes=10 * GIB + extra)
    assert upgraded.epoch == epoch
    for beat in range(40):
        upgraded.now_s += 15
        await upgraded.beat("storage-1", capacity_bytes=(20 + beat) * GIB)
    assert upgraded.epoch == epoch + 1
    assert upgraded.node("storage-1").capacity_bytes == 20 * GIB


async def test_a_node_of_another_cluster_is_refused(upgraded: Scene) -> None:
    """Before anything else is believed of it."""
    with pytest.raises(ClusterMismatchError):
        await upgraded.beat("storage-1", cluster_id="other", health=FAILING)
    assert upgraded.node("storage-1").state is NodeState.ACTIVE


async def drained(scene: Scene) -> int:
    """Begin to drain the fourth node; the log index."""
    outcome = await scene.propose(DrainNode(node_id="storage-4", min_left=3, stamp=stamp()))
    return outcome.result.log_index


async def test_a_drained_node_is_removed_on_its_own_proof(upgraded: Scene) -> None:
    """As soon as it reports an index after the drain, in the epoch of the node map."""
    since = await drained(upgraded)
    await upgraded.beat("storage-4", reconcile=report(epoch=upgraded.epoch, surplus_chunks=4))
    await upgraded.pass_time(1)
    assert upgraded.has("storage-4"), "it says nothing of being empty"
    await upgraded.propose(AdmitNode(node_id="storage-1", stamp=stamp()))
    await upgraded.beat("storage-4", reconcile=report(epoch=upgraded.epoch, drained_index=since + 1))
    await upgraded.pass_time(1)
    assert not upgraded.has("storage-4")


async def test_a_proof_that_is_older_than_the_drain_or_of_another_epoch_removes_nothing(upgraded: Scene) -> None:
    """It was found under other conditions; the node finds out anew."""
    since = await drained(upgraded)
    await upgraded.propose(CreateBucket(bucket="photos", stamp=stamp()))
    after = upgraded.leader.store.last_applied
    assert after > since
    for told in (
        report(epoch=upgraded.epoch, drained_index=since),
        report(epoch=upgraded.epoch - 1, drained_index=after),
        report(epoch=upgraded.epoch + 1, drained_index=after),
    ):
        await upgraded.beat("storage-4", reconcile=told)
        await upgraded.pass_time(1)
        assert upgraded.has("storage-4")
    assert upgraded.leader.proposed[-1].kind != "remove_node"


async def test_a_proof_from_beyond_the_end_of_the_log_removes_nothing(upgraded: Scene) -> None:
    """No node has read references there: it is wrong, and what else it says may be, too."""
    await drained(upgraded)
    end = upgraded.leader.store.last_applied
    for beyond in (end + 1, 2**63 - 1):
        await upgraded.beat("storage-4", reconcile=report(epoch=upgraded.epoch, drained_index=beyond))
        await upgraded.pass_time(1)
        assert upgraded.has("storage-4")


async def test_a_node_that_does_not_drain_is_not_removed_whatever_it_reports(upgraded: Scene) -> None:
    """A drain that was cancelled, and begun anew after the proof."""
    since = await drained(upgraded)
    cancel = SetNodeState(node_id="storage-4", state=NodeState.ACTIVE, stamp=stamp())
    await upgraded.propose(cancel)
    await upgraded.beat("storage-4", reconcile=report(epoch=upgraded.epoch, drained_index=since + 1))
    await upgraded.pass_time(1)
    assert upgraded.has("storage-4")
    assert await drained(upgraded) > since + 1
    await upgraded.beat("storage-4", reconcile=report(epoch=upgraded.epoch, drained_index=since + 1))
    await upgraded.pass_time(1)
    assert upgraded.has("storage-4")


async def test_what_was_proved_to_an_earlier_leader_counts_no_more(upgraded: Scene) -> None:
    """It is told to the new one with the next heartbeat."""
    since = await drained(upgraded)
    await upgraded.beat("storage-4", reconcile=report(epoch=upgraded.epoch, drained_index=since + 1))
    upgraded.leader.term += 1
    await upgraded.pass_time(1)
    assert upgraded.has("storage-4")


async def test_a_draining_node_stays_draining_when_it_is_silent(upgraded: Scene) -> None:
    """Its silence is said; only the operator decides."""
    await drained(upgraded)
    await upgraded.pass_time(100, speaking=NODES[:3])
    assert (upgraded.node("storage-4").state, upgraded.node("storage-4").reason) == (
        NodeState.DRAINING,
        "silent for 100 s",
    )


async def test_a_drain_that_is_decided_meanwhile_is_not_undone(upgraded: Scene) -> None:
    """The leader saw an active node that is silent; the log has it draining by the time that the entry is applied."""
    stale = SetNodeState(node_id="storage-4", state=NodeState.INACTIVE, seen=NodeState.ACTIVE, stamp=stamp())
    await drained(upgraded)
    await upgraded.propose(stale)
    assert upgraded.node("storage-4").state is NodeState.DRAINING
    await upgraded.propose(SetNodeState(node_id="storage-4", state=NodeState.ACTIVE, stamp=stamp()))
    await upgraded.pass_time(50, speaking=NODES[:3])
    last = upgraded.leader.proposed[-1]
    assert isinstance(last, SetNodeState)
    assert (last.state, last.seen) == (NodeState.SUSPECT, NodeState.ACTIVE)


async def test_one_node_that_cannot_be_settled_keeps_no_other_from_it(upgraded: Scene) -> None:
    """Its entry is refused again and again; the others get their states."""
    upgraded.leader.refusals["storage-1"] = LeaderUnavailableError("not now")
    await upgraded.pass_time(61)
    assert {upgraded.node(node_id).state for node_id in NODES[1:]} == {NodeState.INACTIVE}
