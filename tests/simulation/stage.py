"""A cluster under manual control: no message arrives, no held write ends and no time passes unless the script says so.

Random schedules find what is likely; the interleavings that broke real systems are long and exact, so they are played here.
The members run the real engine; only the network and the disk wait to be told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from services.consensus.persistence.compaction import LogLimits
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.leader import MAX_BATCH_BYTES
from services.consensus.raft.messages import Message, encode
from services.consensus.raft.ports import BlockingRunner, Entry, EntryKind
from shared.contracts.cluster import ConsensusMember
from tests.simulation.disk import Process, SimulatedDisk, Work
from tests.simulation.network import SimulatedNetwork, Weather
from tests.simulation.world import World, put

MAX_DELIVERIES = 5_000
MAX_TURNS = 1_000


class QueuedNetwork(SimulatedNetwork):
    """Messages wait in one queue per link, in the order they were sent. A cut link forgets what is sent over it."""

    def __init__(self, disk_of: Callable[[str], SimulatedDisk]) -> None:
        super().__init__(Weather(), disk_of)
        self.queues: dict[tuple[str, str], deque[bytes]] = {}

    def send(self, source: str, destination: str, message: Message) -> None:
        self.message_count += 1
        self.on_send(source, destination, message)
        if (source, destination) not in self.cut:
            self.queues.setdefault((source, destination), deque()).append(encode(message))

    def waiting(self, among: Iterable[str]) -> list[tuple[str, str]]:
        """Links between these members that hold messages, in order."""
        members = set(among)
        return sorted(link for link, queue in self.queues.items() if queue and members.issuperset(link))

    def deliver_next(self, source: str, destination: str) -> None:
        """Hand over the oldest message of a link."""
        self.deliver(source, destination, self.queues[source, destination].popleft())

    def forget(self, source: str, destination: str) -> None:
        """Lose everything on a link."""
        self.queues.pop((source, destination), None)


class HeldRunner:
    """A `BlockingRunner` that works at once, or, while held, when it is told to."""

    def __init__(self, process: Process, *, is_held: bool = False) -> None:
        self._process = process
        self._queue: deque[tuple[Work, Callable[[Any, BaseException | None], None]]] = deque()
        self.is_held = is_held

    @property
    def held_count(self) -> int:
        """Pieces of work that wait."""
        return len(self._queue)

    def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self._queue.append((Work(work), done))
        if len(self._queue) == 1:
            self._queue[0][0].begin()
        if not self.is_held:
            asyncio.get_running_loop().call_soon(self.finish_next)

    def finish_next(self) -> None:
        """The oldest piece of work ends, and whoever asked for it is told."""
        if self._process.is_alive and self._queue:
            work, done = self._queue.popleft()
            result = work.end()
            if self._queue:
                self._queue[0][0].begin()
            done(result, None)

    def finish_unheard(self) -> None:
        """The oldest piece of work reaches the disk; nobody is told, because the process dies."""
        self._queue[0][0].end()


class Stage(World):
    """A cluster of members m1, m2, ...; some may be learners, and spares know nothing of the cluster yet."""

    network: QueuedNetwork

    def __init__(
        self,
        size: int,
        *,
        learners: Iterable[str] = (),
        spares: Iterable[str] = (),
        limits: LogLimits | None = None,
    ) -> None:
        # No time passes unless the script says so: what a follower may do at once it does at once.
        super().__init__(size, limits=limits, follower_apply_delay_s=0)
        self.learners = frozenset(learners)
        self.spares = frozenset(spares)
        self.network = QueuedNetwork(self.disk_of)
        self.network.on_send = self._sent
        self.disks: dict[str, HeldRunner] = {}
        self.apply_runners: dict[str, HeldRunner] = {}
        self.compaction_runners: dict[str, HeldRunner] = {}
        for name in set(self.names) - self.spares:
            disk = self.members[name].disk
            disk.entries.append(Entry(1, EntryKind.CONFIGURATION, self.configuration().encode()))
            disk.hard_state = (1, None)

    def configuration(self) -> Configuration:
        return configuration_of(set(self.names) - self.spares, self.learners)

    def give_log(self, member: str, terms: list[tuple[int, bool]]) -> None:
        """Put entries of these (term, is large) on a stopped member's disk. Equal (index, term), equal entry."""
        disk = self.members[member].disk
        for index, (term, is_large) in enumerate(terms, 2):
            value = f"{index}.{term}" + "." * (MAX_BATCH_BYTES if is_large else 0)
            disk.entries.append(Entry(term, EntryKind.COMMAND, put(f"given-{index}-{term}", "given", value)))
        disk.hard_state = (max([disk.hard_state[0], *(term for term, _ in terms)]), disk.hard_state[1])

    def wipe(self, member: str) -> None:
        """A stopped member's disk is exchanged for an empty one."""
        self.members[member].disk = SimulatedDisk()
        self.invariants.forget_disk(member)

    def log_runner(self, member: str, process: Process) -> BlockingRunner:
        runner = self.disks[member] = HeldRunner(process)
        return runner

    def apply_runner(self, member: str, process: Process) -> BlockingRunner:
        runner = self.apply_runners[member] = HeldRunner(process)
        return runner

    def compaction_runner(self, member: str, process: Process) -> BlockingRunner:
        runner = self.compaction_runners[member] = HeldRunner(process)
        return runner

    async def settle(self) -> None:
        """Let everything run that needs neither time, nor a message, nor a held write; then check the invariants."""
        for _ in range(MAX_TURNS):
            await asyncio.sleep(0)
            if not self.loop._ready:  # type: ignore[attr-defined]
                break
        else:
            raise AssertionError("the members never come to rest")
        for member in self.up():
            self.invariants.check(member.node)
        self.raise_errors()

    async def stabilize(self, among: Iterable[str]) -> None:
        """Deliver between these members, link by link in order, until nothing waits."""
        chosen = list(among)
        await self.settle()
        for _ in range(MAX_DELIVERIES):
            waiting = self.network.waiting(chosen)
            if not waiting:
                return
            for link in waiting:
                self.network.deliver_next(*link)
                await self.settle()
        raise AssertionError("messages never end")


def configuration_of(names: Iterable[str], learners: Iterable[str] = ()) -> Configuration:
    """A configuration of these members."""
    silent = set(learners)
    return Configuration(
        "simulated",
        tuple(
            ConsensusMember(id=name, url=f"http://{name}", peer_address=f"{name}:1", is_voter=name not in silent)
            for name in sorted(names)
        ),
    )
