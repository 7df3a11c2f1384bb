"""A snapshot of a large state takes long to check and install: its leader goes on leading meanwhile."""

from __future__ import annotations

import asyncio

from services.consensus.persistence.compaction import LogLimits
from services.consensus.raft.ports import BlockingRunner
from tests.simulation.disk import Process, SimulatedRunner
from tests.simulation.virtual_loop import run_simulation
from tests.simulation.world import World, put

INSTALLATION_S = 30.0


class SlowWorld(World):
    """Every piece of work on the applying thread of a member that is rebuilt takes as long as an installation."""

    def apply_runner(self, member: str, process: Process) -> BlockingRunner:
        is_slow = process.disk.is_state_lost
        return SimulatedRunner(process, (INSTALLATION_S, INSTALLATION_S) if is_slow else (0.0, 0.001))


def test_a_leader_is_not_deposed_because_its_only_follower_installs_for_long() -> None:
    """The follower takes nothing meanwhile, and says that it hears the leader."""

    async def main() -> set[int]:
        world = SlowWorld(3, limits=LogLimits(checkpoint_entries=5, keep_entries=0))
        world.start()
        leader = await world.leader()
        for number in range(30):
            await leader.node.propose([put(f"r{number}", "x", number)])[0]
        first, second = (member for member in world.members.values() if member is not leader)
        second.crash()
        first.crash()
        first.disk.lose_state()
        first.start()
        terms = set()
        end = world.loop.time() + 3 * INSTALLATION_S
        while world.loop.time() < end:
            await world.leader(within_s=5)
            terms |= {member.node.raft.storage.term for member in world.up()}
            await asyncio.sleep(0.1)
        assert not first.node.log.is_behind_base, "it was never rebuilt"
        world.raise_errors()
        world.stop()
        return terms

    assert len(run_simulation(1, main())) == 1
