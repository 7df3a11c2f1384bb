"""The expected set follows the log: listed once, changed by what files come and go, made anew when placement changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

import pytest

from services.storage.ports import ConditionalDelete
from services.storage.reconcile import follower
from services.storage.reconcile.expected_chunks import Position
from shared.contracts.cluster import NodeState
from shared.contracts.references import ListReferences
from shared.errors import LeaderUnavailableError, UnavailableError
from shared.units import MIB
from tests.unit.storage.reconcile.world import Node, make_chunks


def listings(node: Node) -> int:
    """Pages of references that were asked for since the last look."""
    count = sum(isinstance(query, ListReferences) for query in node.log.queries)
    node.log.queries.clear()
    return count


async def expected(node: Node) -> set[bytes]:
    return {digest for digest, _ in await node.expected.list_prefix("")}


async def test_the_set_is_what_placement_gives_this_node_of_all_references(world):
    """Several pages of them; with more nodes than replicas it is a part."""
    world.log.page = 100
    world.log.publish(make_chunks(550))
    nodes = await world.add_all(4)
    assert all(node.expected.position == Position(world.log.index) for node in nodes)
    counts = []
    for node in nodes:
        found = await expected(node)
        assert found == node.wants()
        counts.append(len(found))
    assert sum(counts) == 3 * 550


async def test_files_that_come_and_go_change_the_set(world):
    """Only what concerns this node; nothing is listed again."""
    node, *_ = await world.add_all(4)
    listings(node)
    first, second = make_chunks(50), make_chunks(50)
    version = world.log.publish(first)
    world.log.publish(second)
    await node.follower.follow()
    assert await expected(node) == node.wants()
    world.log.forget(version)
    await node.follower.follow()
    assert await expected(node) == node.wants() <= set(second)
    assert listings(node) == 0


async def test_an_idle_round_is_one_read_and_no_write(world):
    """The position goes on in memory."""
    (node,) = await world.add_all(1)
    world.log.index += 100
    world.log.queries.clear()
    assert await node.follower.follow() == 0
    assert len(world.log.queries) == 1
    assert node.expected.position == Position(world.log.index)


async def test_a_chunk_that_was_condemned_is_deleted_here(world):
    """Unless an upload recorded the index of the condemnation, or a later one; or a file refers to it again."""
    (node,) = await world.add_all(1)
    chunks = make_chunks(4)
    version = world.log.publish(chunks)
    _old, equal, young, again = chunks
    await node.hold(chunks, start_index=version)
    await node.follower.follow()
    world.log.forget(version)
    node.tier.recorded[equal.hex()] = world.log.index
    node.tier.recorded[young.hex()] = world.log.index + 5
    world.log.publish({again: chunks[again]})
    await node.follower.follow()
    assert node.holds() == {equal, young, again}
    assert await expected(node) == {again}


class Rests:
    """In place of a node's clock and pace: a deletion takes a second, and a rest three. What each rest was for."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.made: list[tuple[str, float]] = []
        self.for_chunks: list[int] = []
        self.slices: list[list[str]] = []
        self._delete_if = node.tier.delete_if
        monkeypatch.setattr(follower, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(node.pace, "rest", partial(self._rest, "rest"))
        monkeypatch.setattr(node.pace, "rest_after_deletion", partial(self._rest, "deletion"))
        monkeypatch.setattr(node.tier, "delete_if", self._delete_in_a_second)

    async def _rest(self, kind: str, amount: int, began_s: float) -> None:
        if kind == "deletion":
            self.for_chunks.append(amount)
        self.made.append((kind, self.now_s - began_s))
        self.now_s += 3 * self.made[-1][1]

    async def _delete_in_a_second(self, candidates: Sequence[ConditionalDelete]) -> set[str]:
        self.slices.append([each.digest for each in candidates])
        self.now_s += 1
        return await self._delete_if(candidates)


async def test_it_rests_for_what_it_deletes_and_not_for_the_rests(world, monkeypatch):
    """A mass deletion would otherwise keep a node from following the log for four times as long."""
    (node,) = await world.add_all(1)
    chunks = make_chunks(200)
    version = world.log.publish(chunks)
    await node.hold(chunks, start_index=version)
    await node.follower.follow()
    world.log.forget(version)
    world.log.publish(make_chunks(1))
    rests = Rests(node, monkeypatch)
    await node.follower.follow()
    assert node.holds() == set()
    assert rests.made == [("deletion", 1)] * 4 + [("rest", 0)]


async def test_a_mass_deletion_that_goes_on_for_long_is_hurried(world, monkeypatch):
    """What it frees is needed some day; with the last page there is time again."""
    world.log.page = 64
    (node,) = await world.add_all(1)
    versions = []
    for _ in range(20):
        chunks = make_chunks(64)
        versions.append(world.log.publish(chunks))
        await node.hold(chunks, start_index=versions[-1])
    await node.follower.follow()
    for version in versions:
        world.log.forget(version)
    rests = Rests(node, monkeypatch)
    await node.follower.follow()
    assert node.holds() == set()
    assert rests.for_chunks == [64] * 8 + [0] * 11 + [64]


async def test_what_is_deleted_between_two_rests_is_bounded_in_bytes(world, monkeypatch):
    """A file system that discards what is freed has every sync wait for it. A chunk that is not expected here counts nothing."""
    (node,) = await world.add_all(1)
    chunks = make_chunks(40, size_bytes=3 * MIB) | make_chunks(100)
    version = world.log.publish(chunks)
    await node.hold(chunks, start_index=version)
    await node.follower.follow()
    world.log.forget(version)
    world.log.condemned |= dict.fromkeys(make_chunks(100), world.log.index)
    rests = Rests(node, monkeypatch)
    await node.follower.follow()
    assert node.holds() == set()
    sizes = {digest.hex(): len(body) for digest, body in chunks.items()}
    assert sum(len(part) for part in rests.slices) == 240
    assert sum(rests.for_chunks) == 140
    assert 10 <= len(rests.slices) <= 18
    assert all(len(part) <= 64 and sum(sizes.get(digest, 0) for digest in part) <= 12 * MIB for part in rests.slices)


async def test_a_node_that_was_away_during_the_deletion_deletes_when_it_is_back(world):
    """Its position is on disk; the file is not fetched again."""
    one, two = await world.add_all(2)
    chunks = make_chunks(20)
    version = world.log.publish(chunks)
    for node in (one, two):
        await node.hold(chunks, version)
        await node.follower.follow()
    await two.close()
    world.log.forget(version)
    await one.follower.follow()
    two.make()
    await two.open()
    await two.follow_and_compare()
    assert two.holds() == set()
    assert two.expected.count("missing").chunks == 0


async def test_what_was_not_done_is_done_again(world):
    """The position moves only after the deletions are made."""
    (node,) = await world.add_all(1)
    chunks = make_chunks(3)
    version = world.log.publish(chunks)
    await node.hold(chunks, version)
    await node.follower.follow()
    before = node.expected.position
    world.log.forget(version)
    delete_if = node.tier.delete_if

    async def fail(_: object) -> set[str]:
        raise UnavailableError("the disk failed")

    node.tier.delete_if = fail
    with pytest.raises(UnavailableError):
        await node.follower.follow()
    assert node.expected.position == before
    node.tier.delete_if = delete_if
    await node.follower.follow()
    assert node.holds() == set()


async def test_new_references_that_are_not_held_are_missing_at_once(world):
    """Without a comparison; those that are held are not."""
    (node,) = await world.add_all(1)
    held, absent = make_chunks(5), make_chunks(5)
    await node.hold(held)
    index = world.log.publish(held | absent)
    assert await node.follower.follow() == 5
    page = await node.expected.missing_page(b"", 100)
    assert {chunk.digest for chunk in page} == set(absent)
    assert {chunk.reference_index for chunk in page} == {index}


async def test_what_was_missing_before_a_failure_is_told_after_it(world, monkeypatch):
    """Their page is not read again, so nobody else would say that there is something to fetch."""
    (node,) = await world.add_all(1)
    first, second = make_chunks(3), make_chunks(2)
    world.log.publish(first)
    world.log.publish(second)
    apply = node.follower._apply

    async def apply_and_lose_consensus(changes) -> int:
        added = await apply(changes)
        world.log.is_away = True
        return added

    with monkeypatch.context() as failing:
        failing.setattr(node.follower, "_apply", apply_and_lose_consensus)
        with pytest.raises(LeaderUnavailableError):
            await node.follower.follow()
    world.log.is_away = False
    assert await node.follower.follow() == 5
    await node.hold(first | second)
    assert await node.follower.follow() == 0


@pytest.mark.parametrize("is_compacted", [False, True])
async def test_a_node_that_was_away_for_too_long_lists_everything_anew(is_compacted, world):
    """Where changes are forgotten it goes on from where the listing began."""
    (node,) = await world.add_all(1)
    version = world.log.publish(make_chunks(20))
    world.log.publish(make_chunks(20))
    await node.follower.follow()
    world.log.forget(version)
    if is_compacted:
        world.log.condemned.clear()
        world.log.horizon = world.log.index
        world.log.index += 1
    listings(node)
    await node.follower.follow()
    assert await expected(node) == node.wants()
    assert listings(node) == int(is_compacted)
    assert node.expected.position == Position(world.log.index)
    assert not node.follower.is_listing


async def test_everything_is_listed_anew_when_placement_changes_and_not_when_the_epoch_does(world):
    """A suspect node keeps its place, one that is away loses it, and gets it back."""
    world.log.publish(make_chunks(200))
    nodes = await world.add_all(4)
    node = nodes[0]
    listings(node)
    world.log.set_node("n4", NodeState.SUSPECT)
    await node.follower.follow()
    assert (node.view.epoch, listings(node)) == (world.log.epoch, 0)
    world.log.set_node("n4", NodeState.INACTIVE)
    await node.follower.follow()
    assert listings(node) == 1
    assert await expected(node) == set(world.log.references())
    world.log.set_node("n4")
    await node.follower.follow()
    assert await expected(node) == node.wants() != set(world.log.references())


async def test_condemned_chunks_are_not_passed_over_by_a_listing(world):
    """It begins where the log stands, and the changes are followed from before it."""
    nodes = await world.add_all(4)
    chunks = make_chunks(100)
    version = world.log.publish(chunks)
    for node in nodes:
        await node.follower.follow()
        await node.hold({digest: chunks[digest] for digest in node.wants()}, version)
    world.log.forget(version)
    world.log.set_node("n4", NodeState.INACTIVE)
    for node in nodes[:3]:
        await node.follower.follow()
        assert node.holds() == set()


async def test_a_listing_during_which_placement_changes_begins_again(world):
    """The set is never made of two node maps."""
    world.log.page = 50
    world.log.publish(make_chunks(300))
    nodes = await world.add_all(4)
    node = nodes[0]
    read, calls = world.log.read, 0

    async def change_in_the_middle(query):
        nonlocal calls
        calls += isinstance(query, ListReferences)
        if calls == 3:
            calls += 1
            world.log.set_node("n3", NodeState.INACTIVE)
        return await read(query)

    world.log.read = change_in_the_middle
    world.log.set_node("n4", NodeState.INACTIVE)
    await node.follower.follow()
    assert await expected(node) == node.wants() == set(world.log.references())
    assert node.expected.placement_key == node.view.key


@pytest.mark.parametrize("state", [NodeState.INACTIVE, None])
async def test_a_node_that_the_map_does_not_count_on_decides_nothing(state, world):
    """It keeps what it holds and what it knows, and asks again."""
    chunks = make_chunks(50)
    world.log.publish(chunks)
    nodes = await world.add_all(4)
    node = nodes[0]
    before = await expected(node)
    if state is None:
        world.log.nodes = [known for known in world.log.nodes if known.id != "n1"]
        world.log.index += 1
        world.log.epoch += 1
    else:
        world.log.set_node("n1", state)
    assert await node.follower.follow() is None
    assert await expected(node) == before
    world.log.set_node("n1")
    assert await node.follower.follow() is not None


async def test_a_draining_node_expects_nothing(world):
    """No page is read for that."""
    world.log.publish(make_chunks(50))
    node, *_ = await world.add_all(4)
    world.log.set_node("n1", NodeState.DRAINING)
    listings(node)
    await node.follower.follow()
    assert await expected(node) == set()
    assert listings(node) == 0


async def test_without_consensus_everything_stays_as_it_is(world):
    """The position says how old it is."""
    world.log.publish(make_chunks(50))
    node, *_ = await world.add_all(3)
    before = node.expected.position
    world.log.publish(make_chunks(50))
    world.log.is_away = True
    with pytest.raises(LeaderUnavailableError):
        await node.follower.follow()
    assert node.expected.position == before
    assert len(await expected(node)) == 50
