"""The cluster that is broken and repaired, and what can be read of it from outside: its API, its disks, its sockets, its CPU."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.cluster.connection import Address
from benchmarks.cluster.credentials import authorization
from benchmarks.cluster.errors import BenchmarkError
from benchmarks.cluster.process_groups import read_cpu_ns
from local_cluster.cluster import Cluster
from local_cluster.free_ports import free_port_offset
from local_cluster.plan import Shape

SHAPE: Final = Shape(storage_nodes=4)
NODES: Final = tuple(f"storage-{number}" for number in range(1, SHAPE.storage_nodes + 1))
VICTIM: Final = "storage-2"
RETENTION_S: Final = 10
"""Grace and longest download: what is deleted is freed so much later at the earliest."""

_POLL_S: Final = 1.0
_START_TIMEOUT_S: Final = 120.0

QUICK: Final[dict[str, dict[str, str]]] = {
    "*": {"TRIVET_GC_GRACE_S": str(RETENTION_S), "TRIVET_MAX_DOWNLOAD_AGE_S": str(RETENTION_S)},
    "clock": {"TRIVET_NTP_SERVERS": "127.0.0.1:9"},
    "consensus": {"TRIVET_HEARTBEAT_GRACE_S": "4", "TRIVET_CURSOR_RETENTION_S": str(RETENTION_S)},
    "storage": {"TRIVET_HEARTBEAT_INTERVAL_S": "1", "TRIVET_HEARTBEAT_RETRY_BASE_S": "0.5"},
}
"""Seconds in place of minutes and days, so that a run ends; how fast a node repairs is not touched."""

SLOW_HEARTBEATS: Final = QUICK | {"storage": {}, "consensus": {"TRIVET_CURSOR_RETENTION_S": str(RETENTION_S)}}
"""For measuring what a node does when nothing is asked of it: heartbeats as they are by default."""


@dataclass(frozen=True, slots=True)
class Facts:
    """GET /v1/cluster, as far as it matters here. `missing` is None while not every live node has reported."""

    states: Mapping[str, str]
    missing: int | None
    used_bytes: int


class RepairCluster:
    """Four storage nodes and all that belongs to them, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offset = free_port_offset(shape=SHAPE)
        self._cluster = Cluster(folder, self._offset, QUICK, SHAPE)
        self.address = Address("127.0.0.1", 8080 + self._offset)

    async def start(self) -> None:
        """Start what does not run, and wait until it is ready."""
        await self._cluster.start(timeout_s=_START_TIMEOUT_S)
        self.address = Address("127.0.0.1", 8080 + self._offset, authorization(self._folder))

    async def stop(self) -> None:
        """Stop all of it."""
        await self._cluster.stop()

    async def remove(self) -> None:
        """Stop it, and take away all that it has on disk."""
        await self.stop()
        shutil.rmtree(self._folder)

    async def use(self, overrides: Mapping[str, Mapping[str, str]]) -> None:
        """Restart with other settings."""
        await self._cluster.stop()
        self._cluster = Cluster(self._folder, self._offset, overrides, SHAPE)
        await self.start()

    async def kill_and_wipe(self, node: str) -> None:
        """End a node and its Redis, and take away what they had on disk."""
        redis = node.replace("storage", "redis")
        for name in (node, redis):
            await asyncio.to_thread(self._cluster.kill, name, signal.SIGKILL)
            shutil.rmtree(self._cluster.layout.data_dir(name))
            self._cluster.layout.data_dir(name).mkdir(mode=0o700)

    def facts(self) -> Facts:
        """What the cluster says of itself. Raises BenchmarkError: it does not answer."""
        request = urllib.request.Request(f"{self.address.url}/v1/cluster")  # noqa: S310 - our own gateway
        if self.address.authorization:
            request.add_header("Authorization", self.address.authorization)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
                document: dict[str, Any] = json.loads(answer.read())
        except OSError as error:
            raise BenchmarkError(f"The gateway does not describe the cluster: {error}") from error
        nodes = document["nodes"]
        return Facts(
            {node["id"]: node["state"] for node in nodes},
            document["under_replicated_chunks"],
            sum(node["used_bytes"] or 0 for node in nodes),
        )

    async def wait_until(self, what: str, condition: Callable[[Facts], bool], limit_s: float) -> float:
        """The moment (perf_counter) at which the cluster said so; asked every `_POLL_S`.

        Raises:
            BenchmarkError: it did not within `limit_s`.
        """
        deadline = time.monotonic() + limit_s
        facts: Facts | None = None
        while time.monotonic() < deadline:
            try:
                facts = await asyncio.to_thread(self.facts)
            except BenchmarkError:
                facts = None  # a gateway may be busy for a moment
            if facts is not None and condition(facts):
                return time.perf_counter()
            await asyncio.sleep(_POLL_S)
        raise BenchmarkError(f"{what}: not within {limit_s:.0f} s; the last that was seen is {facts}")

    def disk_bytes(self) -> int:
        """What the data folders of all nodes and their Redis take on disk."""
        names = [*NODES, *(node.replace("storage", "redis") for node in NODES)]
        return sum(_allocated_bytes(self._cluster.layout.data_dir(name)) for name in names)

    def cpu_s(self) -> dict[str, float]:
        """CPU of each storage node since it began, without its Redis."""
        pids = {node: pid for node in NODES if (pid := self._cluster.pid(node)) is not None}
        return {node: used / 1e9 for node, used in read_cpu_ns(pids).items()}

    def wire(self) -> Wire:
        """Counts the bytes of the nodes' connections from now on."""
        return Wire({pid for node in NODES if (pid := self._cluster.pid(node)) is not None})


class Wire:
    """Bytes that some processes sent and received over TCP, as their sockets count them (`ss -ti`, tcp_info of the kernel).

    A connection that opens and closes between two looks is missed, so there is a look every second.
    """

    def __init__(self, pids: set[int]) -> None:
        self._pids = pids
        self._before = self._look()
        self._last = dict(self._before)

    async def watch(self, duration_s: float) -> int | None:
        """Bytes in both directions during that time; None where `ss` is not installed."""
        ends_at = time.monotonic() + duration_s
        while (left_s := ends_at - time.monotonic()) > 0:
            await asyncio.sleep(min(1.0, left_s))
            self._last |= await asyncio.to_thread(self._look)
        if not self._last:
            return None
        return sum(count - self._before.get(socket, 0) for socket, count in self._last.items())

    def _look(self) -> dict[str, int]:
        program = shutil.which("ss")
        if program is None:
            return {}
        try:
            done = subprocess.run([program, "-tinpHO"], capture_output=True, text=True, check=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return {}
        counts = {}
        for line in done.stdout.splitlines():
            if any(f"pid={pid}," in line for pid in self._pids):
                fields = line.split()
                counted = re.findall(r"\b(?:bytes_sent|bytes_received):(\d+)", line)
                counts[f"{fields[3]} {fields[4]}"] = sum(map(int, counted))
        return counts


def _allocated_bytes(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_blocks * 512
            except OSError:
                continue  # it was deleted meanwhile
    return total
