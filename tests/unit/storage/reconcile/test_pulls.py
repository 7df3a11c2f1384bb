"""Missing chunks come from other nodes: the right bytes, with the right start index, whatever single peers do."""

from __future__ import annotations

import pytest

from services.storage.reconcile import pulls
from shared.errors import DiskFullError, LeaderUnavailableError, NotReadyError
from shared.units import KIB
from tests.unit.storage.reconcile.world import Bodies, Node, make_chunks


async def missing_on_first(world, chunks: Bodies, nodes: int = 3) -> list[Node]:
    """n1 lacks all of `chunks`, every other node holds them with start index 3."""
    made = await world.add_all(nodes)
    for node in made[1:]:
        await node.hold(chunks, 3)
    world.log.publish(chunks)
    await made[0].follower.follow()
    return made


def count(node: Node, metric: str) -> float:
    return node.registry.get_sample_value(f"trivet_storage_{metric}") or 0


@pytest.mark.parametrize("size_bytes", [100, 64 * KIB, 64 * KIB + 1])
async def test_everything_missing_is_fetched_from_several_peers(size_bytes, world):
    """Small and large; the list is empty afterwards."""
    chunks = make_chunks(70, size_bytes)
    node, *_ = await missing_on_first(world, chunks)
    outcome = await node.puller.walk()
    assert (outcome.left, outcome.absent) == (0, [])
    assert {bytes.fromhex(digest): body for digest, body in node.tier.bodies.items()} == chunks
    assert node.expected.count("missing").chunks == 0
    assert set(node.asked) == {"n2", "n3"}
    assert count(node, "pulled_bytes_total") == 70 * size_bytes
    assert node.puller.throughput.bytes_per_s > 0
    assert node.budget.used_bytes == 0


async def test_a_pulled_replica_records_the_reference_or_what_its_source_knows(world):
    """Whichever is higher: a condemnation from before the reference must not delete it."""
    chunks = make_chunks(2)
    older, younger = chunks
    node, other, _ = await missing_on_first(world, chunks)
    for peer in world.nodes.values():
        if peer is not node:
            peer.tier.recorded[younger.hex()] = world.log.index + 50
    reference_index = world.log.index
    world.log.index += 60
    await node.puller.walk()
    assert node.tier.recorded[older.hex()] == reference_index > other.tier.recorded[older.hex()]
    assert node.tier.recorded[younger.hex()] == reference_index + 50


@pytest.mark.parametrize("size_bytes", [100, 64 * KIB + 1])
@pytest.mark.parametrize("above", [1, 2**62, 2**64])
async def test_a_start_index_that_the_log_has_not_reached_is_cut(above, size_bytes, world):
    """By where the log is after the answer: otherwise no condemnation would ever reach the replica."""
    chunks = make_chunks(3, size_bytes)
    node, *others = await missing_on_first(world, chunks)
    world.log.index += 5
    for peer in others:
        peer.tier.recorded = dict.fromkeys(peer.tier.recorded, world.log.index + above)
    assert (await node.puller.walk()).left == 0
    assert set(node.tier.recorded.values()) == {world.log.index}


async def test_the_log_is_asked_only_for_start_indexes_above_all_that_is_known(world):
    """Mostly a chunk was stored before it was referenced."""
    node, *others = await missing_on_first(world, make_chunks(3))
    for peer in others:
        peer.tier.recorded = dict.fromkeys(peer.tier.recorded, world.log.index)
    world.log.queries.clear()
    await node.puller.walk()
    assert world.log.queries == []


async def test_a_walk_ends_when_the_log_cannot_be_asked(world):
    """Nothing is stored under a start index that may be wrong; the next walk stores it."""
    chunks = make_chunks(3)
    node, *others = await missing_on_first(world, chunks)
    for peer in others:
        peer.tier.recorded = dict.fromkeys(peer.tier.recorded, world.log.index + 1)
    world.log.is_away = True
    with pytest.raises(LeaderUnavailableError):
        await node.puller.walk()
    assert (node.holds(), node.budget.used_bytes) == (set(), 0)
    world.log.is_away = False
    assert (await node.puller.walk()).left == 0


