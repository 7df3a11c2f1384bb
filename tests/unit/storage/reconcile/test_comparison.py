"""What is held against what is expected: found by sums, listed only where they differ, and once."""

from __future__ import annotations

from collections.abc import Sequence

from services.storage.reconcile.comparison import Comparison
from shared.contracts.chunks import HeldChunk
from shared.partitions import PARTITION_COUNT, SetSum
from tests.unit.storage.fake_tier import FakeTier
from tests.unit.storage.reconcile.world import Node, make_chunks


class CountingTier:
    """Notes the prefixes that are listed."""

    def __init__(self, tier: FakeTier) -> None:
        self._tier = tier
        self.listed: list[str] = []

    async def sums(self, group: int | None) -> list[SetSum]:
        return await self._tier.sums(group)

    async def list_chunks(self, prefix: str, after: str, limit: int) -> list[HeldChunk]:
        if not after:
            self.listed.append(prefix)
        return await self._tier.list_chunks(prefix, after, limit)


async def lists(node: Node) -> tuple[set[bytes], set[bytes]]:
    missing = await node.expected.missing_page(b"", 100_000)
    return {chunk.digest for chunk in missing}, set(await node.expected.extra_page(b"", 100_000))


def watch(node: Node) -> tuple[CountingTier, Comparison]:
    tier = CountingTier(node.tier)
    return tier, Comparison(tier, node.expected, node.pace)


async def held_and_expected(world, count: int = 300) -> tuple[Node, dict[bytes, bytes]]:
    (node,) = await world.add_all(1)
    chunks = make_chunks(count)
    await node.hold(chunks)
    world.log.publish(chunks)
    await node.follower.follow()
    return node, chunks


def prefixes(digests: Sequence[bytes]) -> list[str]:
    return sorted(digest.hex()[:3] for digest in digests)


async def test_equal_sets_are_not_listed(world):
    """Only their sums are asked for."""
    node, _ = await held_and_expected(world)
    tier, comparison = watch(node)
    found = await comparison.run(5)
    assert (found.missing, found.extra, tier.listed) == (0, 0, [])


async def test_only_what_differs_is_listed_and_only_once(world):
    """A chunk that is gone and one that is too many; then one more change is one more listing."""
    node, chunks = await held_and_expected(world)
    gone, also_gone, *_ = chunks
    # Of another group: two partitions of one that is small are listed together.
    extra, body = next(chunk for chunk in make_chunks(50).items() if chunk[0][0] != gone[0])
    surplus = {extra: body}
    await node.tier.delete(gone.hex())
    await node.hold(surplus)
    tier, comparison = watch(node)
    found = await comparison.run(5)
    assert (found.missing, found.extra) == (1, 1)
    assert await lists(node) == ({gone}, {extra})
    assert sorted(tier.listed) == prefixes([gone, extra])
    assert (await comparison.run(5)).missing == 0
    assert len(tier.listed) == 2
    await node.tier.delete(also_gone.hex())
    await comparison.run(5)
    assert tier.listed[2:] == prefixes([also_gone])
    assert await lists(node) == ({gone, also_gone}, {extra})


async def test_what_does_not_differ_any_more_leaves_the_lists(world):
    """Whoever put it right."""
    node, chunks = await held_and_expected(world)
    gone, *_ = chunks
    extra = make_chunks(3)
    await node.tier.delete(gone.hex())
    await node.hold(extra)
    _, comparison = watch(node)
    await comparison.run(5)
    await node.hold({gone: chunks[gone]})
    for digest in extra:
        await node.tier.delete(digest.hex())
    await comparison.run(5)
    assert await lists(node) == (set(), set())


async def test_an_empty_node_misses_everything_and_is_listed_by_groups(world):
    """Not by partitions, which are sixteen times as many questions."""
    node, chunks = await held_and_expected(world, 5000)
    node.tier.wipe()
    tier, comparison = watch(node)
    found = await comparison.run(7)
    assert found.missing == 5000
    assert (await lists(node))[0] == set(chunks)
    assert len(tier.listed) < PARTITION_COUNT / 4
    assert {chunk.reference_index for chunk in await node.expected.missing_page(b"", 10)} == {7}


async def test_a_small_group_is_listed_at_once(world):
    """Two of its partitions, one after the other, would take longer."""
    node, chunks = await held_and_expected(world, 3000)
    of_group = [digest for digest in chunks if digest.startswith(b"\0")]
    for digest in of_group:
        await node.tier.delete(digest.hex())
    tier, comparison = watch(node)
    assert (await comparison.run(5)).missing == len(of_group) > 2
    assert tier.listed == ["00"]


async def test_after_forget_whatever_differs_is_listed_again(world):
    """As for a verify pass."""
    node, chunks = await held_and_expected(world)
    await node.tier.delete(next(iter(chunks)).hex())
    tier, comparison = watch(node)
    await comparison.run(5)
    comparison.forget()
    assert (await comparison.run(5)).missing == 1
    assert len(tier.listed) == 2
