"""Stamping: never back, never a call, whoever of the clock services is alive."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest

from shared.cluster_keys import derive_peer_keys
from shared.contracts.time import ClockState, Leap, SourceCounts, Stamp, TimeReport
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.peer_calls.request_signing import RequestVerifier
from shared.roles import Role
from shared.timekeeping.host_clock import SystemHostClock
from shared.timekeeping.hybrid_logical_clock import Reception, hlc_from_ns
from shared.timekeeping.time_client import TimeClient
from shared.web.service_app import create_app
from tests.callers import anybody
from tests.waiting import wait_until

KEYS = derive_peer_keys("k" * 40, Role.GATEWAY)
SECOND_NS = 1_000_000_000
NOBODY = PeerAddress("clock-0", "http://127.0.0.1:9", Role.CLOCK)


class Host:
    """The system's clocks with a wall clock that can be set."""

    def __init__(self) -> None:
        self.wall_offset_ns = 0
        self._system = SystemHostClock()

    def wall_ns(self) -> int:
        return self._system.wall_ns() + self.wall_offset_ns

    def monotonic_ns(self) -> int:
        return self._system.monotonic_ns()


class Service:
    """A clock service that says what it is told to, over real signed HTTP."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers = 0
        self.error_ns: int | None = 2_000_000
        self.offset_ns = 0
        self.hlc_ahead_ns = 0
        self.hlc_lead_ns = 0

    def app(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            yield

        verifier = RequestVerifier(derive_peer_keys("k" * 40, Role.CLOCK), self.name)
        app = create_app(
            title="t", description="d", lifespan=lifespan, readiness=list, verifier=verifier, callers=anybody
        )

        @app.get("/v1/time")
        async def get_time() -> TimeReport:
            self.answers += 1
            utc_ns = SystemHostClock().wall_ns() + self.offset_ns
            error_ns = self.error_ns
            return TimeReport(
                earliest_ns=None if error_ns is None else utc_ns - error_ns,
                latest_ns=None if error_ns is None else utc_ns + error_ns,
                utc_ns=utc_ns,
                error_ns=error_ns,
                state=ClockState.LOGICAL if error_ns is None else ClockState.SYNCED,
                hlc=hlc_from_ns(utc_ns + self.hlc_ahead_ns),
                hlc_lead_ns=self.hlc_lead_ns,
                leap=Leap.NONE,
                epoch=1,
                sources=SourceCounts(ok=3, false=0, unreachable=0),
            )

        return app


@asynccontextmanager
async def running(*clocks: PeerAddress, **options) -> AsyncIterator[TimeClient]:
    options = {"node_id": "storage-1", "registry": None, "poll_interval_s": 0.05, **options}
    async with PeerClient(KEYS) as client, TimeClient(list(clocks), client, **options) as time_client:
        yield time_client


async def test_without_any_clock_service_it_stamps_at_once_and_says_that_time_is_unverified(tmp_path) -> None:
    """Start-up waits for nobody; stamps have no interval, follow the host and grow."""
    async with running(NOBODY, hlc_path=tmp_path / "hlc") as client:
        stamps = [client.stamp() for _ in range(1000)]
        await wait_until(lambda: client.statistics().failed_polls > 0)
    assert {stamp.state for stamp in stamps} == {ClockState.INIT}
    assert all(stamp.earliest_ns is None for stamp in stamps)
    assert all(earlier.hlc < later.hlc for earlier, later in itertools.pairwise(stamps))
    assert abs(stamps[-1].approximate_ns - SystemHostClock().wall_ns()) < 20 * SECOND_NS


async def test_stamps_carry_the_interval_of_the_service_and_contain_true_time(serve_app) -> None:
    """Once a service was heard, every stamp is an interval around the service's time."""
    service = Service("clock-1")
    url = serve_app(service.app())
    async with running(PeerAddress("clock-1", url, Role.CLOCK)) as client:
        await wait_until(lambda: client.stamp().state is ClockState.SYNCED)
        for _ in range(200):
            before_ns = SystemHostClock().wall_ns()
            stamp = client.stamp()
            after_ns = SystemHostClock().wall_ns()
            assert stamp.earliest_ns <= after_ns
            assert stamp.latest_ns >= before_ns
        assert stamp.latest_ns - stamp.earliest_ns < 2 * 500_000_000


async def test_a_dead_service_costs_nothing_while_another_lives(serve_app) -> None:
    """Any of the services will do; the dead one is asked last from then on."""
    service = Service("clock-2")
    url = serve_app(service.app())
    async with running(NOBODY, PeerAddress("clock-2", url, Role.CLOCK)) as client:
        await wait_until(lambda: client.stamp().state is ClockState.SYNCED)
        before = service.answers
        await wait_until(lambda: service.answers > before + 2)
        assert client.statistics().failed_polls == 0


async def test_a_service_without_an_interval_is_passed_over_for_one_that_has_it(serve_app) -> None:
    """LOGICAL from the first, SYNCED from the second: SYNCED it is."""
    logical, synced = Service("clock-1"), Service("clock-2")
    logical.error_ns = None
    peers = [PeerAddress(each.name, serve_app(each.app()), Role.CLOCK) for each in (logical, synced)]
    async with running(*peers) as client:
        await wait_until(lambda: client.stamp().state is ClockState.SYNCED)


async def test_a_service_that_talks_nonsense_is_no_service(serve_app) -> None:
    """A wrong key, a wrong route or a wrong body is a failed poll and nothing else."""
    app = FastAPI()

    @app.get("/v1/time")
    async def get_time() -> dict[str, str]:
        return {"time": "late"}

    async with running(PeerAddress("clock-1", serve_app(app), Role.CLOCK)) as client:
        await wait_until(lambda: client.statistics().failed_polls > 1)
        assert client.stamp().state is ClockState.INIT


