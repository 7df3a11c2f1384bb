"""Surplus leaves when all expected holders have it for good; orphans when the log says so; nothing else leaves."""

from __future__ import annotations

import itertools

import pytest

from services.storage import placement_view
from services.storage.reconcile import extra_chunks
from shared.background_tasks import BackgroundTasks
from shared.contracts.cluster import NodeState
from shared.contracts.references import CondemnChunks
from shared.errors import LeaderUnavailableError
from tests.integration.storage.support import poll
from tests.unit.storage.reconcile.world import Bodies, Node, make_chunks


async def with_surplus(world, count: int = 40) -> tuple[Node, Bodies, set[bytes]]:
    """Four nodes, all of which hold all chunks; n1 with start index 9; and which of them n1 is not expected to hold."""
    nodes = await world.add_all(4)
    chunks = make_chunks(count)
    world.log.publish(chunks)
    for node in nodes:
        await node.hold(chunks, 9 if node.name == "n1" else 3)
    for node in nodes:
        await node.follow_and_compare()
    return nodes[0], chunks, set(chunks) - nodes[0].wants()


async def test_surplus_is_dropped_when_all_expected_holders_confirm(world):
    """Each of them has recorded this node's start index before."""
    node, chunks, surplus = await with_surplus(world)
    outcome = await node.extra.walk()
    assert (outcome.surplus, outcome.surplus_left, outcome.orphans) == (len(surplus), 0, 0)
    assert node.holds() == set(chunks) - surplus
    assert node.expected.count("surplus").chunks == node.expected.count("unchecked").chunks == 0
    for digest in surplus:
        holders = [peer for peer in world.nodes.values() if digest in peer.holds()]
        assert len(holders) == 3
        assert {peer.tier.recorded[digest.hex()] for peer in holders} == {9}


async def test_every_node_drops_at_the_same_time_and_each_chunk_is_left_on_exactly_three(world):
    """They ask each other."""
    _, chunks, _ = await with_surplus(world)
    for node in world.nodes.values():
        await node.extra.walk()
    for digest in chunks:
        assert sum(digest in node.holds() for node in world.nodes.values()) == 3


@pytest.mark.parametrize("trouble", ["away", "absent", "unverified", "older epoch"])
async def test_surplus_stays_while_one_expected_holder_does_not_confirm(trouble, world):
    """Whatever its reason is."""
    node, chunks, _ = await with_surplus(world)
    other = world.nodes["n2"]
    if trouble == "away":
        other.is_away = True
    elif trouble == "absent":
        other.tier.wipe()
    elif trouble == "unverified":
        other.tier.verified.clear()
    else:
        world.log.set_node("n2", NodeState.SUSPECT)
        for peer in (node, world.nodes["n3"], world.nodes["n4"]):
            await peer.follower.follow()
    await node.extra.walk()
    left = {digest for digest in chunks if digest in node.holds() - node.wants()}
    assert left
    assert all("n2" in {holder.id for holder in node.view.holders(digest)} for digest in left)
    assert node.expected.count("surplus").chunks == len(left)


async def test_a_peer_with_a_newer_node_map_is_noticed(world):
    """So that this node reads it at once."""
    node, _, surplus = await with_surplus(world)
    world.log.set_node("n2", NodeState.SUSPECT)
    await world.nodes["n2"].follower.follow()
    assert (await node.extra.walk()).is_outdated
    await node.follower.follow()
    assert not (await node.extra.walk()).is_outdated
    assert surplus & node.holds()


async def test_a_walk_ends_when_a_peer_has_a_newer_node_map(world, monkeypatch):
    """It would ask nodes in vain that are away by now, and be long over it; after the next look at the log it is repeated."""
    monkeypatch.setattr(extra_chunks, "_PAGE", 1)
    node, _, surplus = await with_surplus(world)
    world.log.set_node("n2", NodeState.SUSPECT)
    for peer in ("n2", "n3", "n4"):
        await world.nodes[peer].follower.follow()
    outcome = await node.extra.walk()
    assert not outcome.is_whole
    assert {len(world.nodes[peer].confirms) for peer in ("n2", "n3", "n4")} == {1}
    assert await node.reconciler._follow_once(0)
    assert await node.reconciler._drop()
    assert not node.holds() & surplus


async def test_verify_counts_no_differences_by_an_old_node_map(world):
    """The count is of all that is held, or there is none; the next round counts again."""
    node, _, surplus = await with_surplus(world)
    await node.verifier.start()
    confirm, is_changed = node.confirm, False

    async def change_first(*question):
        nonlocal is_changed
        if not is_changed:
            is_changed = True
            world.log.set_node("n2", NodeState.SUSPECT)
            for peer in ("n2", "n3", "n4"):
                await world.nodes[peer].follower.follow()
        return await confirm(*question)

    node.confirm = change_first
    assert await node.reconciler._follow_once(0)
    await node.reconciler._count_step()
    assert node.verifier.wants_count
    assert await node.reconciler._follow_once(1)
    await node.reconciler._count_step()
    assert not node.verifier.wants_count
    assert node.verifier.report().surplus_chunks == len(surplus)