@pytest.mark.parametrize("size_bytes", [100, 64 * KIB + 1])
@pytest.mark.parametrize("trouble", ["away", "absent", "lies"])
async def test_a_peer_in_trouble_is_passed_over(trouble, size_bytes, world):
    """One that does not answer, lacks the chunk or sends something else."""
    chunks = make_chunks(10, size_bytes)
    node, other, _ = await missing_on_first(world, chunks)
    if trouble == "away":
        other.is_away = True
    elif trouble == "absent":
        other.tier.wipe()
    else:
        other.lies = {digest.hex(): b"something else" for digest in chunks}
    assert (await node.puller.walk()).left == 0
    assert node.holds() == set(chunks)
    assert (count(node, "wrong_pulls_total") > 0) == (trouble == "lies")


async def test_a_peer_that_did_not_answer_is_asked_last_for_a_while(world):
    """Not first for every page, which would wait for it again."""
    chunks = make_chunks(40)
    node, other, third = await missing_on_first(world, chunks)
    other.is_away = True
    await node.puller.walk()
    assert node.holds() == set(chunks)
    more = make_chunks(40)
    await third.hold(more)
    world.log.publish(more)
    await node.follower.follow()
    node.asked.clear()
    await node.puller.walk()
    assert node.asked == ["n3"]


async def test_what_no_node_has_stays_missing_and_is_named(world):
    """Apart from what some node could not be asked for."""
    chunks = make_chunks(3)
    absent, unknown, there = chunks
    node, other, third = await missing_on_first(world, chunks)
    for peer in (other, third):
        del peer.tier.bodies[absent.hex()]
    other.lies[unknown.hex()] = third.lies[unknown.hex()] = b"something else"
    outcome = await node.puller.walk()
    assert (outcome.left, outcome.absent) == (2, [absent])
    assert node.holds() == {there}
    assert node.expected.count("missing").chunks == 2


async def test_what_arrived_meanwhile_is_not_fetched(world):
    """A put of an upload, mostly."""
    chunks = make_chunks(5)
    node, *_ = await missing_on_first(world, chunks)
    await node.hold(chunks)
    assert (await node.puller.walk()).left == 0
    assert node.asked == []
    assert node.expected.count("missing").chunks == 0


@pytest.mark.parametrize("size_bytes", [100, 64 * KIB + 1])
async def test_a_full_node_stops_and_keeps_its_list(size_bytes, world):
    """What was stored before is off the list."""
    chunks = make_chunks(20, size_bytes)
    node, *_ = await missing_on_first(world, chunks)
    node.tier.put_error = DiskFullError("full")
    with pytest.raises(DiskFullError):
        await node.puller.walk()
    assert node.expected.count("missing").chunks == 20
    assert node.budget.used_bytes == 0
    node.tier.put_error = None
    assert (await node.puller.walk()).left == 0


async def test_more_than_a_page_is_fetched_in_one_walk(monkeypatch, world):
    """Page by page, slice by slice."""
    monkeypatch.setattr(pulls, "_PAGE", 7)
    monkeypatch.setattr(pulls, "_SLICE_BYTES", 300)
    chunks = make_chunks(50)
    node, *_ = await missing_on_first(world, chunks)
    assert (await node.puller.walk()).left == 0
    assert node.holds() == set(chunks)


async def test_a_tier_that_cannot_be_asked_ends_the_walk(world):
    """Rather than fetching everything again."""
    node, *_ = await missing_on_first(world, make_chunks(5))

    async def fail(*_: object) -> set[str]:
        raise NotReadyError("not yet")

    node.tier.has = fail
    with pytest.raises(NotReadyError):
        await node.puller.walk()
    assert node.asked == []
