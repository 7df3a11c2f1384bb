"""One trial: load on a cluster while something is broken, then everything is healed, must converge, and is judged.

Order of judgement: what was seen wrong at all (safety), whether it converged, whether refusals were honest. A stalled driver
makes what depends on time inconclusive; what was seen wrong stays wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx

from shared.contracts.cluster import MemberStatus
from shared.errors import TrivetError
from shared.peer_calls.http_client import PeerClient
from tests.faults.checkers.history import Outcome
from tests.faults.checkers.honesty import Answer, honesty_violations
from tests.faults.harness.canary import Canary
from tests.faults.harness.client import Client
from tests.faults.harness.fault_cluster import GATEWAYS, MEMBERS, FaultCluster
from tests.faults.harness.network import Network
from tests.faults.workloads.appends import Appends
from tests.faults.workloads.conditional_writes import ConditionalWrites
from tests.faults.workloads.registers import Registers
from tests.faults.workloads.sets import Sets
from tests.faults.workloads.versions import Versions

CONVERGE_WITHIN_S = 60.0
DISTURBED_FOR_S = 25.0
"""After something was done to a gateway, or to the way to it, its clients' lost connections prove nothing for so long."""


class Workload(Protocol):
    """What makes operations, remembers them and judges them."""

    name: str
    counts: Counter[str]

    def loops(self, stopping: asyncio.Event) -> Sequence[Any]:
        """One coroutine per client."""

    async def read_everything(self) -> None:
        """The last reads, when nothing is broken any more."""

    def violations(self) -> list[str]:
        """What is wrong, in words."""


class InconclusiveError(Exception):
    """The driver itself stalled; the trial says nothing about time."""


class ViolationError(AssertionError):
    """Something that must never be was seen."""


