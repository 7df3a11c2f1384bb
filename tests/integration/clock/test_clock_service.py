"""A clock service as a process, with NTP servers over real UDP."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shared.contracts.time import ClockState, SourceVerdict, TimeReport
from shared.peer_calls.http_client import PeerClient
from shared.timekeeping.host_clock import SystemHostClock
from shared.timekeeping.time_client import TimeClient
from tests.integration.clock.fake_ntp import Behaviour, FakeNtpServer
from tests.integration.clock.support import KEYS, Chronyd, ClockProcess, need_commands

SECOND_NS = 1_000_000_000
WALL = SystemHostClock().wall_ns

StartClock = Callable[..., ClockProcess]


@pytest.fixture
def start_clock(tmp_path: Path) -> Iterator[StartClock]:
    clocks: list[ClockProcess] = []

    def start(*servers: FakeNtpServer | str, **settings: object) -> ClockProcess:
        addresses = (each if isinstance(each, str) else f"127.0.0.1:{each.port}" for each in servers)
        quick = {"ntp_servers": ",".join(addresses), "ntp_poll_interval_s": 0.2, "ntp_timeout_s": 0.5}
        clock = ClockProcess(tmp_path, **{**quick, **settings})
        clocks.append(clock)
        clock.start()
        return clock

    yield start
    for clock in clocks:
        clock.stop()


@pytest.fixture
def ntp_servers() -> Iterator[list[FakeNtpServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FakeNtpServer()) for _ in range(4)]


@pytest.fixture
async def client() -> AsyncIterator[PeerClient]:
    async with PeerClient(KEYS) as peer_client:
        yield peer_client


def is_synced(report: TimeReport) -> bool:
    return report.state is ClockState.SYNCED


async def test_true_time_is_in_every_published_interval(
    start_clock: StartClock, ntp_servers: list[FakeNtpServer], client: PeerClient
) -> None:
    """Four honest servers: SYNCED, and 100 % of the published intervals contain the servers' time."""
    clock = start_clock(*ntp_servers)
    await clock.wait_for(client, is_synced)
    last_ns, last_hlc = 0, 0
    for _ in range(200):
        before_ns = WALL()
        report = await clock.report(client)
        assert report.earliest_ns <= WALL()
        assert report.latest_ns >= before_ns
        assert report.utc_ns >= last_ns
        assert report.hlc > last_hlc
        last_ns, last_hlc = report.utc_ns, report.hlc

    def is_heard_by_all(report: TimeReport) -> bool:
        return (report.sources.ok, report.sources.false, report.sources.unreachable) == (4, 0, 0)

    # On a busy machine a poll may be late.
    report = await clock.wait_for(client, lambda report: is_synced(report) and is_heard_by_all(report))
    assert report.error_ns < 100_000_000, "more than SYNCED allows"
    assert report.reasons == []
    assert clock.get("/readyz").json() == {"status": "ready"}


async def test_one_liar_of_four_is_named_and_not_followed(
    start_clock: StartClock, ntp_servers: list[FakeNtpServer], client: PeerClient
) -> None:
    """C4: 600 s of lie change nothing."""
    ntp_servers[1].behaviour = Behaviour(offset_ns=600 * SECOND_NS)
    clock = start_clock(*ntp_servers)
    report = await clock.wait_for(client, lambda report: is_synced(report) and report.sources.false == 1)
    assert abs(report.utc_ns - WALL()) < SECOND_NS
    assert [each.verdict for each in report.source_reports].count(SourceVerdict.FALSETICKER) == 1
    metrics = clock.operations("/metrics").text
    assert "clock_steps_total 0.0" in metrics


async def test_a_cluster_whose_host_is_minutes_off_gets_the_time_of_its_servers(
    start_clock: StartClock, ntp_servers: list[FakeNtpServer], client: PeerClient
) -> None:
    """The majority's time is published although this host's wall clock is 300 s away from it."""
    for server in ntp_servers:
        server.behaviour = Behaviour(offset_ns=300 * SECOND_NS)
    clock = start_clock(*ntp_servers)
    report = await clock.wait_for(client, is_synced)
    assert abs(report.utc_ns - WALL() - 300 * SECOND_NS) < SECOND_NS


async def test_without_servers_it_is_ready_at_once_and_says_why_time_is_not_verified(
    start_clock: StartClock, client: PeerClient
) -> None:
    """A closed network does not delay a start; /readyz and the report name the reason."""
    clock = start_clock()
    report = await clock.report(client)
    assert report.state is ClockState.INIT
    assert (report.earliest_ns, report.error_ns) == (None, None)
    assert abs(report.utc_ns - WALL()) < SECOND_NS
    await clock.wait_for(client, lambda report: report.reasons == ["INIT: 0 usable sources, 3 are needed"])
    assert clock.operations("/readyz").json()["degraded"] == ["INIT: 0 usable sources, 3 are needed"]


