"""What is done to the cluster, and what is measured while it puts itself right again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.cluster.errors import BenchmarkError
from benchmarks.repair.foreground import SMALL_BYTES, Foreground, Latencies, delete_files, put_files
from benchmarks.repair.repair_cluster import NODES, RETENTION_S, SLOW_HEARTBEATS, VICTIM, RepairCluster
from benchmarks.repair.report import Freed, Placement, Repair, Rest
from shared.contracts.cluster import NodeState, StorageNode
from shared.placement import is_expected_holder
from shared.units import GIB, MIB

REPLICA_COUNT: Final = 3
_LIMIT_S: Final = 600.0
_BASE_S: Final = 20.0
"""How long latencies are measured before anything is broken."""
_SETTLE_S: Final = 15.0
"""Before that: what filling leaves to do is not the usual."""

ROUND_S: Final = 62.0
"""In this time a node that is in sync compares everything once, and follows the log every few seconds."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Load:
    """So many files of one chunk each."""

    name: str
    count: int
    size_bytes: int


async def repair(cluster: RepairCluster, load: Load, seed: int, say: Say) -> Repair:
    """Store files, kill and wipe a node, wait until its chunks stand elsewhere; then it returns empty."""
    name = load.name
    say(f"{name}: filling")
    stored: list[str] = []
    await put_files(cluster.address, [f"{name}/{number:06d}" for number in range(load.count)], load.size_bytes, stored)
    await _wait_for_replicas(cluster, f"{name}: filled")
    foreground = Foreground(cluster.address, f"{name}-foreground", seed)
    say(f"{name}: rate")
    await foreground.prepare()
    async with foreground.asking() as latencies:
        say(f"{name}: before")
        await asyncio.sleep(_SETTLE_S)
        began = time.perf_counter()
        await asyncio.sleep(_BASE_S)
        killed = time.perf_counter()
        say(f"{name}: killed")
        await cluster.kill_and_wipe(VICTIM)
        inactive = await cluster.wait_until(
            f"{VICTIM} inactive", lambda facts: facts.states.get(VICTIM) == "inactive", _LIMIT_S
        )
        away = await _wait_for_replicas(cluster, f"{name}: without {VICTIM}")
        say(f"{name}: returned")
        await cluster.start()
        returned = await cluster.wait_until(
            f"{VICTIM} active", lambda facts: facts.states.get(VICTIM) == "active", _LIMIT_S
        )
        back = await _wait_for_replicas(cluster, f"{name}: with {VICTIM} again")
    return Repair(
        name=name,
        chunks=load.count,
        chunk_bytes=load.size_bytes,
        foreground_per_s=foreground.per_second,
        restored_after_inactive_s=away - inactive,
        restored_after_return_s=back - returned,
        base_p99_ms=_p99_ms(latencies, (began, killed)),
        away_p99_ms=_p99_ms(latencies, (inactive, away)),
        return_p99_ms=_p99_ms(latencies, (returned, back)),
        failed=latencies.failed_between(began, back),
    )


async def rest(cluster: RepairCluster, say: Say, *, chunks: int) -> Rest:
    """CPU and bytes of nodes that are in sync, over the time of one round, while nobody asks anything."""
    say("in sync")
    await cluster.use(SLOW_HEARTBEATS)
    await _wait_for_replicas(cluster, "in sync")
    await asyncio.sleep(10.0)  # the comparison at the start, and what starting leaves to do
    before, wire = cluster.cpu_s(), cluster.wire()
    wire_bytes = await wire.watch(ROUND_S)
    after = cluster.cpu_s()
    return Rest(
        chunks=chunks,
        seconds=ROUND_S,
        cpu_s_per_node=max(after[node] - before[node] for node in NODES),
        wire_bytes_per_node=None if wire_bytes is None else wire_bytes // len(NODES),
    )