async def test_an_upload_that_comes_while_holders_are_asked_keeps_its_replica(world):
    """Its start index is above the one that they recorded."""
    node, _, surplus = await with_surplus(world)
    kept = min(surplus)
    ask = node.confirm

    async def put_meanwhile(*args):
        answer = await ask(*args)
        await node.tier.has([kept.hex()], node.tier.recorded.get(kept.hex(), 0) + 1)
        return answer

    node.confirm = put_meanwhile
    await node.extra.walk()
    assert node.holds() & surplus == {kept}
    node.confirm = ask
    await node.extra.walk()
    assert not node.holds() & surplus


async def test_a_decision_of_an_epoch_that_is_over_deletes_nothing(world):
    """The node map changed while the holders were asked."""
    node, _, surplus = await with_surplus(world)
    ask = node.confirm

    async def change_meanwhile(*args):
        answer = await ask(*args)
        world.log.set_node("n4", NodeState.SUSPECT)
        await node.follower.follow()
        return answer

    node.confirm = change_meanwhile
    await node.extra.walk()
    assert surplus <= node.holds()


async def test_with_fewer_live_nodes_than_replicas_nothing_is_surplus(world):
    """A draining node keeps what it has, too."""
    nodes = await world.add_all(3)
    chunks = make_chunks(10)
    world.log.publish(chunks)
    for node in nodes:
        await node.hold(chunks)
    world.log.set_node("n1", NodeState.DRAINING)
    for node in nodes:
        await node.follow_and_compare()
    outcome = await nodes[0].extra.walk()
    assert (outcome.surplus, outcome.surplus_left) == (10, 10)
    assert nodes[0].holds() == set(chunks)
    assert not any(node.confirms for node in nodes)


async def test_a_chunk_of_a_file_that_the_set_does_not_know_yet_is_neither(world):
    """Its upload was published since the comparison."""
    (node,) = await world.add_all(1)
    chunks = make_chunks(5)
    await node.hold(chunks)
    await node.follow_and_compare()
    world.log.publish(chunks)
    outcome = await node.extra.walk()
    assert (outcome.surplus, outcome.orphans) == (0, 0)
    assert node.holds() == set(chunks)


async def test_old_orphans_are_proposed_and_leave_by_the_log(world):
    """Young ones stay; and so does one of which an upload recorded a later index."""
    (node,) = await world.add_all(1)
    old, young, taken = make_chunks(5), make_chunks(5), make_chunks(1)
    world.log.index = 30
    await node.hold(old | taken, 10)
    await node.hold(young, 20)
    world.log.aged_index = 15
    await node.follow_and_compare()
    outcome = await node.extra.walk()
    assert outcome.orphans == 11
    assert node.holds() == set(old | young | taken)
    assert node.expected.count("orphans").chunks == 11
    await node.tier.has([digest.hex() for digest in taken], world.log.index + 1)
    await node.follower.follow()
    assert node.holds() == set(young | taken)


async def test_a_condemnation_that_was_passed_over_is_found_by_the_walk(world):
    """After a long absence the changes begin later; the log still knows when the chunk was condemned."""
    (node,) = await world.add_all(1)
    chunks = make_chunks(4)
    kept, *gone = chunks
    await node.hold(chunks, 3)
    world.log.index = 20
    world.log.condemned = dict.fromkeys(chunks, 10)
    node.tier.recorded[kept.hex()] = 10
    node.expected.advance(type(node.expected.position)(20))
    await node.follow_and_compare()
    proposals = []

    async def propose(command):
        proposals.append(command)

    world.log.propose = propose
    await node.extra.walk()
    assert node.holds() == {kept}
    assert proposals == []
    assert gone


async def test_proposals_say_what_the_node_has_recorded(world):
    """At most as many as an entry takes."""
    (node,) = await world.add_all(1)
    chunks = make_chunks(3)
    for number, (digest, body) in enumerate(chunks.items()):
        await node.hold({digest: body}, number)
    world.log.aged_index = 1
    proposals: list[CondemnChunks] = []

    async def propose(command):
        proposals.append(command)

    world.log.propose = propose
    world.log.index = 5
    await node.follow_and_compare()
    await node.extra.walk()
    (proposal,) = proposals
    found = {proposal.digests[32 * at : 32 * at + 32]: start for at, start in enumerate(proposal.start_indexes)}
    assert found == {digest: number for number, digest in enumerate(chunks) if number <= 1}


async def test_many_extra_chunks_are_walked_page_by_page(monkeypatch, world):
    """Whatever leaves on the way."""
    monkeypatch.setattr(extra_chunks, "_PAGE", 3)
    node, chunks, surplus = await with_surplus(world)
    assert (await node.extra.walk()).surplus == len(surplus) > 3
    assert node.holds() == set(chunks) - surplus


