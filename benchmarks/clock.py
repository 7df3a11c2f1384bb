"""`make bench-clock`: what time costs and what it is worth, against the figures that the clock promises.

Real clock service processes, NTP over real UDP on loopback, real signed HTTP. The NTP servers are the tests' own, because
their true time is known to the nanosecond: that is what published intervals are checked against.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import psutil

from benchmarks.measuring import describe_machine, median_and_spread, show
from services.clock.ntp import ask
from shared.contracts.time import ClockState, TimeReport
from shared.peer_calls.http_client import PeerClient
from shared.timekeeping.host_clock import SystemHostClock
from shared.timekeeping.hybrid_logical_clock import HybridLogicalClock
from shared.timekeeping.time_client import POLL_INTERVAL_S, TimeClient
from tests.integration.clock.fake_ntp import Behaviour, FakeNtpServer
from tests.integration.clock.support import KEYS, ClockProcess

HOST = SystemHostClock()
STAMPS = 20_000
FOLLOWERS = 8
"""As many as a local cluster has services that follow one clock."""

MAX_ROUND_TRIP_NS = 5_000_000
WARM_UP_S = 6.0
"""Until what the first exchanges of a start got wrong has been slewed away."""

Row = tuple[str, str, str]


@contextmanager
def ntp_servers(behaviour: Behaviour) -> Iterator[list[FakeNtpServer]]:
    """Four servers that behave alike."""
    with ExitStack() as stack:
        yield [stack.enter_context(FakeNtpServer(behaviour)) for _ in range(4)]


@contextmanager
def clock_service(
    folder: Path, servers: list[FakeNtpServer], name: str = "clock-1", poll_s: float = 0.5
) -> Iterator[ClockProcess]:
    """A running clock service that polls `servers`."""
    names = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    clock = ClockProcess(folder, name, ntp_servers=names, ntp_poll_interval_s=poll_s, ntp_precision_floor_us=100)
    clock.start()
    try:
        yield clock
    finally:
        clock.stop()


async def measure_stamping(clock: ClockProcess, runs: int) -> list[Row]:
    """How long `stamp()` takes while a live service steers it; no poll may fall into the measured loop."""
    medians_us, p99s_us = [], []
    async with PeerClient(KEYS) as client, TimeClient([clock.peer], client, node_id="bench", registry=None) as stamper:
        await stamper.poll()
        if stamper.stamp().state is not ClockState.SYNCED:
            raise RuntimeError("the clock service is not synchronised")
        for _ in range(runs):
            await asyncio.sleep(0)
            polls = stamper.statistics().polls
            durations_ns = sorted(_timed(stamper.stamp) for _ in range(STAMPS))
            if stamper.statistics().polls != polls:
                raise RuntimeError("a stamp made a call")
            medians_us.append(durations_ns[STAMPS // 2] / 1000)
            p99s_us.append(durations_ns[STAMPS * 99 // 100] / 1000)
    hlc = HybridLogicalClock()
    floor_us = [
        sorted(_timed(lambda: hlc.now(HOST.wall_ns())) for _ in range(STAMPS))[STAMPS // 2] / 1000 for _ in range(runs)
    ]
    return [
        ("floor: one tick of the hybrid logical clock, median µs", median_and_spread(floor_us), ""),
        ("stamp an operation, median µs", median_and_spread(medians_us), ""),
        ("stamp an operation, p99 µs", median_and_spread(p99s_us), "≤ 20, no call"),
    ]


def _timed(operation: Callable[[], object]) -> int:
    began_ns = time.perf_counter_ns()
    operation()
    return time.perf_counter_ns() - began_ns


async def measure_agreement(folder: Path, servers: list[FakeNtpServer], seconds: float) -> list[Row]:
    """Two processes' worth of time side by side: each client follows a clock service of its own."""
    differences_us = []
    async with AsyncExitStack() as stack:
        clocks = [stack.enter_context(clock_service(folder, servers, name)) for name in ("clock-a", "clock-b")]
        clients = []
        for clock in clocks:
            peer_client = await stack.enter_async_context(PeerClient(KEYS))
            client = TimeClient([clock.peer], peer_client, node_id=clock.name, registry=None)
            clients.append(await stack.enter_async_context(client))
        await asyncio.sleep(WARM_UP_S)
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            first_ns, second_ns = (_middle_ns(client) for client in clients)
            differences_us.append(abs(first_ns - second_ns) / 1000)
            await asyncio.sleep(0.02)
    differences_us.sort()
    shown = f"{statistics.median(differences_us):,.0f} (max {differences_us[-1]:,.0f})"
    return [("two services on one machine differ by, median µs", shown, "≤ 1000")]


def _middle_ns(client: TimeClient) -> int:
    stamp = client.stamp()
    if stamp.earliest_ns is None or stamp.latest_ns is None:
        raise RuntimeError("time is not verified")
    return (stamp.earliest_ns + stamp.latest_ns) // 2


