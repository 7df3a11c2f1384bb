"""A gray leader is replaced once, and slowness that is the same everywhere, or does not matter, moves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

import pytest

from services.consensus.duties.slow_leader import HAND_OVER_INTERVAL_S, watch_for_slow_leader
from shared.background_tasks import BackgroundTasks
from shared.errors import TrivetError
from tests.simulation.virtual_loop import run_simulation
from tests.simulation.world import SimulatedMember, World, put

LIMIT_MS = 500
GRAY = (0.5, 0.5)
N9 = (0.025, 0.125)
"""75+-50 ms, each way."""
MINUTES = [1, pytest.param(10, marks=pytest.mark.slow)]


class Watched:
    """A world in which every member watches for a slow leader, and a client measures its proposals."""

    def __init__(self, size: int) -> None:
        self.world = World(size)
        self.terms: list[int] = []
        self.took_s: list[tuple[float, float]] = []

    @asynccontextmanager
    async def running(self):
        self.world.start()
        await self.world.leader()
        tasks = [asyncio.ensure_future(self._watch(member)) for member in self.world.members.values()]
        tasks.append(asyncio.ensure_future(self._propose()))
        yield self
        self.world.raise_errors()
        for task in tasks:
            task.cancel()
        self.world.stop()

    def slow_down(self, members: Iterable[str], late_s: tuple[float, float]) -> None:
        """All links of these members, both ways; all others are as they were."""
        chosen = set(members)
        self.world.network.late_s = {
            (one, other): late_s
            for one in self.world.names
            for other in self.world.names
            if one != other and {one, other} & chosen
        }

    async def watch_terms(self, seconds: float) -> int:
        """How many new terms began."""
        first = self.term
        await asyncio.sleep(seconds)
        return self.term - first

    @property
    def term(self) -> int:
        return max(member.node.raft.storage.term for member in self.world.up())

    def slowest_s(self, since_s: float) -> float:
        return max(took for began, took in self.took_s if began >= since_s)

    async def _watch(self, member: SimulatedMember) -> None:
        round_trip_ms: Callable[[str], int | None] = partial(self.world.network.round_trip_ms, member.id)
        async with BackgroundTasks() as tasks:
            await watch_for_slow_leader(tasks, member.node, round_trip_ms, LIMIT_MS)

    async def _propose(self) -> None:
        for number in count():
            began = self.world.loop.time()
            while True:
                leader = await self.world.leader()
                try:
                    await leader.node.propose([put(f"r{number}", "x", number)])[0]
                except TrivetError:
                    await asyncio.sleep(0.05)
                else:
                    break
            self.took_s.append((began, self.world.loop.time() - began))
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
def test_a_gray_leader_is_replaced_within_thirty_seconds_and_once(seed: int) -> None:
    """One second more on its links: another leads soon, quickly, and for good; and it stays so when the links heal."""

    async def main() -> None:
        async with Watched(3).running() as watched:
            await watched.watch_terms(2 * seed)
            gray = await watched.world.leader()
            slow_since_s = watched.world.loop.time()
            before = watched.term
            watched.slow_down([gray.id], GRAY)
            while (await watched.world.leader()) is gray:
                assert watched.world.loop.time() - slow_since_s < 30
                await asyncio.sleep(0.1)
            assert watched.term == before + 1
            moved_s = watched.world.loop.time()
            assert await watched.watch_terms(2 * HAND_OVER_INTERVAL_S) == 0
            assert watched.slowest_s(slow_since_s) < 5
            assert watched.slowest_s(moved_s + 1) < 0.2
            watched.slow_down([], GRAY)
            assert await watched.watch_terms(HAND_OVER_INTERVAL_S) == 0

    run_simulation(seed, main())


@pytest.mark.parametrize("minutes", MINUTES)
@pytest.mark.parametrize("late_s", [GRAY, N9, (0.0, 1.0)], ids=["+1 s", "75+-50 ms", "up to 2 s"])
def test_no_leader_is_replaced_where_all_links_are_slow(minutes: int, late_s: tuple[float, float]) -> None:
    """Nobody would be better, so that leadership would go round and round."""

    async def main() -> None:
        async with Watched(3).running() as watched:
            watched.slow_down(watched.world.names, late_s)
            assert await watched.watch_terms(60 * minutes) == 0

    run_simulation(minutes, main())


@pytest.mark.parametrize("minutes", MINUTES)
def test_a_leader_behind_links_of_75_ms_is_borne(minutes: int) -> None:
    """An election costs more than that."""

    async def main() -> None:
        async with Watched(3).running() as watched:
            watched.slow_down([(await watched.world.leader()).id], N9)
            assert await watched.watch_terms(60 * minutes) == 0

    run_simulation(minutes, main())


@pytest.mark.parametrize("size", [3, 5])
def test_a_leader_that_is_near_to_a_majority_is_borne(size: int) -> None:
    """Followers beyond the majority may be as slow as they like."""

    async def main() -> None:
        async with Watched(size).running() as watched:
            leader = await watched.world.leader()
            others = [name for name in watched.world.names if name != leader.id]
            watched.slow_down(others[: (size - 1) // 2], GRAY)
            assert await watched.watch_terms(2 * HAND_OVER_INTERVAL_S) == 0

    run_simulation(1, main())


@pytest.mark.parametrize("minutes", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_slowness_that_follows_the_leader_moves_it_seldom(minutes: int) -> None:
    """The worst case: whoever leads is slow from then on. No more than one hand-over in each reign."""

    async def main() -> None:
        async with Watched(3).running() as watched:
            first, began_s = watched.term, watched.world.loop.time()
            for _ in range(60 * minutes):
                watched.slow_down([(await watched.world.leader()).id], GRAY)
                await asyncio.sleep(1)
            moves = watched.term - first
            assert minutes <= moves <= (watched.world.loop.time() - began_s) / HAND_OVER_INTERVAL_S

    run_simulation(minutes, main())


def test_two_members_of_three_behind_slow_links_leave_nothing_better() -> None:
    """The third one is no nearer to a majority than they are."""

    async def main() -> None:
        async with Watched(3).running() as watched:
            leader = await watched.world.leader()
            other = next(name for name in watched.world.names if name != leader.id)
            watched.slow_down([leader.id, other], GRAY)
            assert await watched.watch_terms(2 * HAND_OVER_INTERVAL_S) == 0

    run_simulation(1, main())