async def test_without_consensus_nothing_leaves(world):
    """Absence of an answer is no answer."""
    node, _, surplus = await with_surplus(world)
    world.log.is_away = True
    with pytest.raises(LeaderUnavailableError):
        await node.extra.walk()
    assert surplus <= node.holds()


async def test_a_peer_that_confirms_a_few_at_a_time_is_asked_until_all_are_confirmed(world):
    """It reads only so much for one question."""
    node, _, surplus = await with_surplus(world)
    peer = world.nodes["n2"]
    answer = peer.answer_confirm

    async def confirm_three(epoch, start_indexes):
        said = await answer(epoch, start_indexes)
        return said.model_copy(update={"confirmed": said.confirmed[:3]})

    peer.answer_confirm = confirm_three
    outcome = await node.extra.walk()
    assert (outcome.surplus, outcome.surplus_left) == (len(surplus), 0)
    assert not node.holds() & surplus


async def test_a_walk_ends_where_nothing_is_confirmed_yet_and_goes_further_the_next_time(world, monkeypatch):
    """The nodes that should hold the rest are at it, in the same order; but a page that is never confirmed stops no other one."""
    monkeypatch.setattr(extra_chunks, "_PAGE", 1)
    node, _, surplus = await with_surplus(world, 160)
    for name in ("n2", "n3", "n4"):
        for digest in sorted(surplus)[:7]:
            world.nodes[name].tier.verified.discard(digest.hex())
    asked = []
    for _ in range(3):
        before = len(world.nodes["n2"].confirms)
        outcome = await node.extra.walk()
        asked.append(len(world.nodes["n2"].confirms) - before)
        if outcome.is_whole:
            break
    assert asked == [2, 4, len(surplus)]
    assert node.holds() & surplus == set(sorted(surplus)[:7])


async def test_a_count_goes_on_whatever_is_confirmed(world, monkeypatch):
    """Verify counts all surplus."""
    monkeypatch.setattr(extra_chunks, "_PAGE", 1)
    node, _, surplus = await with_surplus(world)
    world.nodes["n2"].tier.verified.clear()
    world.nodes["n3"].tier.verified.clear()
    world.nodes["n4"].tier.verified.clear()
    outcome = await node.extra.walk(is_patient=True)
    assert (outcome.is_whole, outcome.surplus, outcome.dropped) == (True, len(surplus), 0)


async def test_while_requests_come_what_is_missing_elsewhere_comes_first(world):
    """For a minute after a change of the nodes, and not on a node that is drained."""
    node, _, surplus = await with_surplus(world)
    assert node.extra.put_off_s() == 0
    node.foreground.record()
    assert node.extra.put_off_s() == 5  # and then the next look
    assert await node.reconciler._drop_step() == 5
    assert surplus <= node.holds()
    node.now_s = 59.0
    await node.follower.follow()  # the map is the same
    assert node.extra.put_off_s() == 1
    node.now_s = 60.0
    assert node.extra.put_off_s() == 0
    world.log.set_node("n4", NodeState.INACTIVE)
    await node.follower.follow()
    assert node.extra.put_off_s() == 5
    world.log.set_node("n1", NodeState.DRAINING)
    await node.follower.follow()
    assert node.extra.put_off_s() == 0


async def test_nodes_that_come_and_go_do_not_keep_surplus_for_ever(world):
    """Ten minutes after the first of the changes it is dropped, until a minute is quiet."""
    node, _, _ = await with_surplus(world)

    async def change_at(now_s: float, state: NodeState) -> float:
        node.now_s = now_s
        node.foreground.record()
        world.log.set_node("n4", state)
        await node.follower.follow()
        return node.extra.put_off_s()

    states = itertools.cycle([NodeState.INACTIVE, NodeState.ACTIVE])
    put_off_s = [await change_at(now_s, next(states)) for now_s in range(50, 750, 50)]
    assert put_off_s == [5.0] * 11 + [0.0] * 3
    assert await change_at(760.0, next(states)) == 5.0


async def test_what_was_put_off_is_dropped_later(world, monkeypatch):
    """By the loop itself: nothing else wakes it."""
    monkeypatch.setattr(placement_view, "_QUIET_S", 0.05)
    node, chunks, surplus = await with_surplus(world)
    node.foreground.record()
    put_off_s, said = node.extra.put_off_s, list[float]()
    monkeypatch.setattr(node.extra, "put_off_s", lambda: said.append(put_off_s()) or said[-1])
    async with BackgroundTasks() as tasks:
        node.reconciler.start(tasks)
        await poll(lambda: said)
        assert set(said) == {0.05}
        assert surplus <= node.holds()
        node.now_s = 1.0
        await poll(lambda: node.holds() == set(chunks) - surplus)
