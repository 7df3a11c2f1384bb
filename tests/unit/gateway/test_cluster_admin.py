"""Changes of the cluster: never fewer nodes than replicas by a drain, and never a node removed that may be the last holder."""

from __future__ import annotations

import pytest

from services.gateway.cluster_admin import Removal
from shared.contracts.cluster import NodeState, StorageNode
from shared.contracts.metadata import GetCluster, RemovalProof, RemoveNode, SetNodeState
from shared.errors import (
    ConflictError,
    DrainInProgressError,
    InvalidNameError,
    LastHolderError,
    LeaderUnavailableError,
    NodeNotFoundError,
    NodeNotLostError,
    RemovalNotProvedError,
    TooFewNodesError,
    TrivetError,
)
from tests.unit.gateway.fakes import unreachable
from tests.unit.reconcile_reports import report

FIVE = tuple(f"storage-{number}" for number in range(1, 6))


@pytest.fixture
async def five(make_world):
    """Five nodes for three replicas, in a cluster where every kind of entry may be proposed."""
    world = await make_world(*FIVE)
    await world.metadata.upgrade(world.clock)
    return world


async def nodes(world) -> dict[str, StorageNode]:
    answer, _ = await world.services.admin.cluster()
    return {node.id: node for node in answer.node_map.nodes}


async def set_state(world, node_id: str, state: NodeState) -> None:
    await world.metadata.propose(SetNodeState(node_id=node_id, state=state, stamp=world.clock.stamp()))


async def test_a_drain_begins_once_and_says_how_far_it_is(five) -> None:
    """The same request is repeated, and changes nothing any more."""
    admin = five.services.admin
    first = await admin.drain("storage-3")
    assert first == Removal("storage-3", draining_since=five.metadata.store.last_applied, chunks_left=None)
    drained = (await nodes(five))["storage-3"]
    assert (drained.state, drained.draining_since) == (NodeState.DRAINING, first.draining_since)
    epoch = (await admin.cluster())[0].node_map.epoch
    five.metadata.known["storage-3"] = {"reconcile": report(epoch=epoch, surplus_chunks=7)}
    assert await admin.drain("storage-3") == Removal("storage-3", draining_since=first.draining_since, chunks_left=7)
    five.metadata.known["storage-3"] = {"reconcile": report(epoch=epoch - 1, surplus_chunks=7)}
    assert (await admin.drain("storage-3")).chunks_left is None, "it spoke of another placement"
    assert (await admin.cluster())[0].node_map.epoch == epoch


async def test_a_live_node_that_does_not_answer_is_missed_before_the_leader_misses_it(five) -> None:
    """Which waits for heartbeats for half a minute or more; what it says of a suspect is not said twice."""
    admin = five.services.admin

    async def degraded() -> list[str]:
        answer, _ = await admin.cluster()
        return (await admin.summary(answer)).degraded

    assert await degraded() == []
    five.nodes.errors["storage-2"] = unreachable("storage-2")
    assert await degraded() == ["storage-2 does not serve this gateway"]
    await set_state(five, "storage-2", NodeState.SUSPECT)
    assert await degraded() == ["storage-2 is suspect"]


async def test_a_drain_below_the_number_of_replicas_is_refused(world) -> None:
    """With three nodes for three replicas; nothing is half done."""
    await world.metadata.upgrade(world.clock)
    before = await world.metadata.read(GetCluster())
    with pytest.raises(TooFewNodesError) as refused:
        await world.services.admin.drain("storage-3")
    assert refused.value.definite
    assert (await world.metadata.read(GetCluster()))[0] == before[0]


async def test_nodes_that_are_away_do_not_count_as_left(five) -> None:
    """Of five, two are away: draining a third would leave two."""
    await set_state(five, "storage-1", NodeState.INACTIVE)
    await set_state(five, "storage-2", NodeState.INACTIVE)
    with pytest.raises(TooFewNodesError):
        await five.services.admin.drain("storage-3")
    await set_state(five, "storage-2", NodeState.SUSPECT)
    assert not (await five.services.admin.drain("storage-3")).is_removed


