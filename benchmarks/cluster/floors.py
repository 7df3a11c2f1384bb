"""Floors: what the disk and an HTTP server alone do with the same bytes in the same run; a slow hour of the machine shows.

The disk floor of a row is one process that writes each body three times as new files with fdatasync (`disk_floor`);
the serve floor is one uvicorn process that streams the file from the page cache (`serve_floor`) to the same load as
the row's. Neither hashes, signs or names anything.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.cluster.bodies import BodyMaker, write_body
from benchmarks.cluster.commands import clean_environment, run
from benchmarks.cluster.connection import BODY_START_BYTES, Address
from benchmarks.cluster.doors import NativeDoor
from benchmarks.cluster.process_groups import read_cpu_ns
from benchmarks.cluster.rows import Operation, Row
from benchmarks.cluster.samples import FloorSample
from benchmarks.cluster.workload import Stock, StoredFile, Workload
from local_cluster.settings import PROJECT_ROOT
from shared.units import KIB, MIB

_DISK_BYTES = 64 * MIB
"""About so much is written per measurement, a large file whole."""

_MAX_DISK_BODIES = 100
_MAX_SERVED = 10**6
_SERVE_DURATION_S = 0.5
_PROCESS = "serve-floor"


@dataclass(frozen=True, slots=True)
class ServeFloor:
    """The running server: its address, process and the folder of its files."""

    address: Address
    pid: int
    folder: Path


@contextlib.contextmanager
def serve_floor(folder: Path) -> Iterator[ServeFloor]:
    """The server, until the context ends."""
    command = [sys.executable, "-m", "benchmarks.cluster.serve_floor", str(folder)]
    with subprocess.Popen(
        command, cwd=PROJECT_ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            yield ServeFloor(Address("127.0.0.1", port), server.pid, folder)
        finally:
            server.terminate()


def floors_of(rows: Sequence[Row]) -> list[Row]:
    """One row for each floor that the rows need; rows that share a floor measure it once."""
    by_floor = {row.floor: row for row in reversed(rows) if row.floor is not None}
    return [row for row in rows if row.floor is not None and by_floor.get(row.floor) is row]


async def measure_floor(row: Row, round_number: int, server: ServeFloor, disk_folder: Path) -> FloorSample:
    """Measure the floor of a row.

    Raises:
        BenchmarkError: it fails.
    """
    if row.operation is Operation.PUT:
        return _measure_disk(row, round_number, disk_folder)
    return await _measure_serve(row, round_number, server)


def _measure_disk(row: Row, round_number: int, folder: Path) -> FloorSample:
    bodies = disk_bodies(row)
    command = [sys.executable, "-m", "benchmarks.cluster.disk_floor", str(folder), str(row.size_bytes), str(bodies)]
    figures = json.loads(run(command, PROJECT_ROOT))
    operations = row.count_operations(bodies)
    return FloorSample(
        floor=row.floor or "",
        round=round_number,
        operations=operations,
        duration_s=figures["duration_s"],
        cpu_ms=figures["cpu_s"] * 1000 / operations,
    )


def disk_bodies(row: Row) -> int:
    """How many bodies the disk floor of a row writes."""
    return min(row.at_most, _MAX_DISK_BODIES, max(1, _DISK_BYTES // row.size_bytes))


async def _measure_serve(row: Row, round_number: int, server: ServeFloor) -> FloorSample:
    name = f"{row.size_bytes // KIB}k"
    if not (server.folder / name).exists():
        write_body(server.folder / name, BodyMaker(row.size_bytes).make())
    with (server.folder / name).open("rb") as file:
        stock = Stock("", {row.size_bytes: [StoredFile(name, file.read(BODY_START_BYTES))]})
    # The floor has one file.
    shorter = replace(row, duration_s=min(row.duration_s, _SERVE_DURATION_S), is_read_once=False, at_most=_MAX_SERVED)
    before = read_cpu_ns({_PROCESS: server.pid})[_PROCESS]
    outcome = await Workload(NativeDoor(server.address), server.folder / name).run(shorter, stock)
    used_ns = read_cpu_ns({_PROCESS: server.pid})[_PROCESS] - before
    operations = row.count_operations(outcome.run.operations)
    return FloorSample(
        floor=row.floor or "",
        round=round_number,
        operations=operations,
        duration_s=outcome.run.duration_s,
        cpu_ms=used_ns / 1e6 / operations,
    )
