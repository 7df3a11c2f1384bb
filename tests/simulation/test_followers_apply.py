"""A follower lets committed entries gather before it applies them, but not while anybody waits."""

from __future__ import annotations

import asyncio

from services.consensus.member import FOLLOWER_APPLY_BACKLOG, FOLLOWER_APPLY_DELAY_S
from tests.simulation.virtual_loop import run_simulation
from tests.simulation.world import World, put

SEED = 7


class CountingWorld(World):
    """Counts the transactions of each member's state machine."""

    def __init__(self, **options: float) -> None:
        super().__init__(disk_latency_s=(0.0001, 0.0001), **options)
        self.counts: dict[str, int] = {}

    def apply_runner(self, member: str, process):
        runner = super().log_runner(member, process)
        submit = runner.submit

        def counted(work, done) -> None:
            self.counts[member] = self.counts.get(member, 0) + 1
            submit(work, done)

        runner.submit = counted
        return runner


async def propose(world: CountingWorld, count: int, *, pause_s: float) -> tuple[str, str, int]:
    """Ids of the leader and of a follower, and the index of the last of `count` entries, proposed one after the other."""
    world.start()
    leader = await world.leader()
    follower = next(member for member in world.up() if member is not leader)
    await asyncio.sleep(1)
    world.counts.clear()
    for number in range(count):
        (applied,) = leader.node.propose([put(f"r{number}", "key", str(number))])
        await applied
        await asyncio.sleep(pause_s)
    return leader.id, follower.id, leader.node.log.last_log_index


def test_a_follower_applies_many_entries_in_one_transaction() -> None:
    """The leader, for whose results callers wait, applies each at once."""

    async def life() -> None:
        world = CountingWorld()
        leader, follower, _ = await propose(world, 50, pause_s=0.005)
        await world.converge()
        assert world.counts[leader] == 50
        assert world.counts[follower] <= 10
        world.stop()

    run_simulation(SEED, life())


def test_what_somebody_waits_for_is_applied_at_once() -> None:
    """A follower that is asked for an index does not let it lie."""

    async def life() -> None:
        world = CountingWorld(follower_apply_delay_s=3600)
        leader, follower, index = await propose(world, 3, pause_s=0)
        await asyncio.sleep(0.3)  # heartbeats tell the follower that it is committed
        node = world.node(follower)
        assert (node.log.commit_index, node.log.last_applied) == (index, 0)
        began_s = world.loop.time()
        await node.wait_applied(index)
        assert world.loop.time() - began_s < FOLLOWER_APPLY_DELAY_S
        # The index that is not committed yet is applied as soon as it is.
        waiting = asyncio.ensure_future(node.wait_applied(index + 1))
        world.node(leader).propose([put("r", "key", "last")])
        await waiting
        world.stop()

    run_simulation(SEED, life())


def test_a_long_backlog_does_not_wait() -> None:
    """Or a follower that catches up would do so in steps."""

    async def life() -> None:
        world = CountingWorld(follower_apply_delay_s=3600)
        _, follower, index = await propose(world, 2 * FOLLOWER_APPLY_BACKLOG, pause_s=0)
        await asyncio.sleep(0.3)
        assert world.node(follower).log.last_applied > index - FOLLOWER_APPLY_BACKLOG
        world.stop()

    run_simulation(SEED, life())
