"""Three members, four storage nodes with a Redis each, two gateways and a clock, with a proxy before every port.

Every process listens on a port of its own that nobody is told; what others are told (settings, advertised URLs, the membership in
the log) is the proxy's. Internal requests are signed for a name and not for an address, so nothing in them notices.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from local_cluster.cluster import Cluster
from local_cluster.errors import LocalClusterError
from local_cluster.plan import ClusterPlan, Kind, Overrides, ProcessSpec, Shape, process_names
from tests.faults.harness.callers import Callers
from tests.faults.harness.network import Network
from tests.free_ports import free_port_offset

SHAPE = Shape(storage_nodes=4, gateways=2, has_redis_ports=True)
MEMBERS = process_names(Kind.CONSENSUS, SHAPE)
STORAGE = process_names(Kind.STORAGE, SHAPE)
REDIS = process_names(Kind.REDIS, SHAPE)
GATEWAYS = process_names(Kind.GATEWAY, SHAPE)
CLOCK = process_names(Kind.CLOCK, SHAPE)[0]

START_TIMEOUT_S = 90.0
"""Fourteen processes on two cores that others use, too."""

_OVERRIDES: Overrides = {
    # Tests reach no time server: nobody answers on the discard port, and LOGICAL is what a closed network has.
    "clock": {"TRIVET_NTP_SERVERS": "127.0.0.1:9"},
    # What is read there at the end comes from storage nodes; the other gateway may have it in memory.
    GATEWAYS[0]: {"TRIVET_CHUNK_CACHE_BYTES": "0"},
}


class FaultCluster(Cluster):
    """A `Cluster` whose links are in our hands.

    `patches` names, by process or kind, what `planted.launch` changes in it; `wrappers` what stands before a process' command.
    """

    def __init__(
        self,
        folder: Path,
        overrides: Overrides | None = None,
        patches: Mapping[str, list[str]] | None = None,
        wrappers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        front = free_port_offset(SHAPE)
        super().__init__(folder, front, _merged(_OVERRIDES, overrides or {}), SHAPE)
        self._back = front
        while abs(self._back - front) < 1000:
            self._back = free_port_offset(SHAPE)
        self._patches = patches or {}
        self._wrappers = wrappers or {}
        self.touched_at: dict[str, list[float]] = {}
        """When we did something to a process, in monotonic seconds: what its clients see then is our doing."""

    @cached_property
    def plan(self) -> ClusterPlan:  # type: ignore[override]
        """As told to everybody; what listens where is in `ports` and in each process' own environment."""
        plan = super().plan
        return replace(plan, processes=tuple(self._behind_a_proxy(spec) for spec in plan.processes))

    def moved(self, port: int) -> int:
        """Where the process really listens whose proxy listens on `port`."""
        return port - self.port_offset + self._back

    def peer_port(self, member: str) -> int:
        """Where it really listens for the other members."""
        return self.plan.get(member).ports[1]

    def pids(self) -> dict[str, int]:
        """Of what this object started and has not seen end."""
        return {name: child.pid for name, child in self._processes._children.items()}

    def touch(self, name: str) -> None:
        """Remember that something was done to a process now."""
        self.touched_at.setdefault(name, []).append(time.monotonic())

    async def signal(self, name: str, number: signal.Signals) -> bool:
        """Send a signal; False when it does not run. After SIGKILL it has ended."""
        self.touch(name)
        try:
            await asyncio.to_thread(self.kill, name, number)
        except LocalClusterError:
            return False
        return True

    async def wait_until_ended(self, name: str, timeout_s: float = 30.0) -> None:
        """Until what runs under that name now, and was told to end, has ended; or no longer than `timeout_s`."""
        await asyncio.to_thread(self._processes.wait_until_ended, [name], timeout_s)

    async def bring_back(self, names: Iterable[str] | None = None, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start what does not run, and wait until all of the named are ready."""
        chosen = None if names is None else list(names)
        await self.start(chosen, timeout_s=timeout_s)

    def resume(self, name: str) -> None:
        """SIGCONT; nothing where it was not stopped."""
        self._processes.send_signal(name, signal.SIGCONT)

    def launch(self, name: str) -> None:
        """Start one process without waiting for anything."""
        self.touch(name)
        self._start_missing([self.plan.get(name)])

    def _behind_a_proxy(self, spec: ProcessSpec) -> ProcessSpec:
        ports = tuple(self.moved(port) for port in spec.ports)
        if spec.kind is Kind.REDIS:
            config = spec.private_config.replace(f"port {spec.ports[0]}\n", f"port {ports[0]}\n")
            return replace(spec, ports=ports, private_config=config)
        environment = {**spec.environment, "TRIVET_PORT": str(ports[0]), "TRIVET_OPERATIONS_PORT": str(ports[-1])}
        if spec.kind is Kind.CONSENSUS:
            environment["TRIVET_PEER_PORT"] = str(ports[1])
        if spec.kind is Kind.GATEWAY:
            environment["TRIVET_S3_PORT"] = str(ports[1])
        command = spec.command
        chosen = [*self._patches.get(spec.kind, []), *self._patches.get(spec.name, [])]
        if chosen:
            command = (sys.executable, "-m", "tests.faults.planted.launch", ",".join(chosen), spec.command[-1])
        command = (*self._wrappers.get(spec.name, ()), *command)
        return replace(spec, ports=ports, environment=environment, command=command)


@asynccontextmanager
async def running_cluster(
    folder: Path,
    *,
    seed: int,
    overrides: Overrides | None = None,
    patches: Mapping[str, list[str]] | None = None,
    wrappers: Mapping[str, Sequence[str]] | None = None,
) -> AsyncIterator[tuple[FaultCluster, Network]]:
    """Proxies and processes, all ready; everything ends with the block."""
    cluster = FaultCluster(folder, overrides, patches, wrappers)
    async with Network(Callers(cluster.pids), seed, front=GATEWAYS) as network:
        front = Cluster.plan.fget(cluster)  # type: ignore[attr-defined]
        for spec in front.processes:
            for port in spec.ports:
                await network.listen(spec.name, port, cluster.moved(port))
        try:
            await cluster.start(timeout_s=START_TIMEOUT_S)
            yield cluster, network
        finally:
            for name in cluster.pids():
                # A stopped process takes SIGKILL all the same.
                cluster._processes.send_signal(name, signal.SIGKILL)
            await asyncio.to_thread(cluster.kill_all)


def _merged(*all_overrides: Overrides) -> Overrides:
    merged: dict[str, dict[str, str]] = {}
    for overrides in all_overrides:
        for name, values in overrides.items():
            merged.setdefault(name, {}).update(values)
    return merged