async def test_two_drains_at_once_are_refused(five) -> None:
    """The first one goes on; when it is cancelled, the second may begin."""
    admin = five.services.admin
    await admin.drain("storage-3")
    with pytest.raises(DrainInProgressError) as refused:
        await admin.drain("storage-4")
    assert refused.value.definite
    assert {node_id: node.state for node_id, node in (await nodes(five)).items() if node.state != NodeState.ACTIVE} == {
        "storage-3": NodeState.DRAINING
    }
    await admin.cancel_drain("storage-3")
    await admin.drain("storage-4")
    states = await nodes(five)
    assert (states["storage-3"].state, states["storage-3"].draining_since) == (NodeState.ACTIVE, None)
    assert states["storage-4"].state is NodeState.DRAINING


async def test_only_a_drain_can_be_cancelled(five) -> None:
    """An inactive node would otherwise be called active."""
    await set_state(five, "storage-3", NodeState.INACTIVE)
    with pytest.raises(ConflictError) as refused:
        await five.services.admin.cancel_drain("storage-3")
    assert refused.value.definite
    assert (await nodes(five))["storage-3"].state is NodeState.INACTIVE


@pytest.mark.parametrize(("node_id", "error"), [("storage-9", NodeNotFoundError), ("../etc", InvalidNameError)])
async def test_an_unknown_node_is_refused_whatever_is_asked(five, node_id: str, error: type[TrivetError]) -> None:
    """One of another cluster is as unknown as one that never was; no entry is proposed."""
    admin, proposed = five.services.admin, len(five.metadata.proposed)
    for act in (admin.drain, admin.cancel_drain, admin.remove_lost):
        with pytest.raises(error):
            await act(node_id)
    assert len(five.metadata.proposed) == proposed


async def test_a_node_that_is_heard_of_is_not_lost(five) -> None:
    """Active, suspect or draining: it is drained, or stopped first."""
    admin = five.services.admin
    for state in (NodeState.ACTIVE, NodeState.SUSPECT, NodeState.DRAINING):
        await set_state(five, "storage-3", state)
        with pytest.raises(NodeNotLostError) as refused:
            await admin.remove_lost("storage-3")
        assert refused.value.definite
    five.metadata.known["storage-3"] = {"reason": "silent for 70 s"}
    assert (await admin.remove_lost("storage-3")).is_removed, "it went away while it drained"
    assert "storage-3" not in await nodes(five)


async def test_a_lost_node_is_replaced_by_another_one(five) -> None:
    """While it is heard of nothing is changed; afterwards the one is admitted, and the other gone."""
    admin, proposed = five.services.admin, len(five.metadata.proposed)
    with pytest.raises(NodeNotLostError):
        await admin.replace("storage-3", "storage-6")
    with pytest.raises(ConflictError):
        await admin.replace("storage-3", "storage-3")
    with pytest.raises(InvalidNameError):
        await admin.replace("storage-3", "no id")
    assert len(five.metadata.proposed) == proposed
    await set_state(five, "storage-3", NodeState.INACTIVE)
    assert await admin.replace("storage-3", "storage-6") == Removal("storage-3", chunks_at_risk=None)
    assert set(await nodes(five)) == {*FIVE, "storage-6"} - {"storage-3"}


async def test_a_replacement_that_ends_half_way_is_not_called_undone(five, monkeypatch) -> None:
    """The new node is in already; the same call again does the rest."""
    admin, propose = five.services.admin, five.metadata.propose
    await set_state(five, "storage-3", NodeState.INACTIVE)

    async def without_leader(command, **others):
        if isinstance(command, RemoveNode):
            raise LeaderUnavailableError("no leader")
        return await propose(command, **others)

    monkeypatch.setattr(five.metadata, "propose", without_leader)
    for is_definite in (False, True):  # the second time it changes nothing
        with pytest.raises(LeaderUnavailableError) as refused:
            await admin.replace("storage-3", "storage-6")
        assert refused.value.definite is is_definite
    assert {"storage-3", "storage-6"} <= set(await nodes(five))
    monkeypatch.undo()
    assert await admin.replace("storage-3", "storage-6") == Removal("storage-3", chunks_at_risk=None)
    assert set(await nodes(five)) == {*FIVE, "storage-6"} - {"storage-3"}


