"""The order of a run: idle, then rounds of all rows, each row on every tree in turn and the trees in turn first.

Drift of the machine over minutes hits both trees alike, and what one row leaves behind for the next tree changes
sides every round. So ratios of one round are pairs, and their median is what to look at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from benchmarks.cluster.disk_floor import REPLICAS
from benchmarks.cluster.floors import ServeFloor, disk_bodies, floors_of, measure_floor
from benchmarks.cluster.measure import Watched, measure_idle, measure_memory, measure_row
from benchmarks.cluster.rows import LISTED_KEYS, Operation, Row
from benchmarks.cluster.running_cluster import RunningCluster
from benchmarks.cluster.samples import FloorSample, GroupMemory, IdleSample, RowSample
from benchmarks.cluster.speed_gauge import SpeedGauge
from benchmarks.cluster.trees import WORK_DIR
from benchmarks.cluster.workload import SETTLE_S, Stock, Workload
from shared.units import MIB

IDLE_S: Final = 60.0
_SETTLE_BEFORE_IDLE_S: Final = 8.0
_WARM_UP_S: Final = 1.0
_SMALL_PER_ROUND_BYTES: Final = 64 * MIB
"""More than all small files of one round."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        idle_s: how long idle CPU is measured, None for not at all.
        listed_keys: how many keys a list shows.
        settle_s: the rest before each row.
    """

    rows: list[Row]
    rounds: int
    idle_s: float | None = IDLE_S
    listed_keys: int = LISTED_KEYS
    settle_s: float = SETTLE_S

    def steps(self, trees: int) -> int:
        """Calls of `on_step` in a run of so many trees."""
        idle = 0 if self.idle_s is None else int(self.idle_s)
        return trees + idle + self.rounds * (len(self.rows) * trees + len(floors_of(self.rows)))

    def needed_bytes(self, trees: int) -> int:
        """The most that a run of so many trees leaves on the disk until its end."""
        large = sum(
            row.size_bytes * row.at_most
            for row in self.rows
            if row.operation is Operation.PUT and row.size_bytes >= MIB
        )
        floor = max((row.size_bytes * disk_bodies(row) for row in self.rows), default=0)
        return REPLICAS * (trees * (self.rounds + 1) * (large + _SMALL_PER_ROUND_BYTES) + floor)


@dataclass(frozen=True, slots=True)
class Measured:
    """All samples of a run; it grows while the run lasts."""

    rows: list[RowSample]
    floors: list[FloorSample]
    idle: list[IdleSample]
    memory: list[GroupMemory]


OnStep = Callable[[str], object]
"""Told what comes next; it may take its time, for nothing is measured then."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What runs beside the clusters: the server of the floors, and the gauge of the machine's speed."""

    server: ServeFloor
    gauge: SpeedGauge


async def run_rounds(
    plan: Plan, clusters: Sequence[RunningCluster], beside: Beside, scratch: Path, on_step: OnStep
) -> Measured:
    """Measure everything. `scratch` is a folder in memory for bodies.

    Raises:
        BenchmarkError: a cluster does not answer or has lost a process.
    """
    workloads = {
        (cluster.tree.name, is_s3): Workload(
            cluster.door(is_s3=is_s3), scratch / "large.bin", plan.listed_keys, plan.settle_s
        )
        for cluster in clusters
        for is_s3 in sorted({row.is_s3 for row in plan.rows})
    }
    run = _Run(plan, workloads, beside, on_step)
    for cluster in clusters:
        on_step(f"warm-up {cluster.tree.name}")
        for (tree, is_s3), workload in workloads.items():
            if tree == cluster.tree.name:
                await workload.fill_listed("listed")
                await warm_up([row for row in plan.rows if row.is_s3 is is_s3], workload)
    if plan.idle_s is not None:
        await asyncio.sleep(min(_SETTLE_BEFORE_IDLE_S, plan.idle_s))
        run.measured.idle.extend(
            await measure_idle(Watched(clusters, beside.gauge), plan.idle_s, lambda: on_step("idle"))
        )
    for number in range(1, plan.rounds + 1):
        await run.measure_round(number, order_of_round(clusters, number))
    run.measured.memory.extend(group for cluster in clusters for group in measure_memory(cluster))
    return run.measured


@dataclass(frozen=True, slots=True)
class _Run:
    """What all rounds of a run share."""

    plan: Plan
    workloads: Mapping[tuple[str, bool], Workload]
    beside: Beside
    on_step: OnStep
    measured: Measured = field(default_factory=lambda: Measured([], [], [], []))

    async def measure_round(self, number: int, clusters: Sequence[RunningCluster]) -> None:
        """Every row on every cluster in that order, each followed by its floor."""
        stocks = {name: Stock(f"round-{number}") for name in self.workloads}
        floors = floors_of(self.plan.rows)
        for row in self.plan.rows:
            for cluster in clusters:
                name = cluster.tree.name, row.is_s3
                self.on_step(f"round {number}: {row.name} {cluster.tree.name if len(clusters) > 1 else ''}")
                in_order = [cluster, *(other for other in clusters if other is not cluster)]
                watched = Watched(in_order, self.beside.gauge)
                sample = await measure_row(row, number, stocks[name], self.workloads[name], watched)
                self.measured.rows.append(sample)
            if row in floors:
                self.on_step(f"round {number}: {row.floor}")
                self.measured.floors.append(await measure_floor(row, number, self.beside.server, WORK_DIR))


_T = TypeVar("_T")


def order_of_round(clusters: Sequence[_T], number: int) -> list[_T]:
    """The clusters in the order of a round: the other one first every time."""
    return list(clusters) if number % 2 else list(reversed(clusters))


async def warm_up(rows: Sequence[Row], workload: Workload) -> None:
    """Every row once, shorter, so that connections, caches and code paths of all are there in round 1."""
    stock = Stock("warm-up")
    for row in rows:
        shorter = row if row.is_curl else _shorter(row)
        await workload.prepare(shorter, stock)
        await workload.run(shorter, stock)


def _shorter(row: Row) -> Row:
    return replace(row, duration_s=min(row.duration_s, _WARM_UP_S), at_most=min(row.at_most, 200))