def placement(count: int, seed: int) -> Placement:
    """CPU of asking for so many chunks whether one node should hold them."""
    nodes = [
        StorageNode(id=name, url="http://x", zone=f"zone-{name}", state=NodeState.ACTIVE, capacity_bytes=100 * GIB)
        for name in NODES
    ]
    chance = random.Random(seed)
    digests = [chance.randbytes(32) for _ in range(count)]
    began = time.process_time()
    expected = sum(is_expected_holder(digest, VICTIM, nodes, REPLICA_COUNT) for digest in digests)
    used_s = time.process_time() - began
    if not 0.7 * count <= expected <= 0.8 * count:
        raise BenchmarkError(f"{expected} of {count} chunks were placed on one of four nodes.")
    return Placement(chunks=count, cpu_s=used_s)


async def freed(cluster: RepairCluster, small: int, large_bytes: int, seed: int, say: Say) -> Freed:
    """Delete many small files and a few large ones; wait until their space is back."""
    say("space: filling")
    await _wait_for_replicas(cluster, "space: before")
    foreground = Foreground(cluster.address, "space-foreground", seed)
    await foreground.prepare()
    empty_bytes, empty_disk_bytes = cluster.facts().used_bytes, cluster.disk_bytes()
    smalls: list[str] = []
    larges: list[str] = []
    await put_files(cluster.address, [f"space-small/{number:06d}" for number in range(small)], SMALL_BYTES, smalls)
    large_keys = [f"space-large/{number:04d}" for number in range(large_bytes // (64 * MIB))]
    await put_files(cluster.address, large_keys, 64 * MIB, larges)
    await _wait_for_replicas(cluster, "space: filled")
    full_bytes, full_disk_bytes = cluster.facts().used_bytes, cluster.disk_bytes()
    async with foreground.asking() as latencies:
        say("space: before")
        await asyncio.sleep(_SETTLE_S)
        began = time.perf_counter()
        await asyncio.sleep(_BASE_S)
        deleting = time.perf_counter()
        say("space: deleting")
        deleted: list[str] = []
        await delete_files(cluster.address, [*smalls, *larges], deleted)
        gone = time.perf_counter()
        say("space: coming back")
        # What the foreground stores meanwhile is counted, too, so it is allowed for.
        freed_at = await cluster.wait_until(
            "space comes back",
            lambda facts: facts.used_bytes <= empty_bytes + _allowance(latencies, full_bytes - empty_bytes),
            RETENTION_S + _LIMIT_S,
        )
        disk_at = await _wait_for_disk(cluster, empty_disk_bytes, full_disk_bytes, latencies)
        say("space: after")
        await asyncio.sleep(_SETTLE_S)
        settled = time.perf_counter()
        await asyncio.sleep(_BASE_S)
        ended = time.perf_counter()
    return Freed(
        small_files=small,
        large_bytes=len(larges) * 64 * MIB,
        retention_s=RETENTION_S,
        deleting_s=gone - deleting,
        freed_after_s=freed_at - gone,
        disk_after_s=disk_at - gone,
        base_p99_ms=_p99_ms(latencies, (began, deleting), (settled, ended)),
        before_p99_ms=_p99_ms(latencies, (began, deleting)),
        after_p99_ms=_p99_ms(latencies, (settled, ended)),
        freeing_p99_ms=_p99_ms(latencies, (gone, max(freed_at, disk_at))),
        failed=latencies.failed_between(began, disk_at),
    )


async def _wait_for_disk(cluster: RepairCluster, empty: int, full: int, latencies: Latencies) -> float:
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        used = await asyncio.to_thread(cluster.disk_bytes)
        # Files of a database, its write-ahead file and Redis' log are not back to the byte.
        if used <= empty + _allowance(latencies, full - empty) + (full - empty) // 10:
            return time.perf_counter()
        await asyncio.sleep(1.0)
    raise BenchmarkError(f"The disks still take {used:,} bytes of {full:,}; before it was {empty:,}.")


def _allowance(latencies: Latencies, written_bytes: int) -> int:
    stored = len(latencies.done) // 2 * REPLICA_COUNT * 2 * SMALL_BYTES
    return stored + written_bytes // 100


async def _wait_for_replicas(cluster: RepairCluster, what: str) -> float:
    return await cluster.wait_until(f"{what}: all replicas", lambda facts: facts.missing == 0, _LIMIT_S)


def _p99_ms(latencies: Latencies, *spans: tuple[float, float]) -> float | None:
    run = latencies.between(*spans)
    return run.percentile_ms(99) if run.operations >= 20 else None