async def test_a_lost_node_that_comes_back_meanwhile_is_not_replaced(five, monkeypatch) -> None:
    """It may be the only holder of something."""
    admin, admit = five.services.admin, five.services.admin.admit
    await set_state(five, "storage-3", NodeState.INACTIVE)

    async def late(node_id: str) -> bool:
        await set_state(five, "storage-3", NodeState.ACTIVE)
        return await admit(node_id)

    monkeypatch.setattr(admin, "admit", late)
    with pytest.raises(NodeNotLostError) as refused:
        await admin.replace("storage-3", "storage-6")
    assert not refused.value.definite
    assert {"storage-3", "storage-6"} <= set(await nodes(five))


async def test_the_last_holder_is_not_removed(world) -> None:
    """With no other node live, whatever is stored may be on this one alone."""
    await world.metadata.upgrade(world.clock)
    for node_id in ("storage-1", "storage-2", "storage-3"):
        await set_state(world, node_id, NodeState.INACTIVE)
    with pytest.raises(LastHolderError) as refused:
        await world.services.admin.remove_lost("storage-3")
    assert refused.value.definite
    assert "storage-3" in await nodes(world)
    await set_state(world, "storage-1", NodeState.ACTIVE)
    assert await world.services.admin.remove_lost("storage-3") == Removal("storage-3", chunks_at_risk=None)


async def test_what_may_be_gone_with_a_lost_node_is_told(five) -> None:
    """At most a third of the replicas that are missing at the others; null while one of them has not reported."""
    await set_state(five, "storage-3", NodeState.INACTIVE)
    epoch = (await five.services.admin.cluster())[0].node_map.epoch
    for node_id, missing in (("storage-1", 4), ("storage-2", 3), ("storage-4", 0), ("storage-5", 0)):
        five.metadata.known[node_id] = {"reconcile": report(epoch=epoch, missing_chunks=missing)}
    assert (await five.services.admin.remove_lost("storage-3")).chunks_at_risk == 2


async def test_a_removal_without_proof_is_refused_by_the_log(five) -> None:
    """Whoever proposes it: a drain that was begun anew, another epoch or another incarnation void what was proved."""
    since = (await five.services.admin.drain("storage-3")).draining_since
    answer, _ = await five.services.admin.cluster()
    node, epoch = (await nodes(five))["storage-3"], answer.node_map.epoch
    good = RemovalProof(log_index=since + 1, epoch=epoch, incarnation=node.incarnation)
    for proof in (
        None,
        good.model_copy(update={"log_index": since - 1}),
        good.model_copy(update={"epoch": epoch - 1}),
        good.model_copy(update={"incarnation": node.incarnation + 1}),
    ):
        with pytest.raises(RemovalNotProvedError):
            await five.metadata.propose(RemoveNode(node_id="storage-3", proof=proof, stamp=five.clock.stamp()))
        assert "storage-3" in await nodes(five)
    await five.metadata.propose(RemoveNode(node_id="storage-3", proof=good, stamp=five.clock.stamp()))
    assert "storage-3" not in await nodes(five)


async def test_a_node_is_admitted_once_by_id(five) -> None:
    """Repeating changes nothing; a bad id is refused; one that never dialled in may go at once."""
    admin = five.services.admin
    assert await admin.admit("storage-6")
    assert not await admin.admit("storage-6")
    with pytest.raises(InvalidNameError):
        await admin.admit("../etc")
    assert await admin.drain("storage-6") == Removal("storage-6", chunks_at_risk=0)
    with pytest.raises(NodeNotFoundError):
        await admin.drain("storage-6")
