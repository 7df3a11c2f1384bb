"""A GET counts what the nodes confirmed lately; strict reads never do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blake3 import blake3

from services.gateway.replicas.confirmations import Confirmations
from shared.consensus_calls.client import ReadContext
from shared.contracts.metadata import Answer, AnyQuery, DrainNode
from shared.errors import QuorumNotReachedError
from shared.placement import preference_list, read_order
from tests.unit.gateway.conftest import World
from tests.unit.gateway.fakes import unreachable
from tests.unit.gateway.transfers.test_replaced_nodes import STAMP, Disks
from tests.unit.gateway.transfers.transfer_calls import get, is_idle, only, put

BODY = b"remembered"
DIGEST = blake3(BODY).hexdigest()


async def put_on_recorded_disks(world: World) -> Disks:
    """Nodes whose answers carry fences, and a file that N of them acknowledged a moment ago."""
    disks = Disks(world)
    for node in world.metadata.store.node_map().nodes:
        await disks.record(node.id)
    await put(world, BODY)
    await is_idle(world)
    world.nodes.calls.clear()
    return disks


def in_order(world: World) -> list[str]:
    """The nodes as a read asks them."""
    return [node.id for node in read_order(DIGEST, world.metadata.store.node_map())]


def asked(world: World, what: str) -> set[str]:
    return {node_id for kind, node_id in world.nodes.calls if kind == what}


async def test_a_get_asks_one_node_for_the_bytes_and_none_about_replicas(world) -> None:
    """What the nodes acknowledged a moment ago need not be asked again; the answer says how old it is."""
    await put_on_recorded_disks(world)
    received = await get(world)
    assert (bytes(received.body), received.confirmed) == (BODY, 2)
    assert received.age_s > 0
    assert dict(world.nodes.calls) == {("get", in_order(world)[0]): 1}


async def test_without_memory_every_get_asks(make_world) -> None:
    """And its confirmations are of now."""
    world: World = await make_world(confirmation_max_age_s=0)
    await put_on_recorded_disks(world)
    for count in (1, 2):
        received = await get(world)
        assert (received.confirmed, received.age_s) == (2, 0)
        assert world.nodes.calls["has", in_order(world)[1]] == count


async def test_a_node_that_was_asked_need_not_be_asked_again(world) -> None:
    """A `has` is remembered as a put is."""
    await put_on_recorded_disks(world)
    quorums = replace(world.services.quorums, read_quorum=3)
    world.nodes.fences[in_order(world)[2]] += 1  # another Redis: what was remembered of it is dropped
    await get(world, quorums=replace(quorums, is_read_strict=True))
    world.nodes.calls.clear()
    received = await get(world, quorums=quorums)
    assert received.confirmed == 3
    assert asked(world, "has") == set()


async def test_a_strict_read_counts_nothing_that_is_remembered(world) -> None:
    """It asks, and fails when the others do not answer, however lately they confirmed."""
    await put_on_recorded_disks(world)
    strict = world.services.quorums.for_request(None, "2")
    received = await get(world, quorums=strict)
    assert (received.confirmed, received.age_s) == (2, 0)
    assert asked(world, "has") == {in_order(world)[1]}
    for node_id in in_order(world)[1:]:
        world.nodes.errors[node_id] = unreachable(node_id)
    with pytest.raises(BaseException) as caught:
        await get(world, quorums=strict)
    assert isinstance(only(caught.value), QuorumNotReachedError)


async def test_a_strict_setting_counts_nothing_that_is_remembered(make_world) -> None:
    """As the header does."""
    world: World = await make_world(strict_reads=True)
    await put_on_recorded_disks(world)
    received = await get(world)
    assert (received.confirmed, received.age_s) == (2, 0)
    assert asked(world, "has") == {in_order(world)[1]}


async def test_what_the_disk_before_confirmed_does_not_count(world) -> None:
    """A node is wiped and comes back: from the entry that records its new disk on, it must answer for itself."""
    disks = await put_on_recorded_disks(world)
    victim = in_order(world)[1]
    await disks.wipe(victim)
    received = await get(world, quorums=replace(world.services.quorums, read_quorum=3))
    assert received.confirmed == 2, "the victim has nothing"
    assert world.nodes.calls["has", victim] == 1
    await world.wait_until(lambda: victim in world.nodes.holders(DIGEST), "read repair")


async def test_a_node_that_turns_out_to_lack_the_chunk_is_dropped_at_once(world, monkeypatch) -> None:
    """The node that was to send the bytes has lost them: what it confirmed before is not counted in its place, nor later."""
    await put_on_recorded_disks(world)
    victim = in_order(world)[0]
    world.nodes.chunks[victim] = {}
    refuted: list[tuple[str, str]] = []
    monkeypatch.setattr(Confirmations, "refute", lambda _, node_id, digest: refuted.append((node_id, digest)))
    received = await get(world, quorums=replace(world.services.quorums, read_quorum=3))
    assert (bytes(received.body), received.confirmed) == (BODY, 2)
    assert (victim, DIGEST) in refuted


@pytest.mark.parametrize("read_quorum", [2, 3])
async def test_a_node_that_was_counted_and_then_lacked_the_chunk_counts_no_more(world, read_quorum) -> None:
    """The read asks it for the bytes after it has counted what it confirmed before."""
    await put_on_recorded_disks(world)
    for victim in in_order(world)[:2]:
        world.nodes.chunks[victim] = {}
    received = await get(world, quorums=replace(world.services.quorums, read_quorum=read_quorum))
    assert (bytes(received.body), received.confirmed) == (BODY, 1)


async def test_a_node_that_is_drained_is_no_expected_holder(make_world) -> None:
    """What it confirmed before says nothing about where replicas should be: it is asked like any other node."""
    world: World = await make_world("s1", "s2", "s3", "s4")
    await put_on_recorded_disks(world)
    node_map = world.metadata.store.node_map()
    holders = [node.id for node in preference_list(DIGEST, node_map.nodes)[:3]]
    assert world.nodes.holders(DIGEST) == set(holders)
    await world.metadata.upgrade(world.clock)
    await world.metadata.propose(DrainNode(node_id=holders[1], stamp=STAMP))
    received = await get(world, quorums=replace(world.services.quorums, read_quorum=3))
    assert holders[1] in asked(world, "has")
    assert received.confirmed == 3


async def test_confirmations_that_age_are_asked_for_again_and_missing_replicas_put_back(world, monkeypatch) -> None:
    """In the background: the read that counted one does not wait."""
    await put_on_recorded_disks(world)
    monkeypatch.setattr(Confirmations, "is_aging", lambda self, confirmation: True)
    second = in_order(world)[1]
    del world.nodes.of(second)[DIGEST]
    received = await get(world)
    assert received.confirmed == 2, "remembered, and not known to be missing yet"
    await world.wait_until(lambda: second in world.nodes.holders(DIGEST), "read repair")
    assert world.nodes.calls["has", second] == 1


async def test_nothing_that_another_cluster_confirmed_counts(world) -> None:
    """A cluster was restored at the same addresses: its answers carry another id, and every node is asked anew."""
    await put_on_recorded_disks(world)
    read = world.metadata.read

    async def read_restored(query: AnyQuery, **options: float | None) -> tuple[Answer, ReadContext]:
        answer, context = await read(query, **options)
        return answer, replace(context, cluster_id="restored")

    world.metadata.read = read_restored
    received = await get(world)
    assert (received.confirmed, received.age_s) == (2, 0), "asked, and not remembered"
    assert asked(world, "has") == {in_order(world)[1]}