async def measure_cpu(folder: Path, servers: list[FakeNtpServer], seconds: float) -> list[Row]:
    """CPU of a clock service at its default poll interval with a cluster of followers, and of one follower."""
    async with AsyncExitStack() as stack:
        clock = stack.enter_context(clock_service(folder, servers, "clock-cpu", poll_s=64))
        client = await stack.enter_async_context(PeerClient(KEYS))
        for number in range(FOLLOWERS):
            follower = TimeClient([clock.peer], client, node_id=f"follower-{number}", registry=None)
            await stack.enter_async_context(follower)
        process = psutil.Process(clock.pid)
        await asyncio.sleep(2 * POLL_INTERVAL_S)
        before_s, own_before_s = sum(process.cpu_times()[:2]), time.process_time()
        await asyncio.sleep(seconds)
        service_percent = 100 * (sum(process.cpu_times()[:2]) - before_s) / seconds
        follower_percent = 100 * (time.process_time() - own_before_s) / seconds / FOLLOWERS
    return [
        (f"CPU of a clock service with {FOLLOWERS} followers, % of one core", f"{service_percent:.2f}", "< 1"),
        ("CPU of following, per process, % of one core", f"{follower_percent:.2f}", "< 1"),
    ]


async def measure_containment(folder: Path, rate_ppm: int, seconds: float) -> list[Row]:
    """How many published intervals contain true time while this host's oscillator is off by `rate_ppm`."""
    inside, asked, bounds_ms = 0, 0, []
    with ntp_servers(Behaviour(rate_ppb=-rate_ppm * 1000)) as servers:
        async with PeerClient(KEYS) as client:
            with clock_service(folder, servers, f"clock-{rate_ppm}") as clock:
                await clock.wait_for(client, _is_synced)
                end_s = time.monotonic() + seconds
                while time.monotonic() < end_s:
                    before_ns = min(server.now_ns() for server in servers)
                    report = await clock.report(client)
                    after_ns = max(server.now_ns() for server in servers)
                    if report.earliest_ns is not None and report.latest_ns is not None and report.error_ns is not None:
                        asked += 1
                        inside += report.earliest_ns <= after_ns and report.latest_ns >= before_ns
                        bounds_ms.append(report.error_ns / 1e6)
                    await asyncio.sleep(0.02)
    shown = f"{100 * inside / asked:.1f} of {asked:,}; bound {statistics.median(bounds_ms):.2f} ms"
    return [(f"intervals that contain true time at {rate_ppm:+} ppm, %", shown, "100")]


async def measure_slew(folder: Path, servers: list[FakeNtpServer], offset_ms: int) -> list[Row]:
    """How long an offset takes to be slewed away, and whether any reading went back."""
    points: list[tuple[float, float]] = []
    async with PeerClient(KEYS) as client:
        with clock_service(folder, servers, "clock-slew", poll_s=0.2) as clock:
            await clock.wait_for(client, _is_synced)
            await asyncio.sleep(WARM_UP_S)
            for server in servers:
                server.behaviour = Behaviour(offset_ns=offset_ms * 1_000_000)
            last_ns, backward = 0, 0
            deadline_s = time.monotonic() + 6 * offset_ms
            while not points or points[-1][1] < 0.9 * offset_ms:
                if time.monotonic() > deadline_s:
                    raise RuntimeError(f"the offset is not slewed away; the last reading is {points[-1][1]} ms off")
                utc_ns, shown_ms = await _offset_ms(clock, client)
                backward += utc_ns < last_ns
                last_ns = utc_ns
                points.append((time.monotonic(), shown_ms))
                await asyncio.sleep(0.02)
    # The ends are blurred by rounds and round trips; the middle four fifths are not.
    first_s = next(moment for moment, shown_ms in points if shown_ms >= 0.1 * offset_ms)
    took_s = (points[-1][0] - first_s) / 0.8
    return [(f"{offset_ms} ms slewed away, s", f"{took_s:.1f}; {backward} readings back", f"{offset_ms * 2} ± 10 %; 0")]


async def _offset_ms(clock: ClockProcess, client: PeerClient) -> tuple[int, float]:
    """A published reading, and how far it is ahead of the host's clock; slow round trips are asked again."""
    for _ in range(100):
        before_ns = HOST.wall_ns()
        report = await clock.report(client)
        after_ns = HOST.wall_ns()
        if after_ns - before_ns < MAX_ROUND_TRIP_NS:
            return report.utc_ns, (report.utc_ns - (before_ns + after_ns) // 2) / 1e6
    raise RuntimeError("this machine is too busy to read a clock on it")


def measure_exchange(servers: list[FakeNtpServer], count: int) -> list[Row]:
    """One judged NTP exchange over loopback."""
    durations_us = [_timed(lambda: ask(servers[0].address, HOST, 1.0)) / 1000 for _ in range(count)]
    return [("one judged NTP exchange on loopback, µs", median_and_spread(durations_us), "")]


def _is_synced(report: TimeReport) -> bool:
    return report.state is ClockState.SYNCED


async def measure(runs: int, seconds: float) -> list[Row]:
    """All rows."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, ntp_servers(Behaviour()) as servers:
        folder = Path(name)
        rows += measure_exchange(servers, 200)
        async with PeerClient(KEYS) as client:
            with clock_service(folder, servers) as clock:
                await clock.wait_for(client, _is_synced)
                rows += await measure_stamping(clock, runs)
        rows += await measure_agreement(folder, servers, seconds)
        rows += await measure_cpu(folder, servers, seconds)
        for rate_ppm in (-200, 0, 200):
            rows += await measure_containment(folder, rate_ppm, seconds)
        rows += await measure_slew(folder, servers, 10)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="repetitions of the stamping loop")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each observation")
    arguments = parser.parse_args()
    rows = asyncio.run(measure(arguments.runs, arguments.seconds))
    show(f"Clock: {describe_machine()}", ("", "median (spread)", "promise"), rows)


if __name__ == "__main__":
    main()
