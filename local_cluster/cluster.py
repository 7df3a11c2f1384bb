"""A whole cluster of real processes on this machine, as an API: what `make`, the tests and the benchmarks drive."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from local_cluster.administration import Administration
from local_cluster.cluster_init import why_not_initialised
from local_cluster.errors import LocalClusterError
from local_cluster.exclusive import exclusive
from local_cluster.layout import Layout
from local_cluster.local_secrets import LocalSecrets, load_or_make_secrets
from local_cluster.plan import (
    DEFAULT_SHAPE,
    ClusterPlan,
    Kind,
    Overrides,
    ProcessSpec,
    Shape,
    make_plan,
    process_names,
)
from local_cluster.processes import Processes
from local_cluster.readiness import why_not_ready
from local_cluster.redis_server import find_redis_server
from local_cluster.shape_file import load_shape, save_shape
from shared.access_keys import bearer_of
from shared.cluster_keys import PeerKeys
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role

READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
"""More than a service's own shutdown grace, so that SIGKILL meets only what hangs."""

KILL_TIMEOUT_S: Final = 10.0
POLL_INTERVAL_S: Final = 0.2

Pending = Mapping[str, str]
"""Processes that are not ready, and why."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process as `make status` shows it. `problem` is None when it is ready."""

    name: str
    url: str
    pid: int | None
    rss_bytes: int | None
    problem: str | None


