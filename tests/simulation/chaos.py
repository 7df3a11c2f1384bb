"""One random life of a cluster from a seed: clients and faults together (safety), then healing (liveness)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict

from services.consensus.raft.follower import FollowerRole
from shared.errors import TrivetError
from tests.simulation.linearizability import NEVER, Operation, is_linearizable
from tests.simulation.network import Weather
from tests.simulation.world import World, put

KEYS = 40
CLIENTS = 5
OPERATION_TIMEOUT_S = 2.0


class Chaos:
    """The faults and the load of one seed; sizes and weather are drawn from it."""

    def __init__(self, seed: int, *, duration_s: float = 60.0, size: int | None = None) -> None:
        draw = random.Random(seed)
        self.seed = seed
        self.duration_s = duration_s
        self.counts: Counter[str] = Counter()
        self.history: dict[str, list[Operation]] = defaultdict(list)
        slow_disk = draw.choice([1, 1, 10, 40])
        self.world_arguments = {
            "size": size or draw.choice([3, 3, 4, 5]),
            "weather": Weather(
                loss=draw.choice([0, 0.03, 0.1]),
                duplication=draw.choice([0, 0.03, 0.3]),
                slow=draw.choice([0, 0.03, 0.2]),
            ),
            "disk_latency_s": (0.0002 * slow_disk, 0.004 * slow_disk),
        }

    async def run(self, **world_arguments: object) -> World:
        """Raises what went wrong; the seed stands in the message."""
        world = World(**(self.world_arguments | world_arguments))
        world.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._faults(world))
                for client in range(CLIENTS):
                    group.create_task(self._client(world, client))
            await self._check(world)
        except Exception as error:
            error.add_note(f"seed {self.seed}: {dict(self.counts)}")
            raise
        finally:
            world.stop()
        return world

    async def _check(self, world: World) -> None:
        world.network.heal()
        world.network.weather = Weather()
        for member in world.members.values():
            if not member.is_up:
                member.start()
        world.raise_errors()
        await world.leader(within_s=20.0)
        await world.converge(within_s=20.0)
        world.raise_errors()
        wrong = [key for key, history in self.history.items() if not is_linearizable(history)]
        assert not wrong, f"not linearizable: {wrong[0]} {sorted(self.history[wrong[0]], key=lambda o: o.called_at)}"

    async def _client(self, world: World, client: int) -> None:
        number = 0
        while world.loop.time() < self.duration_s:
            await asyncio.sleep(random.expovariate(12))
            world.raise_errors()
            leaders = world.leaders()
            if not leaders:
                continue
            number += 1
            node = random.choice(leaders).node
            key = f"k{random.randrange(KEYS)}"
            operation = Operation(world.loop.time(), NEVER, random.random() < 0.5, f"c{client}-{number}")
            self.history[key].append(operation)
            try:
                async with asyncio.timeout(OPERATION_TIMEOUT_S):
                    if operation.is_write:
                        (waiting,) = node.propose([put(operation.value, key, operation.value)])
                        await waiting
                    else:
                        await node.read_barrier()
                        operation.value = node._state_machine.values.get(key)
                operation.returned_at = world.loop.time()
                self.counts["writes" if operation.is_write else "reads"] += 1
            except TrivetError as error:
                if error.definite:
                    self.history[key].remove(operation)
                self.counts["refused"] += 1
            except TimeoutError:
                self.counts["timeouts"] += 1

    async def _faults(self, world: World) -> None:
        while world.loop.time() < self.duration_s - 12:
            await asyncio.sleep(random.uniform(0.02, 4) ** 2 / 4)
            world.raise_errors()
            random.choices(
                [
                    self._crash_one,
                    self._start_all,
                    self._isolate,
                    self._heal,
                    self._split,
                    self._campaigns,
                    self._power_cut,
                ],
                weights=[30, 20, 25, 5, 7, 8, 5],
            )[0](world)

    def _crash_one(self, world: World) -> None:
        up = world.up()
        if len(up) > len(world.names) // 2:
            random.choice(world.leaders() * 2 + up).crash()
            self.counts["crashes"] += 1

    def _start_all(self, world: World) -> None:
        for member in world.members.values():
            if not member.is_up:
                member.start()

    def _isolate(self, world: World) -> None:
        leaders = world.leaders()
        victim = random.choice(leaders).id if leaders and random.random() < 0.5 else random.choice(world.names)
        others = [name for name in world.names if name != victim]
        world.network.isolate(victim, others, both_ways=random.random() < 0.7)
        self.counts["isolations"] += 1

    def _heal(self, world: World) -> None:
        world.network.heal()

    def _split(self, world: World) -> None:
        world.network.split({name for name in world.names if random.random() < 0.5}, world.names)
        self.counts["splits"] += 1

    def _campaigns(self, world: World) -> None:
        """Elections without pre-vote at several members at once, then a crash and restart within milliseconds."""
        up = world.up()
        for member in random.sample(up, min(len(up), random.choice([1, 2, 2, 3]))):
            role = member.node.raft.state
            if isinstance(role, FollowerRole):
                member.node.raft.is_transfer = True
                role.start_election(is_forced=True)
                self.counts["campaigns"] += 1
        world.loop.call_later(random.uniform(0.0005, 0.006), self._bounce, world)

    def _bounce(self, world: World) -> None:
        up = world.up()
        if up and random.random() < 0.7:
            member = random.choice(up)
            member.crash()
            member.start()
            self.counts["bounces"] += 1

    def _power_cut(self, world: World) -> None:
        for member in world.up():
            member.crash()
        for member in world.members.values():
            member.disk.lose_power()
        self._start_all(world)
        self.counts["power cuts"] += 1
