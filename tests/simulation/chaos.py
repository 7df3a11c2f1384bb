"""One random life of a cluster from a seed: clients and faults together (safety), then healing (liveness).

Ranges follow TigerBeetle's VOPR as far as an election timeout of 2 to 4 s leaves a cluster that can work at all.
Many lives in a row: `make simulate SEEDS=1000`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable

from services.consensus.persistence.compaction import LogLimits
from services.consensus.raft import decide
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.follower import FollowerRole
from shared.contracts.cluster import ConsensusMember
from shared.errors import TrivetError
from shared.units import KIB
from tests.simulation.linearizability import NEVER, Operation, is_linearizable
from tests.simulation.network import Weather
from tests.simulation.world import SimulatedMember, World, member_named, put

KEYS = 40
CLIENTS = 5
OPERATION_TIMEOUT_S = 2.0
MAX_ATTEMPTS = 4
QUIET_S = 12
RECOVERY_S = 20.0
MAX_CLOG_S = 5.0


class Chaos:
    """The faults and the load of one seed; sizes, weather and disks are drawn from it."""

    def __init__(self, seed: int, *, duration_s: float = 60.0, size: int | None = None) -> None:
        draw = random.Random(seed)
        self.seed = seed
        self.duration_s = duration_s
        self.counts: Counter[str] = Counter()
        self.history: dict[str, list[Operation]] = defaultdict(list)
        slow_disk = draw.choice([1, 1, 10, 40, 100])
        self.size = size or draw.choice([3, 3, 4, 5])
        self.weather = Weather(
            loss=draw.choice([0, 0.03, 0.1, 0.3]),
            duplication=draw.choice([0, 0.03, 0.3, 0.5]),
            slow=draw.choice([0, 0.03, 0.2]),
            delay_s=draw.choice([(0.0005, 0.003), (0.0005, 0.003), (0.0, 0.03), (0.03, 0.1)]),
        )
        self.disk_latency_s = (0.0002 * slow_disk, 0.004 * slow_disk)
        keep_entries = draw.choice([0, 5, 50])
        self.limits = LogLimits(
            checkpoint_entries=draw.choice([5, 20, 100]),
            keep_entries=keep_entries,
            pinned_entries=keep_entries + draw.choice([0, 50, 1000]),
            snapshot_piece_bytes=draw.choice([4, 16, 64]) * KIB,
        )
        self.spares = draw.choice([0, 0, 2, 4])
        self._faults: list[tuple[Callable[[World], None], float]] = [
            (self._crash_one, 30),
            (self._start_all, 20),
            (self._isolate, 20),
            (self._cut_one_way, 8),
            (self._clog, 8),
            (self._heal, 6),
            (self._split, 7),
            (self._campaigns, 8),
            (self._transfer, 8),
            (self._reconnect, 5),
            (self._power_cut, 5),
            (self._lose_state, 4),
            *([(self._change_membership, 25)] if self.spares else []),
        ]

    async def run(self) -> World:
        """Raises what went wrong; the seed stands in the message."""
        world = World(
            self.size,
            weather=self.weather,
            disk_latency_s=self.disk_latency_s,
            limits=self.limits,
            spares=self.spares,
        )
        world.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._break_things(world))
                for client in range(CLIENTS):
                    group.create_task(self._client(world, client))
            await self._check(world)
        except Exception as error:
            error.add_note(f"seed {self.seed}: {dict(self.counts)}")
            raise
        finally:
            self.counts["snapshots installed"] = world.invariants.snapshots_installed
            world.stop()
        return world

    # --- clients ------------------------------------------------------------------------------------------------

    async def _client(self, world: World, client: int) -> None:
        number = 0
        while world.loop.time() < self.duration_s:
            await asyncio.sleep(random.expovariate(12))
            world.raise_errors()
            if not world.leaders():
                continue
            number += 1
            key = f"k{random.randrange(KEYS)}"
            operation = Operation(world.loop.time(), NEVER, random.random() < 0.5, f"c{client}-{number}")
            self.history[key].append(operation)
            if not await self._attempt(world, key, operation):
                self.history[key].remove(operation)

    async def _attempt(self, world: World, key: str, operation: Operation) -> bool:
        """Try, and when the outcome is unknown perhaps again with the same request id. False: it did not happen."""
        call = self._write if operation.is_write else self._read
        may_have_happened = False
        for _ in range(random.choice([1, MAX_ATTEMPTS])):
            leaders = world.leaders()
            if not leaders:
                await asyncio.sleep(0.2)
                continue
            try:
                async with asyncio.timeout(OPERATION_TIMEOUT_S):
                    await call(random.choice(leaders), key, operation)
            except TrivetError as error:
                may_have_happened |= not error.definite
                self.counts["refused"] += 1
            except TimeoutError:
                may_have_happened = True
                self.counts["timeouts"] += 1
            else:
                operation.returned_at = world.loop.time()
                self.counts["writes" if operation.is_write else "reads"] += 1
                self.counts["retried"] += may_have_happened
                return True
        return may_have_happened

    async def _write(self, member: SimulatedMember, key: str, operation: Operation) -> None:
        (waiting,) = member.node.propose([put(operation.value, key, operation.value)])
        await waiting

    async def _read(self, member: SimulatedMember, key: str, operation: Operation) -> None:
        """As the service does it: where it may, the state is read before leadership is proven."""
        node, machine = member.node, member.machine
        is_prepared, prepared = node.may_answer_unproven, machine.values.get(key)
        await node.read_barrier()
        operation.value = prepared if is_prepared else machine.values.get(key)

    # --- judging ------------------------------------------------------------------------------------------------

    async def _check(self, world: World) -> None:
        """A majority must recover while the others stay broken; then everybody must."""
        random.choice([self._heal_majority, self._heal_everybody])(world)
        world.raise_errors()
        await self._proves_alive(world)
        self._heal_everybody(world)
        await world.converge(within_s=RECOVERY_S)
        world.raise_errors()
        wrong = [key for key, history in self.history.items() if not is_linearizable(history)]
        assert not wrong, f"not linearizable: {wrong[0]} {sorted(self.history[wrong[0]], key=lambda o: o.called_at)}"

    async def _proves_alive(self, world: World) -> None:
        """Some leader commits and reads; one that was cut off may still believe in itself for a while."""
        deadline = world.loop.time() + RECOVERY_S
        while world.loop.time() < deadline:
            for member in world.leaders():
                operation = Operation(world.loop.time(), NEVER, is_write=True, value=f"alive-{self.seed}")
                try:
                    async with asyncio.timeout(OPERATION_TIMEOUT_S):
                        await self._write(member, "alive", operation)
                        await self._read(member, "alive", operation)
                except (TrivetError, TimeoutError):
                    continue
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"no progress within {RECOVERY_S} s: {world.describe()}")

    def _heal_everybody(self, world: World) -> None:
        world.network.heal()
        world.network.weather = Weather()
        self._start_all(world)

    def _heal_majority(self, world: World) -> None:
        """The others stay as they are, down or cut off from everybody."""
        world.network.heal()
        world.network.weather = Weather()
        healthy = self._chosen_majority(world)
        for name in healthy:
            if not world.members[name].is_up:
                world.members[name].start()
        world.network.split(healthy, world.names)
        self.counts["minorities left broken"] += 1

    def _chosen_majority(self, world: World) -> set[str]:
        """A majority of the voters of every configuration that may be in force, not counting one whose state is lost.

        What its log has cut away may exist, apart from its lost state, only with those that are left broken.

        While a change is not settled, that is a majority of the old voters and one of the new.
        """
        in_log = [world.members[name].disk.configurations() for name in world.names]
        usable = [name for name in world.names if not world.members[name].disk.is_state_lost]
        known = {configuration.voters for found in in_log for configuration in found[-2:]}
        healthy: set[str] = set(random.sample(world.first_names, len(world.first_names) // 2 + 1))
        for voters in known:
            while not decide.has_majority(healthy.intersection(usable), voters):
                rest = sorted(voters.difference(healthy).intersection(usable)) or sorted(voters.difference(healthy))
                if not rest:
                    break
                healthy.add(random.choice(rest))
        return healthy

    # --- membership ---------------------------------------------------------------------------------------------

    def _change_membership(self, world: World) -> None:
        """A leader adds a member as a learner, promotes one, or removes one, itself too; often in a bad moment."""
        for member in world.leaders():
            role = member.node.leader_role
            if role is None:
                continue
            current = member.node.configuration
            change = random.choice([self._with_learner, self._with_promoted, self._without_one, self._with_learner])
            members = change(world, current.members)
            if members is None:
                continue
            try:
                settled = role.propose_configuration(Configuration(current.cluster_id, members))
            except TrivetError:
                self.counts["changes refused"] += 1
                continue
            settled.add_done_callback(self._changed)
            self._start_joining(world, members)

    def _changed(self, settled: asyncio.Future[object]) -> None:
        if not settled.cancelled() and settled.exception() is None:
            self.counts["membership changes"] += 1

    def _with_learner(self, world: World, members: tuple[ConsensusMember, ...]) -> tuple[ConsensusMember, ...] | None:
        fresh = [name for name in world.names if not world.members[name].was_started]
        return (*members, member_named(fresh[0], is_voter=False)) if fresh else None

    def _with_promoted(
        self,
        world: World,
        members: tuple[ConsensusMember, ...],
    ) -> tuple[ConsensusMember, ...] | None:
        learners = [member.id for member in members if not member.is_voter]
        if not learners:
            return None
        chosen = random.choice(learners)
        return tuple(member_named(member.id) if member.id == chosen else member for member in members)

    def _without_one(
        self,
        world: World,
        members: tuple[ConsensusMember, ...],
    ) -> tuple[ConsensusMember, ...] | None:
        if sum(member.is_voter for member in members) <= 3:
            return None
        gone = random.choice(members)
        return tuple(member for member in members if member is not gone)

    def _start_joining(self, world: World, members: tuple[ConsensusMember, ...]) -> None:
        for member in members:
            if not world.members[member.id].was_started:
                world.members[member.id].start()

    # --- faults -------------------------------------------------------------------------------------------------

    async def _break_things(self, world: World) -> None:
        faults, weights = zip(*self._faults, strict=True)
        while world.loop.time() < self.duration_s - QUIET_S:
            await asyncio.sleep(random.uniform(0.02, 4) ** 2 / 4)
            world.raise_errors()
            random.choices(faults, weights=weights)[0](world)

    def _crash_one(self, world: World) -> None:
        up = world.up()
        if len(up) > len(world.names) // 2:
            random.choice(world.leaders() * 2 + up).crash()
            self.counts["crashes"] += 1

    def _start_all(self, world: World) -> None:
        for member in world.members.values():
            if member.was_started and not member.is_up:
                member.start()

    def _isolate(self, world: World) -> None:
        leaders = world.leaders()
        victim = random.choice(leaders).id if leaders and random.random() < 0.5 else random.choice(world.names)
        others = [name for name in world.names if name != victim]
        inward, outward = random.choice([(True, True), (True, True), (True, False), (False, True)])
        world.network.isolate(victim, others, inward=inward, outward=outward)
        self.counts["isolations"] += 1

    def _cut_one_way(self, world: World) -> None:
        """Single links fail in one direction: a ring of partial views, in which everybody still hears somebody."""
        for _ in range(random.randint(1, len(world.names))):
            world.network.cut.add(tuple(random.sample(world.names, 2)))
        self.counts["one-way cuts"] += 1

    def _clog(self, world: World) -> None:
        """A link holds everything back for a while, and then everything arrives, long after it was sent."""
        link = tuple(random.sample(world.names, 2))
        world.network.clogged[link] = world.loop.time() + random.uniform(0, MAX_CLOG_S)
        self.counts["clogged links"] += 1

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

    def _transfer(self, world: World) -> None:
        """A leader hands over, and perhaps ends before its successor has begun, as on SIGTERM."""
        for member in world.leaders():
            role = member.node.leader_role
            if role is not None and role.transfer() is not None:
                self.counts["transfers"] += 1
                if random.random() < 0.3:
                    world.loop.call_later(random.uniform(0.001, 0.2), self._end, world, member, member.process)

    def _end(self, world: World, member: SimulatedMember, process: object) -> None:
        if member.process is process and member.is_up and len(world.up()) > len(world.names) // 2:
            member.crash()

    def _reconnect(self, world: World) -> None:
        """The transport tells everybody that a connection was lost and made again; some messages were lost with it."""
        for member in world.up():
            for peer in world.names:
                if peer != member.id and random.random() < 0.5:
                    member.node.link_changed(peer)

    def _lose_state(self, world: World) -> None:
        """One member's state machine is found damaged at its restart; its log, term and vote are whole."""
        if any(member.disk.is_state_lost for member in world.members.values()):
            return
        member = random.choice([member for member in world.members.values() if member.was_started])
        if member.is_up:
            member.crash()
        member.disk.lose_state()
        member.start()
        self.counts["lost states"] += 1

    def _power_cut(self, world: World) -> None:
        for member in world.up():
            member.crash()
        for member in world.members.values():
            member.disk.lose_power()
        self._start_all(world)
        self.counts["power cuts"] += 1