class Trial:
    """One run of load and faults on a running cluster; several may follow each other, each in a bucket of its own.

    `say` is given each line of the log as it is written.
    """

    def __init__(
        self,
        cluster: FaultCluster,
        network: Network,
        seed: int,
        *,
        workloads: Sequence[Callable[[Client, int], Workload]] | None = None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._say = say
        self.cluster = cluster
        self.network = network
        self.seed = seed
        self.canary = Canary()
        urls = {name: cluster.url(name) for name in GATEWAYS}
        self.client = Client(urls, cluster.bearer, f"trial-{time.monotonic_ns():x}", self._is_disturbed)
        self.peers = PeerClient(cluster.keys)
        makers = workloads or (Registers, ConditionalWrites, Sets, Appends, Versions)
        self.workloads: list[Workload] = [make(self.client, seed) for make in makers]
        self.log: list[str] = []
        self.began = time.monotonic()

    @property
    def registers(self) -> Registers:
        """The workload of that kind."""
        return next(one for one in self.workloads if isinstance(one, Registers))

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Keep all clients busy while the body runs; it is cancelled with the first defect of a workload."""
        await self.client.open()
        await self._make_bucket()
        self.began = time.monotonic()
        stopping = asyncio.Event()
        async with self.canary.singing(), asyncio.TaskGroup() as group:
            for workload in self.workloads:
                for loop in workload.loops(stopping):
                    group.create_task(loop)
            try:
                yield
            finally:
                stopping.set()

    @asynccontextmanager
    async def by_hand(self) -> AsyncIterator[Client]:
        """Without load: the client alone, in the bucket `default`."""
        self.client.bucket = "default"
        await self.client.open()
        try:
            yield self.client
        finally:
            await self.aclose()

    def note(self, text: str) -> None:
        """Remember what was done, and when; printed when the trial fails."""
        self.log.append(f"{time.monotonic() - self.began:7.2f} s  {text}")
        self._say(self.log[-1])

    async def heal(self) -> None:
        """Undo everything: links clear, nothing stopped, everything running and ready."""
        self.network.heal()
        for name in list(self.cluster.pids()):
            self.cluster.resume(name)
        await self.cluster.bring_back()
        self.note("healed")

    async def converge(self, within_s: float = CONVERGE_WITHIN_S) -> float:
        """Seconds until all members have applied the same and every gateway writes and reads."""
        began = time.monotonic()
        problem = "nothing was asked yet"
        while time.monotonic() - began < within_s:
            problem = await self._why_not_converged()
            if not problem:
                return time.monotonic() - began
            await asyncio.sleep(0.1)
        raise ViolationError(f"seed {self.seed}: not converged {within_s} s after everything was healed: {problem}")

    async def judge(self, *, is_timed: bool = True) -> None:
        """Heal, converge, read everything once more, and raise on whatever was wrong."""
        try:
            await self.heal()
            await self.converge()
            for workload in self.workloads:
                await workload.read_everything()
            await self._measure_replicas()
        finally:
            await self.aclose()
            print("\n".join([f"seed {self.seed}", *self.log, self.summary()]))
        wrong = self.safety_violations()
        if wrong:
            raise ViolationError(f"seed {self.seed}: {len(wrong)} violations\n" + "\n".join(wrong[:8]))
        assert all(sum(workload.counts.values()) > 0 for workload in self.workloads), "nothing was done"
        if not is_timed:
            return
        late = honesty_violations(self.client.answers, slack_s=1.0 + self.canary.worst_s)
        if late and self.canary.has_stalled:
            raise InconclusiveError(f"the driver stalled for {self.canary.worst_s:.2f} s: {late[:3]}")
        if late:
            raise ViolationError(f"seed {self.seed}: {len(late)} dishonest answers\n" + "\n".join(late[:8]))

    def require_no_stall(self) -> None:
        """Before judging times. Raises InconclusiveError."""
        if self.canary.has_stalled:
            raise InconclusiveError(f"the driver stalled for {self.canary.worst_s:.2f} s")

    def safety_violations(self) -> list[str]:
        """Of all workloads."""
        return [f"{one.name}: {wrong}" for one in self.workloads for wrong in one.violations()]

    def summary(self) -> str:
        """How much was done, and how it went."""
        statuses = Counter(answer.status for answer in self.client.answers)
        done = ", ".join(f"{one.name} {dict(one.counts)}" for one in self.workloads)
        return (
            f"{len(self.client.answers)} requests, by status {dict(sorted(statuses.items()))}; {done}; "
            f"links {dict(self.network.counts)}; driver at most {self.canary.worst_s:.2f} s late"
        )

    def answers_between(self, begin: float, end: float) -> list[Answer]:
        """Of requests that began between two moments (monotonic seconds)."""
        return [one for one in self.client.answers if begin <= one.called / 1e9 < end]

    async def wait_for_answers(self, count: int, *, within_s: float = 60.0) -> None:
        """Until so many more requests succeeded."""
        goal = sum(200 <= one.status < 300 for one in self.client.answers) + count
        deadline = time.monotonic() + within_s
        while sum(200 <= one.status < 300 for one in self.client.answers) < goal:
            if time.monotonic() > deadline:
                raise ViolationError(f"seed {self.seed}: no {count} successes within {within_s} s\n{self.summary()}")
            await asyncio.sleep(0.02)

    async def converged_under_load(self, member: str, *, within_s: float = 60.0) -> float:
        """Seconds until `member` has applied what was committed when this was called."""
        began = time.monotonic()
        goal = max(one.commit_index for one in (await self.member_statuses()).values())
        while time.monotonic() - began < within_s:
            status = (await self.member_statuses()).get(member)
            if status is not None and status.last_applied >= goal:
                return time.monotonic() - began
            await asyncio.sleep(0.05)
        raise ViolationError(f"seed {self.seed}: {member} has not applied entry {goal} within {within_s} s")

    async def member_statuses(self) -> dict[str, MemberStatus]:
        """Of the members that answer."""
        found = {}
        for name in MEMBERS:
            try:
                found[name] = await self.peers.call(
                    self.cluster.peer(name), "GET", "/v1/status", MemberStatus, timeout_s=2.0
                )
            except TrivetError:
                continue
        return found

    async def leader(self, *, within_s: float = 30.0, other_than: str = "") -> str:
        """The member that leads in the highest term, another one than `other_than` if that is given."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            statuses = await self.member_statuses()
            leaders = [
                (one.term, name) for name, one in statuses.items() if one.role == "leader" and name != other_than
            ]
            if leaders and max(leaders)[0] == max(one.term for one in statuses.values()):
                return max(leaders)[1]
            await asyncio.sleep(0.02)
        raise ViolationError(f"seed {self.seed}: no leader within {within_s} s")

    def _is_disturbed(self, gateway: str, began: float, ended: float) -> bool:
        touched = self.cluster.touched_at.get(gateway, [])
        return any(began - DISTURBED_FOR_S < moment < ended for moment in touched)

    async def _make_bucket(self) -> None:
        async with asyncio.timeout(30):
            while True:
                answer = await asyncio.to_thread(
                    httpx.put,
                    f"{self.cluster.gateway_url}/v1/buckets/{self.client.bucket}",
                    headers=self.cluster.bearer,
                    timeout=10,
                    trust_env=False,
                )
                if answer.status_code in {200, 201}:
                    return
                await asyncio.sleep(0.1)

    async def _why_not_converged(self) -> str:
        statuses = await self.member_statuses()
        if len(statuses) < len(MEMBERS):
            return f"only {sorted(statuses)} answer"
        states = {(one.last_applied, one.state_hash, one.term) for one in statuses.values()}
        if len(states) > 1:
            return f"members differ: {states}"
        for gateway in GATEWAYS:
            key = "converged"
            reply = await self.client.call(gateway, "PUT", key, body=b"yes", give_up_s=10)
            if reply.outcome != Outcome.OK:
                return f"{gateway} does not write: {reply} {reply.problem}"
        return ""

    async def _measure_replicas(self) -> None:
        """How many files have fewer replicas than they should; the loop that restores them does not exist yet."""
        short = Counter[str]()
        asked = 0
        reads = [read for one in self.workloads if isinstance(one, Registers) for read in one.final_reads]
        for read in reads:
            if read.value is None or read.gateway != GATEWAYS[0]:
                continue
            reply = await self.client.call(GATEWAYS[0], "HEAD", read.key, headers={"x-trivet-read-quorum": "1"})
            asked += 1
            short[reply.headers.get("x-trivet-replicas-confirmed", "?")] += 1
        if asked:
            self.note(f"replicas confirmed of {asked} files: {dict(sorted(short.items()))}")

    async def aclose(self) -> None:
        """Close all connections; idempotent."""
        await self.client.close()
        await self.peers.aclose()