async def test_when_the_servers_go_it_is_holdover_and_when_they_return_synced(
    start_clock: StartClock, ntp_servers: list[FakeNtpServer], client: PeerClient
) -> None:
    """C7 with real sockets and short polls: three silent polls are HOLDOVER, three good rounds SYNCED again."""
    clock = start_clock(*ntp_servers, ntp_timeout_s=0.1)
    await clock.wait_for(client, is_synced)
    for server in ntp_servers:
        server.behaviour = Behaviour(is_silent=True)
    held = await clock.wait_for(client, lambda report: report.state is ClockState.HOLDOVER)
    assert held.earliest_ns <= WALL() <= held.latest_ns + SECOND_NS
    for server in ntp_servers:
        server.behaviour = Behaviour()
    report = await clock.wait_for(client, is_synced)
    assert report.epoch == held.epoch


async def test_the_time_is_told_only_to_signed_requests(start_clock: StartClock, client: PeerClient) -> None:
    """Probes and the API's description are open, everything else needs the cluster's secret."""
    clock = start_clock()
    for path in ("/v1/time", "/v1/hlc"):
        assert clock.get(path).status_code == 401
        assert (await client.request(clock.peer, "GET", path, timeout_s=5)).status_code == 200
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert clock.get(path).status_code == 200
    assert TimeReport.__name__ in clock.get("/openapi.json").json()["components"]["schemas"]


async def test_every_metric_of_the_design_is_shown(
    start_clock: StartClock, ntp_servers: list[FakeNtpServer], client: PeerClient
) -> None:
    """The names that dashboards and alerts are built on."""
    ntp_servers[3].behaviour = Behaviour(stratum=16)
    clock = start_clock(*ntp_servers)
    await clock.wait_for(client, is_synced)
    metrics = clock.operations("/metrics").text
    for name in (
        "clock_offset_seconds{source=",
        "clock_error_bound_seconds ",
        'clock_state{state="SYNCED"} 1.0',
        "clock_frequency_ppm ",
        "clock_last_sync_age_seconds ",
        "clock_slew_remaining_seconds ",
        "clock_steps_total ",
        'result="ok"',
        'result="unsync"',
        "ntp_rtt_seconds{source=",
        "ntp_poll_seconds{source=",
        "hlc_lead_seconds ",
        "hlc_counter ",
        "hlc_rejected_total ",
        "clock_now_seconds_bucket",
    ):
        assert f"{name}" in metrics, name


async def test_after_a_crash_timestamps_do_not_go_back_and_the_lead_is_announced(
    start_clock: StartClock, client: PeerClient
) -> None:
    """kill -9 and start: the hlc goes on above everything given, and says by how much it leads."""
    clock = start_clock()
    last = (await clock.report(client)).hlc
    clock.stop()
    clock.start()
    report = await clock.report(client)
    assert report.hlc > last
    # 0 when this machine took longer for the restart than the bound was ahead.
    assert 0 <= report.hlc_lead_ns <= 3 * SECOND_NS


async def test_sigterm_ends_it_at_once_and_leaves_no_lead(start_clock: StartClock, client: PeerClient) -> None:
    """A clean stop does not wait for servers that are silent, and the next life does not lead."""
    with FakeNtpServer(Behaviour(is_silent=True)) as silent:
        clock = start_clock(silent, ntp_timeout_s=2)
        last = (await clock.report(client)).hlc
        began_ns = SystemHostClock().monotonic_ns()
        clock.stop(signal.SIGTERM)
        assert SystemHostClock().monotonic_ns() - began_ns < 5 * SECOND_NS
    clock.start()
    report = await clock.report(client)
    assert report.hlc > last
    assert report.hlc_lead_ns == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"peer_keys": "short"}, "role storage"),
        ({"ntp_servers": "host:port:more:"}, "NTP_SERVERS"),
        ({"ntp_servers": "pool.ntp.org", "ntp_poll_interval_s": 10}, "abuse"),
        ({"data_dir": "/proc/nowhere"}, "data folder /proc/nowhere"),
    ],
)
def test_a_wrong_setting_refuses_the_start_in_one_sentence(
    tmp_path: Path, settings: dict[str, object], sentence: str
) -> None:
    """Exit code 78 and a sentence, no traceback."""
    clock = ClockProcess(tmp_path, **settings)
    process = clock.spawn()
    assert process.wait(20) == 78
    assert "refusing to start" in clock.log
    assert sentence in clock.log
    assert "Traceback" not in clock.log


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cluster_id": "quite-another-cluster"}, "belongs to cluster"),
        ({"node_id": "clock-2"}, "belongs to node"),
    ],
)
def test_the_data_folder_of_somebody_else_is_refused(
    start_clock: StartClock, tmp_path: Path, change: dict[str, str], sentence: str
) -> None:
    """A folder of another cluster or service, or one that is in use, ends the start with the reason."""
    owner = start_clock()
    stranger = ClockProcess(tmp_path, "stranger", data_dir=tmp_path / owner.name, **change)
    assert stranger.spawn().wait(20) == 78
    assert "in use" in stranger.log
    owner.stop()
    assert stranger.spawn().wait(20) == 78
    assert sentence in stranger.log
    assert "Traceback" not in stranger.log


