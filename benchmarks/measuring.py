"""What every benchmark here shares: closed-loop clients, percentiles, medians with their spread, a table to look at."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run. Latencies in seconds, ascending; `client_cpu_s` is what this process used for all of it."""

    operations: int
    duration_s: float
    latencies_s: list[float]
    client_cpu_s: float = math.nan

    @property
    def per_second(self) -> float:
        """Throughput."""
        return self.operations / self.duration_s

    def percentile_ms(self, percent: float) -> float:
        """Nearest-rank percentile of the latency."""
        rank = max(1, math.ceil(percent / 100 * len(self.latencies_s)))
        return self.latencies_s[rank - 1] * 1000


async def closed_loop(
    clients: int, duration_s: float, operate: Callable[[int, int], Awaitable[object]], at_most: int | None = None
) -> Run:
    """`clients` that each call `operate(client, number)` again as soon as it returned, for `duration_s` or `at_most` calls."""
    latencies: list[float] = []
    left = itertools.repeat(True) if at_most is None else itertools.repeat(True, at_most)
    began, cpu_began_s = time.perf_counter(), time.process_time()

    async def client(name: int) -> None:
        number = 0
        while (start := time.perf_counter()) - began < duration_s and next(left, False):
            await operate(name, number)
            latencies.append(time.perf_counter() - start)
            number += 1

    async with asyncio.TaskGroup() as group:
        for name in range(clients):
            group.create_task(client(name))
    return Run(len(latencies), time.perf_counter() - began, sorted(latencies), time.process_time() - cpu_began_s)


def median_and_spread(values: Sequence[float]) -> str:
    """`median (min-max)` with as many digits as matter."""
    digits = 0 if max(values) >= 100 else 2
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=170).print(table)


def describe_machine() -> str:
    """Python, kernel, processor count and what TCP does by default, for the head of a result."""
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    tcp = f", TCP {congestion.read_text().strip()}" if congestion.exists() else ""
    kernel = f"{platform.system()} {platform.release()}"
    return f"CPython {platform.python_version()}, {kernel}, {os.cpu_count()} CPUs{tcp}"
