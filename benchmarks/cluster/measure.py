"""Measures one row on one cluster: CPU by process group, latencies, other load and the machine's speed, all over one time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.cluster.errors import BenchmarkError
from benchmarks.cluster.machine_load import read_busy_s, read_own_cpu_s
from benchmarks.cluster.process_groups import Memory, group_of, read_cpu_ns, read_memory, sum_by_group
from benchmarks.cluster.rows import Row
from benchmarks.cluster.running_cluster import RunningCluster
from benchmarks.cluster.samples import GroupMemory, IdleSample, RowSample
from benchmarks.cluster.speed_gauge import GaugeReading, SpeedGauge
from benchmarks.cluster.workload import Stock, Workload
from shared.units import MIB

_GAUGE: Final = "gauge"
_ATTEMPTS: Final = 3
"""A row during which the leader changed is measured again, and marked when it happens so often."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What counters are read of, all at one instant."""

    clusters: Sequence[RunningCluster]
    gauge: SpeedGauge


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters of the machine at one instant. `cpu_ns` is by cluster, then by process."""

    at_s: float
    cpu_ns: tuple[dict[str, int], ...]
    busy_s: float
    own_s: float
    gauge_process_ns: int
    gauge: GaugeReading

    @classmethod
    def take(cls, watched: Watched) -> Reading:
        """Read them. Raises BenchmarkError: a process of a cluster has ended, or the gauge."""
        try:
            used = tuple(read_cpu_ns(cluster.pids) for cluster in watched.clusters)
            gauge_process_ns = read_cpu_ns({_GAUGE: watched.gauge.pid})[_GAUGE]
        except OSError as error:
            raise BenchmarkError(f"A process of a cluster has ended, see the logs below its folder: {error}") from error
        return cls(time.perf_counter(), used, read_busy_s(), read_own_cpu_s(), gauge_process_ns, watched.gauge.read())


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used between two readings. `gauge_us`: what the work of the gauge cost; None if it was not done meanwhile."""

    duration_s: float
    cpu_ns: tuple[dict[str, int], ...]
    own_s: float
    other_cores: float
    gauge_us: float | None


def spent_between(before: Reading, after: Reading) -> Spent:
    """Differences of two readings. Other load is what was busy less clusters, gauge and this process, never below zero."""
    duration_s = after.at_s - before.at_s
    used = tuple(
        {name: value - old[name] for name, value in new.items()}
        for old, new in zip(before.cpu_ns, after.cpu_ns, strict=True)
    )
    clusters_s = sum(sum(cluster.values()) for cluster in used) / 1e9
    own_s = after.own_s - before.own_s
    gauge_s = (after.gauge_process_ns - before.gauge_process_ns) / 1e9
    other_s = after.busy_s - before.busy_s - clusters_s - own_s - gauge_s
    works = after.gauge.count - before.gauge.count
    gauge_us = (after.gauge.cpu_ns - before.gauge.cpu_ns) / 1e3 / works if works else None
    return Spent(duration_s, used, own_s, max(0.0, other_s / duration_s), gauge_us)


async def measure_row(row: Row, round_number: int, stock: Stock, workload: Workload, watched: Watched) -> RowSample:
    """Measure a row on the first of the clusters; the others only stand by.

    Raises:
        BenchmarkError: the cluster does not answer, or every request failed.
    """
    for attempt in range(_ATTEMPTS):
        await workload.prepare(row, stock)
        sample = await _measure_once(row, round_number, stock, workload, watched)
        if sample.is_leader_stable or attempt == _ATTEMPTS - 1:
            return sample
    raise AssertionError


async def _measure_once(row: Row, round_number: int, stock: Stock, workload: Workload, watched: Watched) -> RowSample:
    measured = watched.clusters[0]
    leader = measured.leader()
    before = Reading.take(watched)
    outcome = await workload.run(row, stock)
    spent = spent_between(before, Reading.take(watched))
    run = outcome.run
    if outcome.failed == run.operations:
        raise BenchmarkError(f"{row.name} on {measured.tree.revision}: no request succeeded: {outcome.first_failure}")
    operations = row.count_operations(run.operations)
    return RowSample(
        tree=measured.tree.name,
        row=row.name,
        round=round_number,
        operations=operations,
        duration_s=run.duration_s,
        p50_ms=run.percentile_ms(50),
        p99_ms=run.percentile_ms(99),
        cpu_ms={group: ns / 1e6 / operations for group, ns in sum_by_group(spent.cpu_ns[0], leader).items()},
        # curl is a child of this process; a closed loop knows its own CPU, without that of the readings.
        client_cpu_ms=(spent.own_s if row.is_curl else run.client_cpu_s) * 1e3 / operations,
        other_cores=spent.other_cores,
        gauge_us=spent.gauge_us,
        failed=outcome.failed,
        first_failure=outcome.first_failure,
        is_leader_stable=leader is not None and leader == measured.leader(),
    )


async def measure_idle(watched: Watched, duration_s: float, on_second: Callable[[], object]) -> list[IdleSample]:
    """What the clusters use while nothing is asked of them, all over the same time. Raises BenchmarkError as `Reading.take`."""
    leaders = [cluster.leader() for cluster in watched.clusters]
    before = Reading.take(watched)
    while time.perf_counter() - before.at_s < duration_s:
        await asyncio.sleep(min(1.0, duration_s))
        on_second()
    spent = spent_between(before, Reading.take(watched))
    return [
        IdleSample(
            tree=cluster.tree.name,
            duration_s=spent.duration_s,
            cores={group: ns / 1e9 / spent.duration_s for group, ns in sum_by_group(used, leader).items()},
            other_cores=spent.other_cores,
        )
        for cluster, leader, used in zip(watched.clusters, leaders, spent.cpu_ns, strict=True)
    ]


def measure_memory(cluster: RunningCluster) -> list[GroupMemory]:
    """Resident memory of a cluster's process groups now."""
    return group_memory(cluster.tree.name, read_memory(cluster.pids), cluster.leader())


def group_memory(tree: str, memory: Mapping[str, Memory], leader: str | None) -> list[GroupMemory]:
    """Sums of what single processes hold."""
    return [
        GroupMemory(
            tree=tree,
            group=group,
            processes=len(members := [held for name, held in memory.items() if group_of(name, leader) == group]),
            rss_mib=rss_bytes / MIB,
            largest_peak_mib=max(held.peak_bytes for held in members) / MIB,
        )
        for group, rss_bytes in sum_by_group({name: held.rss_bytes for name, held in memory.items()}, leader).items()
    ]