async def test_two_processes_that_follow_one_service_agree_within_their_bounds(
    start_clock: StartClock, ntp_servers: list[FakeNtpServer]
) -> None:
    """Two time clients over real HTTP, read side by side; and killing the service costs neither its time.

    How near they are is measured by `make bench-clock`: on a busy machine the scheduler stands between two readings.
    """
    clock = start_clock(*ntp_servers)
    async with PeerClient(KEYS) as first, PeerClient(KEYS) as second, first:
        options = {"registry": None, "poll_interval_s": 0.1}
        async with (
            TimeClient([clock.peer], first, node_id="a", **options) as a,
            TimeClient([clock.peer], second, node_id="b", **options) as b,
        ):
            while not (a.stamp().state is b.stamp().state is ClockState.SYNCED):
                await a.poll()
                await b.poll()
                await clock.wait_for(first, is_synced)
            state_before = ClockState.SYNCED
            for step in range(100):
                if step == 50:
                    # On a busy machine the service itself may be in holdover for a round; that is not its death's doing.
                    state_before = a.stamp().state
                    clock.stop()
                await a.poll()
                await b.poll()
                before, between, after = a.stamp(), b.stamp(), a.stamp()
                assert before.earliest_ns <= between.latest_ns
                assert between.earliest_ns <= after.latest_ns
            assert state_before in {ClockState.SYNCED, ClockState.HOLDOVER}
            assert a.stamp().state is state_before


async def test_chrony_is_believed_as_a_server(start_clock: StartClock, tmp_path: Path, client: PeerClient) -> None:
    """Three real chronyd: SYNCED with true time in the interval."""
    need_commands("chronyd")
    servers = [Chronyd(tmp_path) for _ in range(3)]
    try:
        clock = start_clock(*(server.address for server in servers), ntp_precision_floor_us=100)
        report = await clock.wait_for(client, is_synced)
        assert report.earliest_ns <= WALL()
        assert abs(report.utc_ns - WALL()) < 100_000_000
        assert [each.stratum for each in report.source_reports] == [1, 1, 1]
    finally:
        for server in servers:
            server.stop()


async def test_a_chrony_that_lies_is_a_falseticker(start_clock: StartClock, tmp_path: Path, client: PeerClient) -> None:
    """A real chronyd under faketime, 2.5 s ahead, among three honest ones: outvoted, 0 steps."""
    need_commands("chronyd", "faketime")
    servers = [Chronyd(tmp_path), Chronyd(tmp_path), Chronyd(tmp_path, faketime="+2.5s"), Chronyd(tmp_path)]
    try:
        clock = start_clock(*(server.address for server in servers))
        report = await clock.wait_for(client, lambda report: is_synced(report) and report.sources.false == 1)
        liar = next(each for each in report.source_reports if each.verdict is SourceVerdict.FALSETICKER)
        assert liar.address == servers[2].address
        assert abs(liar.offset_ns - 2_500_000_000) < 50_000_000
        assert abs(report.utc_ns - WALL()) < 100_000_000
        metrics = clock.operations("/metrics").text
        assert "clock_steps_total 0.0" in metrics
    finally:
        for server in servers:
            server.stop()


async def test_the_hosts_chrony_is_used_where_no_ntp_server_is(
    start_clock: StartClock, tmp_path: Path, client: PeerClient
) -> None:
    """A real synchronised chronyd, asked through the real chronyc: SYNCED without one NTP server of our own."""
    need_commands("chronyd", "chronyc")
    server = Chronyd(tmp_path)
    host_daemon = Chronyd(tmp_path, source=server)
    try:
        command = f"chronyc -h 127.0.0.1 -p {host_daemon.command_port}"
        clock = start_clock(host_chrony=True, chronyc_command=command)
        report = await clock.wait_for(client, is_synced, deadline_s=40)
        assert [(each.name, each.verdict) for each in report.source_reports] == [("host chrony", SourceVerdict.OK)]
        assert abs(report.utc_ns - WALL()) < 100_000_000
    finally:
        host_daemon.stop()
        server.stop()
