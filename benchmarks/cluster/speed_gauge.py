"""How fast the machine is meanwhile: one process that does the same small work again and again, and what that costs it.

On a shared machine the CPU that the same work takes goes up and down by a third within minutes: neighbours on the same cores,
caches, clock rates. What the work of the gauge costs goes up and down with it, whatever tree is measured, so figures of two
runs can be told at one speed. The work is of the kinds that a service spends its time with: objects and JSON in Python, calls
of the kernel that copy, a checksum; and it is done after a rest, with caches that others have used.

Run as a process of its own: `python -m benchmarks.cluster.speed_gauge FILE` counts in FILE until it is ended.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from benchmarks.cluster.commands import clean_environment
from benchmarks.cluster.errors import BenchmarkError
from local_cluster.settings import PROJECT_ROOT
from shared.units import KIB

REFERENCE_US: Final = 250.0
"""What the work cost on the machine of RESULTS.md in the middle of rows; figures are normalized to this speed."""

_REST_S: Final = 0.01
_COUNTERS: Final = struct.Struct("=QQ")
_START_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class GaugeReading:
    """So often the work was done since the gauge was started, and so much CPU it took."""

    count: int
    cpu_ns: int


@dataclass(frozen=True, slots=True)
class SpeedGauge:
    """The running gauge."""

    pid: int
    counters: mmap.mmap

    def read(self) -> GaugeReading:
        """What was counted until now."""
        return GaugeReading(*_COUNTERS.unpack_from(self.counters))


@contextlib.contextmanager
def speed_gauge(folder: Path) -> Iterator[SpeedGauge]:
    """The gauge, until the context ends. `folder` is one in memory.

    Raises:
        BenchmarkError: it does not start.
    """
    path = folder / "speed-gauge"
    path.write_bytes(bytes(_COUNTERS.size))
    command = [sys.executable, "-m", "benchmarks.cluster.speed_gauge", str(path)]
    with (
        path.open("r+b") as file,
        mmap.mmap(file.fileno(), _COUNTERS.size) as counters,
        subprocess.Popen(command, cwd=PROJECT_ROOT, env=clean_environment()) as process,
    ):
        gauge = SpeedGauge(process.pid, counters)
        try:
            _wait_for_first(gauge)
            yield gauge
        finally:
            process.terminate()


def _wait_for_first(gauge: SpeedGauge) -> None:
    deadline_s = time.monotonic() + _START_S
    while not gauge.read().count:
        if time.monotonic() > deadline_s:
            raise BenchmarkError("The gauge of the machine's speed does not start.")
        time.sleep(_REST_S)


def work(left: socket.socket, right: socket.socket, piece: bytes) -> None:
    """About a quarter of a millisecond; what it does may not change, or figures of two versions cannot be compared."""
    records = [{"id": f"chunk-{number}", "size": number * KIB, "nodes": ["a", "b", "c"]} for number in range(40)]
    found = json.loads(json.dumps(records))
    by_id = {record["id"]: record["size"] + len(record["nodes"]) for record in found}
    assert sum(by_id.values())
    for _ in range(8):
        left.send(piece[: 4 * KIB])
        right.recv(4 * KIB)
    blake3(piece).digest()


def main() -> None:
    """Work and count until SIGTERM."""
    with Path(sys.argv[1]).open("r+b") as file, mmap.mmap(file.fileno(), _COUNTERS.size) as counters:
        left, right = socket.socketpair()
        piece = bytes(range(256)) * 256
        count = cpu_ns = 0
        while True:
            time.sleep(_REST_S)
            before_ns = time.thread_time_ns()
            work(left, right, piece)
            cpu_ns += time.thread_time_ns() - before_ns
            count += 1
            _COUNTERS.pack_into(counters, 0, count, cpu_ns)


if __name__ == "__main__":
    main()