@pytest.mark.parametrize("jump_s", [-3600, 3600])
async def test_stamps_grow_across_any_jump_of_the_wall_clock(jump_s: int) -> None:
    """C2: the host's clock is set back and forth by an hour between stamps; hlc only grows."""
    host = Host()
    async with running(NOBODY, host=host) as client:
        last = client.stamp().hlc
        for step in range(200):
            host.wall_offset_ns = jump_s * SECOND_NS if step % 2 else 0
            stamp = client.stamp()
            assert stamp.hlc > last
            last = stamp.hlc


async def test_stamps_grow_under_a_strobing_wall_clock_and_never_lie(serve_app) -> None:
    """C2: strobe of ±200 ms under a live service: intervals given contain true time, hlc grows."""
    host = Host()
    service = Service("clock-1")
    url = serve_app(service.app())
    async with running(PeerAddress("clock-1", url, Role.CLOCK), host=host) as client:
        last = 0
        states = set()
        for step in range(300):
            host.wall_offset_ns = (-200_000_000, 0, 200_000_000)[step % 3]
            await client.poll()
            stamp = client.stamp()
            states.add(stamp.state)
            assert stamp.hlc > last
            last = stamp.hlc
            if stamp.earliest_ns is not None:
                assert stamp.earliest_ns <= SystemHostClock().wall_ns() <= stamp.latest_ns + 50_000_000
    assert ClockState.SYNCED in states


async def test_a_restart_with_the_wall_clock_set_back_does_not_go_back(tmp_path) -> None:
    """The bound on disk outlives the process; the host's clock may have been set back an hour meanwhile."""
    path = tmp_path / "hlc"
    async with running(NOBODY, hlc_path=path) as client:
        last = client.stamp().hlc
    host = Host()
    host.wall_offset_ns = -3600 * SECOND_NS
    async with running(NOBODY, hlc_path=path, host=host) as client:
        assert client.stamp().hlc > last


async def test_a_process_without_a_disk_is_seeded() -> None:
    """The gateway starts above what consensus reports, however far ahead of its own clock that is."""
    async with running(NOBODY) as client:
        floor = client.stamp().hlc + (3600 << 32)
        client.seed(floor)
        assert client.stamp().hlc == floor + 1


async def test_a_peer_too_far_ahead_is_counted_while_time_is_verified_and_followed_while_it_is_not(serve_app) -> None:
    """The 500 ms rule holds in SYNCED only, for in LOGICAL nobody can be blamed."""
    service = Service("clock-1")
    url = serve_app(service.app())
    async with running(PeerAddress("clock-1", url, Role.CLOCK)) as client:
        await wait_until(lambda: client.stamp().state is ClockState.SYNCED)
        ahead = hlc_from_ns(SystemHostClock().wall_ns() + 600 * SECOND_NS)
        assert client.receive(ahead) is Reception.REJECTED
        assert client.stamp().hlc < ahead
        assert client.statistics().hlc_rejected == 1
    async with running(NOBODY) as client:
        assert client.receive(ahead) is Reception.MERGED
        assert client.stamp().hlc > ahead


async def test_the_restart_lead_that_a_service_announces_is_followed(serve_app) -> None:
    """A clock service that restarted above its bound says so, and its timestamps are merged."""
    service = Service("clock-1")
    service.hlc_ahead_ns, service.hlc_lead_ns = 2_900_000_000, 3_000_000_000
    url = serve_app(service.app())
    async with running(PeerAddress("clock-1", url, Role.CLOCK)) as client:
        await wait_until(lambda: service.answers > 5)
        assert client.statistics().hlc_rejected == 0
        assert client.statistics().hlc_lead_ns > 2 * SECOND_NS


async def test_stamping_takes_microseconds_and_no_call() -> None:
    """C12: without a loop turn in between, a thousand stamps; the 99th percentile is far below a millisecond."""
    async with running(NOBODY) as client:
        await asyncio.sleep(0)
        polls = client.statistics().polls
        durations_ns = []
        for _ in range(5000):
            began_ns = time.perf_counter_ns()
            client.stamp()
            durations_ns.append(time.perf_counter_ns() - began_ns)
        assert client.statistics().polls == polls
    # The benchmark holds the figure of 20 µs; a shared machine under test gets slack for its scheduler.
    assert sorted(durations_ns)[len(durations_ns) * 99 // 100] < 200_000


async def test_the_metrics_of_time_are_shown(serve_app) -> None:
    """Every metric that a process has about its own time is in the registry, and gone after closing."""
    registry = CollectorRegistry(auto_describe=True)
    async with running(NOBODY, registry=registry) as client:
        for _ in range(200):
            client.stamp()
        shown = generate_latest(registry).decode()
    for name in (
        "clock_error_bound_seconds",
        "clock_state",
        "clock_frequency_ppm",
        "clock_last_sync_age_seconds",
        "clock_slew_remaining_seconds",
        "hlc_lead_seconds",
        "hlc_counter",
        "hlc_rejected_total",
        "clock_now_seconds_count",
    ):
        assert f"\n{name}" in shown, name
    assert 'clock_state{state="INIT"} 1.0' in shown
    assert "clock_now_seconds_count 3.0" in shown
    assert generate_latest(registry) == b""


def test_a_stamp_fits_the_wire() -> None:
    """The greatest timestamp that the clock can give is one that a stamp can carry."""
    assert Stamp(hlc=hlc_from_ns(4_000_000_000 * SECOND_NS), state=ClockState.LOGICAL).hlc < 1 << 64