class Cluster:
    """One cluster in one folder.

    It may be driven by several launchers one after the other: what runs, and which storage nodes were added to the `shape` or
    have left it, is read from the folder, not remembered.
    `started` holds the names of the processes that this object started.
    """

    def __init__(
        self,
        local_dir: Path,
        port_offset: int = 0,
        overrides: Overrides | None = None,
        shape: Shape = DEFAULT_SHAPE,
    ) -> None:
        self.layout = Layout(local_dir.resolve())
        self.started: set[str] = set()
        self.port_offset = port_offset
        self.shape = load_shape(self.layout, shape)
        self._overrides = overrides or {}
        self._processes = Processes(self.layout)
        self._prepared: tuple[ClusterPlan, LocalSecrets] | None = None

    @property
    def plan(self) -> ClusterPlan:
        """Which processes the cluster has. Reading it makes the folders and the secrets.

        Raises:
            LocalClusterError: the folder cannot be written, or no Redis server is found.
        """
        return self._prepare()[0]

    @property
    def gateway_url(self) -> str:
        """Base URL of the public API."""
        return self.url("gateway-1")

    @property
    def s3_url(self) -> str:
        """Where S3 is spoken."""
        return self.plan.get("gateway-1").s3_url

    @property
    def s3_region(self) -> str:
        """Which region clients of S3 are told."""
        return self.plan.get("gateway-1").environment.get("TRIVET_S3_REGION", "us-east-1")

    @property
    def root_key(self) -> str:
        """`TV….secret`: the access key that may do everything."""
        return self._prepare()[1].root_key_file.read_text().strip()

    @property
    def bearer(self) -> dict[str, str]:
        """The header that shows the root key."""
        return {"authorization": bearer_of(self.root_key)}

    @property
    def keys(self) -> PeerKeys:
        """The keys of an operator, by which this object calls services."""
        return self.keys_of(Role.OPERATOR)

    def keys_of(self, role: Role) -> PeerKeys:
        """The keys that processes of that role have."""
        return self._prepare()[1].keys(role)

    def url(self, name: str) -> str:
        """Base URL of one process."""
        return self.plan.get(name).url

    def operations_url(self, name: str) -> str:
        """Base URL of the operations listener of one process."""
        return self.plan.get(name).operations_url

    def peer(self, name: str) -> PeerAddress:
        """Address of one service for a `PeerClient`."""
        return self.plan.get(name).peer

    def pid(self, name: str) -> int | None:
        """Process id, or None while it is not running."""
        process = self._processes.find(name)
        return None if process is None else process.pid

    def names(self) -> list[str]:
        """All processes of the cluster, in the order of starting. Makes nothing."""
        return [name for kind in Kind for name in process_names(kind, self.shape)]

    def running(self) -> list[str]:
        """Which processes of the cluster run. Makes nothing."""
        return [name for name in self.names() if self.pid(name) is not None]

    async def start(
        self,
        names: Iterable[str] | None = None,
        *,
        timeout_s: float = READY_TIMEOUT_S,
        on_progress: Callable[[Pending], None] | None = None,
    ) -> None:
        """Start what is not running of the cluster, or of the named processes, and return when all of it is ready.

        A cluster that is new is initialised.

        Raises:
            LocalClusterError: something cannot be started, ended at once or was not ready in time. It is left as it
                is then, with its logs, but for a start that failed half-way, which is undone.
        """
        wanted = None if names is None else set(names)
        specs = [spec for spec in self.plan.processes if wanted is None or spec.name in wanted]
        async with exclusive(self.layout.run / "lock"):
            self._start_missing(specs)
            await self.wait_until_ready(wanted, timeout_s=timeout_s, on_progress=on_progress)

    async def stop(self, names: Iterable[str] | None = None) -> None:
        """Stop all processes of the cluster, or the named ones: gateway first, Redis last, gently before by force."""
        chosen = set(self.names() if names is None else names)
        for kind in reversed(Kind):
            group = [name for name in process_names(kind, self.shape) if name in chosen]
            for name in group:
                self._processes.send_signal(name, signal.SIGTERM)
            left = await asyncio.to_thread(self._processes.wait_until_ended, group, STOP_TIMEOUT_S)
            for name in left:
                self._processes.send_signal(name, signal.SIGKILL)
            await asyncio.to_thread(self._processes.wait_until_ended, left, KILL_TIMEOUT_S)
        self.started -= chosen

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one process; after SIGKILL it has ended when this returns.

        Raises:
            LocalClusterError: it is not running.
        """
        if not self._processes.send_signal(name, number):
            raise LocalClusterError(f"{name} is not running.")
        if number == signal.SIGKILL:
            self._processes.wait_until_ended([name], KILL_TIMEOUT_S)

    def kill_all(self, names: Iterable[str] | None = None) -> None:
        """SIGKILL to all processes at once, as near to a power cut as processes can have it."""
        chosen = list(self.names() if names is None else names)
        for name in chosen:
            self._processes.send_signal(name, signal.SIGKILL)
        self._processes.wait_until_ended(chosen, KILL_TIMEOUT_S)

    async def restart(self, name: str, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Stop one process if it runs, start it and wait until it is ready. Raises as `start`."""
        await self.stop([name])
        self._start_missing([self.plan.get(name)])
        await self.wait_until_ready([name], timeout_s=timeout_s)

    def administration(self) -> Administration:
        """Of this cluster, through its first gateway."""
        return Administration(self.operations_url("gateway-1"), self.bearer)

    async def add_node(self, *, timeout_s: float = READY_TIMEOUT_S) -> str:
        """One storage node more, with a Redis of its own, admitted and ready; its name.

        Raises:
            LocalClusterError: the cluster does not admit it, and nothing was changed; or it does not start, and `start` with
                its name tries again.
        """
        number = self.shape.storage_nodes + 1
        name, redis = f"{Kind.STORAGE}-{number}", f"{Kind.REDIS}-{number}"
        with self.administration() as administration:
            # Before it starts: so it is let in with its first heartbeat.
            await asyncio.to_thread(administration.admit, name)
        self._reshape(replace(self.shape, storage_nodes=number))
        await self.start([redis, name], timeout_s=timeout_s)
        return name

    async def forget_node(self, name: str) -> None:
        """Stop a storage node that has left the cluster, and its Redis; later commands do not know them. Its files are kept."""
        number = self._storage_number(name)
        await self.stop([name, f"{Kind.REDIS}-{number}"])
        self._reshape(replace(self.shape, removed_nodes=self.shape.removed_nodes | {number}))

    def _storage_number(self, name: str) -> int:
        names = process_names(Kind.STORAGE, self.shape)
        if name not in names:
            raise LocalClusterError(f"There is no storage node {name}; there are {', '.join(names)}.")
        return self.shape.numbers(Kind.STORAGE)[names.index(name)]

    def _reshape(self, shape: Shape) -> None:
        save_shape(self.layout, shape)
        self.shape = shape
        self._prepared = None

    async def wait_until_ready(
        self,
        names: Iterable[str] | None = None,
        *,
        timeout_s: float = READY_TIMEOUT_S,
        on_progress: Callable[[Pending], None] | None = None,
    ) -> None:
        """Return when all processes, or the named ones, are ready.

        Raises:
            LocalClusterError: one has ended, or is not ready after `timeout_s`.
        """
        wanted = None if names is None else set(names)
        specs = [spec for spec in self.plan.processes if wanted is None or spec.name in wanted]
        deadline = time.monotonic() + timeout_s
        # Somebody who waits for one member alone does not mean to make a cluster, and the first member may be down.
        is_initialised = not {member.id for member in self.plan.members} <= {spec.name for spec in specs}
        asked = specs
        async with PeerClient(self.keys) as client:
            while True:
                self._check_running(specs)
                pending = await self._pending(client, asked)
                if not is_initialised:
                    reason = await why_not_initialised(client, self.plan)
                    is_initialised = reason is None
                    pending = ({} if reason is None else {self.plan.members[0].id: reason}) | pending
                if on_progress is not None:
                    on_progress(pending)
                if not pending and asked == specs:
                    return
                # Only those that were not ready are asked again: eight services are starting on these cores. Once
                # they are, all are asked together, because one may have fallen back meanwhile.
                asked = [spec for spec in specs if spec.name in pending] or specs
                if time.monotonic() > deadline:
                    reasons = "; ".join(f"{name} {reason}" for name, reason in pending.items())
                    raise LocalClusterError(
                        f"Not ready after {timeout_s:.0f} s: {reasons}. Logs: {self.layout.root}/log"
                    )
                if pending:
                    await asyncio.sleep(POLL_INTERVAL_S)

    async def status(self) -> list[ProcessStatus]:
        """Every process, whether it runs and why it is not ready."""
        async with PeerClient(self.keys) as client:
            pending = await self._pending(client, self.plan.processes)
        return [self._status_of(spec, pending.get(spec.name)) for spec in self.plan.processes]

    def _prepare(self) -> tuple[ClusterPlan, LocalSecrets]:
        if self._prepared is None:
            self.layout.make()
            try:
                secrets = load_or_make_secrets(self.layout, process_names(Kind.REDIS, self.shape))
            except ValueError as error:
                raise LocalClusterError(f"{self.layout.secrets}: {error}") from error
            plan = make_plan(
                self.layout, secrets, self.port_offset, find_redis_server(), self._overrides, shape=self.shape
            )
            self._prepared = plan, secrets
        return self._prepared

    def _start_missing(self, specs: Iterable[ProcessSpec]) -> None:
        fresh: list[str] = []
        try:
            for spec in specs:
                if self._processes.find(spec.name) is None:
                    self._processes.start(spec)
                    fresh.append(spec.name)
        except LocalClusterError:
            self.kill_all(fresh)
            raise
        self.started |= set(fresh)

    def _check_running(self, specs: Iterable[ProcessSpec]) -> None:
        for spec in specs:
            if self._processes.find(spec.name) is None:
                tail = self._processes.log_tail(spec.name)
                log = self.layout.log_file(spec.name)
                raise LocalClusterError(f"{spec.name} has ended. Its log ({log}) says:\n{tail or '(nothing)'}")

    async def _pending(self, client: PeerClient, specs: Iterable[ProcessSpec]) -> dict[str, str]:
        chosen = list(specs)
        reasons = await asyncio.gather(*(why_not_ready(client, spec, self._redis_password(spec)) for spec in chosen))
        return {spec.name: reason for spec, reason in zip(chosen, reasons, strict=True) if reason is not None}

    def _redis_password(self, spec: ProcessSpec) -> str | None:
        if spec.kind is not Kind.REDIS:
            return None
        return self._prepare()[1].redis_password_files[spec.name].read_text().strip()

    def _status_of(self, spec: ProcessSpec, problem: str | None) -> ProcessStatus:
        process = self._processes.find(spec.name)
        if process is None:
            # Something answers there that is not ours, or nothing does: either way it is not this cluster's process.
            return ProcessStatus(spec.name, spec.url, None, None, "not running")
        try:
            rss_bytes: int | None = process.memory_info().rss
        except psutil.Error:
            rss_bytes = None
        return ProcessStatus(spec.name, spec.url, process.pid, rss_bytes, problem)
