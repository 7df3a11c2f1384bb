"""A whole cluster in one process: the real engine on simulated time, disk and network, watched by the invariants."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

import msgpack

from services.consensus.member import FOLLOWER_APPLY_DELAY_S, Member
from services.consensus.persistence.compaction import LogLimits
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.leader import LeaderRole
from services.consensus.raft.messages import Message, Received
from services.consensus.raft.ports import BlockingRunner, Entry, EntryKind
from services.consensus.raft.seam import configure_raftos
from shared.contracts.cluster import ConsensusMember
from tests.simulation.disk import (
    Process,
    SimulatedDisk,
    SimulatedHardState,
    SimulatedLogStore,
    SimulatedRunner,
)
from tests.simulation.invariants import Invariants
from tests.simulation.network import Endpoint, SimulatedNetwork, Weather
from tests.simulation.registers import RegisterMachine

APPLY_LATENCIES_MAX_S = (0.001, 0.02, 0.1)
"""A batch of entries takes up to this long: the state machine shares a disk, and its transactions are large."""


class SimulatedMember:
    """One member across its lives."""

    def __init__(self, world: World, member: str) -> None:
        self.world = world
        self.id = member
        self.disk = SimulatedDisk()
        self.process: Process | None = None
        self.node: Member | None = None
        self.machine: RegisterMachine | None = None
        self.was_started = False

    @property
    def is_up(self) -> bool:
        return self.node is not None

    def start(self) -> None:
        assert not self.is_up
        self.was_started = True
        process = self.process = Process(self.disk)
        self.machine = RegisterMachine(self.id, self.world.invariants, self.disk)
        self.node = Member(
            self.id,
            log_store=SimulatedLogStore(self.disk),
            hard_state=self.world.hard_state_class(self.disk),
            log_runner=self.world.log_runner(self.id, process),
            apply_runner=self.world.apply_runner(self.id, process),
            compaction_runner=self.world.compaction_runner(self.id, process),
            network=Endpoint(self.world.network, self.id, lambda: process.is_alive),
            state_machine=self.machine,
            on_fatal=self.world.failed,
            limits=self.world.limits,
            follower_apply_delay_s=self.world.follower_apply_delay_s,
        )
        self.world.invariants.watch(self.node, self.disk)
        self.world.network.receivers[self.id] = self._receive
        self.node.start()

    def crash(self) -> None:
        """The process ends at this instant; waiting clients never hear of it."""
        assert self.process is not None
        assert self.node is not None
        self.process.die()
        self.world.network.receivers.pop(self.id, None)
        self.node.stop()
        self.world.invariants.unwatch(self.node)
        self.node = None

    def _receive(self, received: Received[Message]) -> None:
        assert self.node is not None
        self.node.receive(received)
        self.world.invariants.check(self.node)


class World:
    """A cluster of `size` members named m1, m2, ..."""

    def __init__(
        self,
        size: int = 3,
        *,
        weather: Weather | None = None,
        disk_latency_s: tuple[float, float] = (0.0002, 0.004),
        hard_state_class: type[SimulatedHardState] = SimulatedHardState,
        limits: LogLimits | None = None,
        spares: int = 0,
        follower_apply_delay_s: float = FOLLOWER_APPLY_DELAY_S,
    ) -> None:
        configure_raftos(heartbeat_interval_ms=100, election_timeout_min_ms=2000, election_timeout_max_ms=4000)
        self.limits = limits or LogLimits()
        self.follower_apply_delay_s = follower_apply_delay_s
        self.names = [f"m{number}" for number in range(1, size + spares + 1)]
        self.first_names = self.names[:size]
        self.network = SimulatedNetwork(weather or Weather(), self.disk_of)
        self.network.on_send = self._sent
        self.invariants = Invariants(self.disks_of)
        self.disk_latency_s = disk_latency_s
        self.hard_state_class = hard_state_class
        self.errors: list[BaseException] = []
        self.members = {name: SimulatedMember(self, name) for name in self.names}
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._loop_error)

    def disk_of(self, member: str) -> SimulatedDisk:
        """The disk that a member has now."""
        return self.members[member].disk

    def disks_of(self, members: Iterable[str]) -> dict[str, SimulatedDisk]:
        """The disks of these members, whether they are up or not."""
        return {name: self.members[name].disk for name in members}

    def log_runner(self, member: str, process: Process) -> BlockingRunner:
        """Where a member's log writes run."""
        return SimulatedRunner(process, self.disk_latency_s)

    def apply_runner(self, member: str, process: Process) -> BlockingRunner:
        """Where a member applies; how slowly is drawn for each life."""
        return SimulatedRunner(process, (0.0, random.choice(APPLY_LATENCIES_MAX_S)))

    def compaction_runner(self, member: str, process: Process) -> BlockingRunner:
        """Where a member checkpoints and copies."""
        return SimulatedRunner(process, self.disk_latency_s)

    def configuration(self) -> Configuration:
        return Configuration(
            "simulated",
            tuple(map(member_named, self.first_names)),
        )

    def start(self) -> None:
        """The first members up, each bootstrapped with the same first entry; spares know nothing yet and are down."""
        for member in map(self.members.__getitem__, self.first_names):
            member.disk.entries.append(Entry(1, EntryKind.CONFIGURATION, self.configuration().encode()))
            member.disk.hard_state = (1, None)
            member.start()

    def stop(self) -> None:
        for member in self.up():
            member.crash()

    def up(self) -> list[SimulatedMember]:
        return [member for member in self.members.values() if member.is_up]

    def leaders(self) -> list[SimulatedMember]:
        return [m for m in self.up() if m.node is not None and isinstance(m.node.raft.state, LeaderRole)]

    def node(self, name: str) -> Member:
        node = self.members[name].node
        assert node is not None
        return node

    async def leader(self, *, within_s: float = 30.0) -> SimulatedMember:
        """The one member that leads and has committed in its own term."""
        deadline = self.loop.time() + within_s
        while self.loop.time() < deadline:
            ready = [
                m
                for m in self.leaders()
                if m.node is not None
                and m.node.leader_role is not None
                and m.node.log.commit_index >= m.node.leader_role.first_index
            ]
            if ready:
                return max(ready, key=lambda m: m.node.leader_role.term)
            await asyncio.sleep(0.001)
        raise AssertionError(f"no leader within {within_s} s")

    async def converge(self, *, within_s: float = 15.0) -> None:
        """Everybody that is up ends with the same log and the same state."""
        deadline = self.loop.time() + within_s
        while self.loop.time() < deadline:
            self.raise_errors()
            leader = max(self.leaders(), key=lambda m: m.node.raft.storage.term, default=None)
            if leader is not None and leader.id in leader.node.raft.voters:
                members = [m for m in self.up() if leader.node.configuration.find(m.id)]
                ends = {(m.node.log.last_log_index, m.node.log.last_applied) for m in members}
                is_whole = len(members) == len(leader.node.configuration.members)
                if is_whole and len(ends) == 1 and all(last == applied for last, applied in ends):
                    assert len({m.machine.state.pack() for m in members}) == 1, "equal logs, different states"
                    return
            await asyncio.sleep(0.01)
        raise AssertionError(f"no convergence within {within_s} s: {self.describe()}")

    def describe(self) -> dict[str, Any]:
        """Role, term and indexes of every member that is up, for messages of failed checks."""
        return {
            m.id: (
                type(m.node.raft.state).__name__,
                m.node.raft.storage.term,
                m.node.log.last_log_index,
                m.node.log.commit_index,
                m.node.log.durable_index,
            )
            for m in self.up()
        }

    def failed(self, error: BaseException) -> None:
        self.errors.append(error)

    def raise_errors(self) -> None:
        if self.errors:
            raise self.errors[0]
        self.invariants.raise_errors()

    def _sent(self, source: str, destination: str, message: dict[str, Any]) -> None:
        sender, receiver = self.members[source], self.members.get(destination)
        self.invariants.sent(sender.node, sender.disk, receiver.node if receiver else None, message)

    def _loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(error if error is not None else RuntimeError(context["message"]))


def member_named(name: str, *, is_voter: bool = True) -> ConsensusMember:
    """A member as it stands in a configuration."""
    return ConsensusMember(id=name, url=f"http://{name}", peer_address=f"{name}:1", is_voter=is_voter)


def put(request_id: str, key: str, value: Any) -> bytes:
    """The payload of a put."""
    return bytes(msgpack.packb([request_id, key, value]))
