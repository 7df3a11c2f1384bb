"""The faults of docs/faults.md, "Clock", and the numbers of the clock's promise, on fast-forwarded time."""

from __future__ import annotations

import itertools
import random
import threading
from datetime import UTC, datetime

import pytest

from services.clock.discipline import MAX_SLEWED_NS, STEP_CONFIRMATIONS
from shared.contracts.time import ClockState, SourceVerdict
from shared.timekeeping.followed_clock import MAX_BOUND_NS
from tests.unit.clock.simulated_world import MS, SECOND_NS, SimulatedHost, SimulatedServer, World

LAN = {"min_delay_ns": 100_000, "max_delay_ns": 400_000, "root_dispersion_ns": 100_000}


def lan(count: int = 4) -> list[SimulatedServer]:
    return [SimulatedServer(**LAN) for _ in range(count)]


async def synced_world(servers: list[SimulatedServer], **settings: object) -> World:
    world = World(servers, **settings)
    await world.run(30, until=lambda: world.state is ClockState.SYNCED)
    assert world.state is ClockState.SYNCED
    return world


@pytest.mark.parametrize("seed", range(25))
async def test_true_time_is_always_in_the_interval_and_time_never_goes_back(seed: int) -> None:
    """Random oscillators up to 200 ppm off, wander, asymmetric delays, loss, outages and a lying minority: two hours each."""
    chance = random.Random(seed)
    servers = [
        SimulatedServer(
            offset_ns=chance.randint(-2 * MS, 2 * MS),
            min_delay_ns=chance.randint(100_000, 20 * MS),
            max_delay_ns=chance.randint(20 * MS, 120 * MS),
            root_dispersion_ns=chance.randint(2 * MS, 15 * MS),
            loss=chance.choice([0.0, 0.02, 0.3]),
        )
        for _ in range(chance.randint(3, 7))
    ]
    honest = len(servers)
    for _ in range(chance.randint(0, (honest - 1) // 2)):
        servers[honest - 1].offset_ns = chance.choice([-1, 1]) * chance.choice([3 * MS, 40 * MS, 600 * SECOND_NS])
        honest -= 1
    base_ppb = chance.randint(-200_000, 200_000)
    host = SimulatedHost(rate_ppb=base_ppb, wall_offset_ns=chance.randint(-300, 300) * SECOND_NS)
    world = World(servers, host, seed=seed)
    # Only half the sources may be usable at a moment; then liars could be the majority of those. That is promised to none.
    for server in servers[honest:]:
        server.loss = max(each.loss for each in servers)
    world.is_truth_checked = honest == len(servers) or all(each.loss == 0 for each in servers)
    for _ in range(12):
        host.rate_ppb = base_ppb + chance.randint(-4_000, 4_000)
        if chance.random() < 0.15:
            for server in servers:
                server.is_up = False
            await world.run(600)
            for server in servers:
                server.is_up = True
        await world.run(600)
    assert world.readings > 500


@pytest.mark.parametrize(("offset_ms", "expected_s"), [(5, 10), (10, 20), (-10, 20)])
async def test_an_offset_is_slewed_away_at_500_ppm(offset_ms: int, expected_s: int) -> None:
    """C8: 5 ms take 10 s and 10 ms take 20 s, each within 10 %, in small steps that never go back."""
    servers = lan()
    world = await synced_world(servers, ntp_precision_floor_us=100)
    await world.run(3600)
    world.is_truth_checked = False
    for server in servers:
        server.offset_ns = offset_ms * MS
    discipline, host = world.synchronizer.discipline, world.host
    await world.run(120, step_s=0.05, until=lambda: abs(discipline.slew_left_ns(host.monotonic_ns())) > MS)
    assert abs(discipline.slew_left_ns(host.monotonic_ns())) == pytest.approx(abs(offset_ms) * MS, rel=0.1)
    took_s = await world.run(
        expected_s * 2, step_s=0.05, until=lambda: abs(discipline.slew_left_ns(host.monotonic_ns())) < 50_000
    )
    assert took_s == pytest.approx(expected_s, rel=0.1)
    assert discipline.steps == 0
    assert abs(world.read().physical_ns - host.true_ns - offset_ms * MS) < 1 * MS


@pytest.mark.parametrize("lie_ns", [600 * SECOND_NS, -600 * SECOND_NS, 300 * MS, 30 * MS])
async def test_one_liar_among_four_is_outvoted(lie_ns: int) -> None:
    """C4: truth is kept, nothing is stepped, and the liar is named."""
    servers = lan()
    servers[2].offset_ns = lie_ns
    world = await synced_world(servers)
    await world.run(1800)
    assert world.state is ClockState.SYNCED
    assert world.synchronizer.discipline.steps == 0
    verdicts = [report.verdict for report in world.synchronizer.reports()]
    assert verdicts == [SourceVerdict.OK, SourceVerdict.OK, SourceVerdict.FALSETICKER, SourceVerdict.OK]
    assert world.synchronizer.samples["127.0.0.1:1002", "falseticker"] > 10


async def test_four_servers_tolerate_a_liar_while_one_is_down() -> None:
    """Two honest ones of three usable are still a majority."""
    servers = lan()
    servers[0].is_up = False
    servers[1].offset_ns = 600 * SECOND_NS
    world = await synced_world(servers)
    await world.run(1800)
    assert world.state is ClockState.SYNCED
    assert world.synchronizer.discipline.steps == 0


@pytest.mark.parametrize("lies_ns", [(600 * SECOND_NS, 600 * SECOND_NS), (600 * SECOND_NS, -40 * SECOND_NS)])
async def test_two_liars_among_four_end_in_holdover_not_in_a_lie(lies_ns: tuple[int, int]) -> None:
    """C4: without a majority nothing is followed: HOLDOVER within 200 s, true time still in the interval, 0 steps."""
    servers = lan()
    world = await synced_world(servers)
    await world.run(1800)
    for server, lie_ns in zip(servers, lies_ns, strict=False):
        server.offset_ns = lie_ns
    # The filter trusts a source's best recent sample, so it can take some polls until the lie is its best.
    await world.run(1000, until=lambda: world.state is ClockState.HOLDOVER)
    assert world.state is ClockState.HOLDOVER
    assert "agree" in world.synchronizer.discipline.reason
    assert world.synchronizer.discipline.steps == 0


async def test_when_all_servers_are_gone_the_bound_grows_by_the_formula_until_time_is_logical() -> None:
    """C7: HOLDOVER within 200 s; the bound grows with the proven drift only; LOGICAL when it passes its limit."""
    servers = lan()
    world = await synced_world(servers)
    await world.run(7200)
    synchronizer, host = world.synchronizer, world.host
    for server in servers:
        server.is_up = False
    assert await world.run(300, until=lambda: world.state is ClockState.HOLDOVER) <= 200
    began_ns, bound_ns = host.monotonic_ns(), world.read().error_ns
    assert bound_ns is not None
    await world.run(600)
    reading = world.read()
    grown_ns = (host.monotonic_ns() - began_ns) * synchronizer.discipline.drift_ppb // SECOND_NS
    assert reading.error_ns == pytest.approx(bound_ns + grown_ns, abs=1000)
    expected_s = (MAX_BOUND_NS - reading.error_ns) * SECOND_NS / synchronizer.discipline.drift_ppb / SECOND_NS
    lasted_s = await world.run(2 * expected_s, step_s=30, until=lambda: world.state is ClockState.LOGICAL)
    assert lasted_s == pytest.approx(expected_s, rel=0.01)
    assert world.read().error_ns is None


async def test_the_return_from_logical_time_is_gradual() -> None:
    """After an outage long enough for LOGICAL: three good rounds, no step, the offset slewed away."""
    servers = lan()
    world = await synced_world(servers)
    await world.run(7200)
    for server in servers:
        server.is_up = False
    await world.run(40 * 3600, step_s=120, until=lambda: world.state is ClockState.LOGICAL)
    world.host.rate_ppb = 200
    await world.run(3600, step_s=60)
    for server in servers:
        server.is_up = True
    rounds = world.synchronizer.rounds
    await world.run(600, step_s=1, until=lambda: world.state is ClockState.SYNCED)
    assert world.state is ClockState.SYNCED
    assert world.synchronizer.rounds - rounds >= 3
    assert world.synchronizer.discipline.steps == 0


async def test_a_closed_network_is_logical_after_30_seconds_and_never_waits() -> None:
    """Without any server the host's time is published as unverified, and the reason is said."""
    servers = lan()
    for server in servers:
        server.is_up = False
    host = SimulatedHost(wall_offset_ns=-120 * SECOND_NS)
    world = World(servers, host)
    assert world.state is ClockState.INIT
    took_s = await world.run(60, step_s=0.5, until=lambda: world.state is ClockState.LOGICAL)
    assert took_s == pytest.approx(30, abs=1)
    reading = world.read()
    assert (reading.physical_ns, reading.error_ns) == (host.wall_ns(), None)
    assert world.synchronizer.discipline.reason == "0 usable sources, 3 are needed"


async def test_silent_servers_are_asked_less_and_less() -> None:
    """Back-off: a dead server gets at most one question per four intervals in the end."""
    servers = lan()
    world = await synced_world(servers)
    servers[0].is_up = False
    await world.run(1800)
    before = servers[0].requests
    await world.run(3600)
    assert servers[0].requests - before <= 3600 / (4 * 60) + 1
    servers[0].is_up = True
    await world.run(600)
    assert world.synchronizer.reports()[0].verdict is SourceVerdict.OK


async def test_polls_are_never_denser_than_the_interval_once_synchronised() -> None:
    """Jitter spreads the polls around 64 s by 5 %; only the burst at the start is denser, and short."""
    servers = lan()
    world = await synced_world(servers)
    await world.run(7200)
    asked = servers[0].asked_at_ns
    gaps_s = [(later - earlier) / SECOND_NS for earlier, later in itertools.pairwise(asked)]
    dense = [gap for gap in gaps_s if gap < 60]
    assert len(dense) <= 4
    assert max(gaps_s) < 68
    assert len(set(gaps_s)) > 20


@pytest.mark.parametrize("kiss", [b"DENY", b"RSTR"])
async def test_a_server_that_refuses_us_is_never_asked_again(kiss: bytes) -> None:
    """C5: DENY and RSTR end the asking, and its time is not used."""
    servers = lan()
    servers[0].stratum, servers[0].reference, servers[0].leap = 0, kiss, 3
    servers[0].offset_ns = 600 * SECOND_NS
    world = await synced_world(servers)
    await world.run(7200)
    assert servers[0].requests == 1
    report = world.synchronizer.reports()[0]
    assert (report.verdict, report.offset_ns) == (SourceVerdict.REFUSED, None)


async def test_a_server_that_asks_for_less_is_asked_less() -> None:
    """C5: each RATE doubles the interval, up to 1024 s."""
    servers = lan()
    servers[0].stratum, servers[0].reference = 0, b"RATE"
    world = await synced_world(servers)
    await world.run(8 * 3600, step_s=30)
    asked = servers[0].asked_at_ns
    gaps_s = [(later - earlier) / SECOND_NS for earlier, later in itertools.pairwise(asked)]
    for gap_s, least_s in zip(gaps_s, [128, 256, 512, 1024, 1024, 1024], strict=False):
        assert least_s <= gap_s <= least_s + 70
    assert max(gaps_s) < 1024 + 70
    assert world.synchronizer.samples["127.0.0.1:1000", "kod"] == len(asked)


async def test_a_large_forward_offset_is_stepped_only_after_five_confirmations() -> None:
    """Past 128 ms forward: followed by slewing with an honest bound first, stepped at the fifth round that says so."""
    servers = lan()
    world = await synced_world(servers)
    await world.run(1800)
    world.is_truth_checked = False
    for server in servers:
        server.offset_ns = MAX_SLEWED_NS * 4
    discipline = world.synchronizer.discipline
    steps_seen = []
    for _ in range(20):
        rounds = world.synchronizer.rounds
        await world.run(200, step_s=2, until=lambda before=rounds: world.synchronizer.rounds > before)
        steps_seen.append(discipline.steps)
    first_step = steps_seen.index(1)
    assert first_step >= STEP_CONFIRMATIONS - 1
    assert steps_seen[-1] == 1
    await world.run(600)
    assert world.state is ClockState.SYNCED
    assert abs(world.read().physical_ns - world.host.true_ns - 4 * MAX_SLEWED_NS) < 2 * MS


async def test_an_offset_just_within_the_step_limit_is_slewed() -> None:
    """127 ms are slewed, however often they are confirmed."""
    servers = lan()
    world = await synced_world(servers, ntp_precision_floor_us=100)
    await world.run(1800)
    world.is_truth_checked = False
    for server in servers:
        server.offset_ns = MAX_SLEWED_NS - 2 * MS
    await world.run(3600)
    assert world.synchronizer.discipline.steps == 0
    assert abs(world.read().physical_ns - world.host.true_ns - MAX_SLEWED_NS) < 4 * MS


async def test_a_large_backward_offset_is_never_stepped() -> None:
    """Backward is slewed, whatever its size; meanwhile the bound is honest or time is LOGICAL."""
    servers = lan()
    world = await synced_world(servers)
    await world.run(1800)
    for server in servers:
        server.offset_ns = -MAX_SLEWED_NS * 4
    world.is_truth_checked = False
    before_ns = world.synchronizer.discipline.estimate_ns(world.host.monotonic_ns(), world.host.wall_ns())
    for _ in range(200):
        await world.run(10)
        estimate_ns = world.synchronizer.discipline.estimate_ns(world.host.monotonic_ns(), world.host.wall_ns())
        assert estimate_ns >= before_ns
        before_ns = estimate_ns
    assert world.synchronizer.discipline.steps == 0
    await world.run(1200)
    assert world.state is ClockState.SYNCED
    assert abs(world.read().physical_ns - world.host.true_ns + 4 * MAX_SLEWED_NS) < 2 * MS


async def test_more_than_a_thousand_seconds_are_refused_with_an_alarm() -> None:
    """A majority that is further away than the limit changes nothing, is counted, and makes time LOGICAL."""
    servers = lan()
    world = await synced_world(servers)
    await world.run(600)
    for server in servers:
        server.offset_ns = 1001 * SECOND_NS
    await world.run(900, until=lambda: world.state is ClockState.LOGICAL)
    discipline = world.synchronizer.discipline
    assert world.state is ClockState.LOGICAL
    assert discipline.refusals > 0
    assert "refused" in discipline.reason
    assert discipline.steps == 0
    estimate_ns = discipline.estimate_ns(world.host.monotonic_ns(), world.host.wall_ns())
    assert abs(estimate_ns - world.host.true_ns) < 200 * MS


@pytest.mark.parametrize(("wrong_s", "expected"), [(-990, ClockState.SYNCED), (1010, ClockState.LOGICAL)])
async def test_a_host_clock_that_is_wrong_at_the_start_is_corrected_up_to_the_limit(
    wrong_s: int, expected: ClockState
) -> None:
    """Minutes off at the start is a step before the first SYNCED; beyond the limit somebody has to look."""
    world = World(lan(), SimulatedHost(wall_offset_ns=wrong_s * SECOND_NS))
    await world.run(60)
    assert world.state is expected
    assert world.synchronizer.discipline.steps == 0


async def test_a_machine_that_slept_steps_forward_once_and_says_logical_until_then() -> None:
    """Ten minutes of suspend: noticed at the first reading, never a wrong interval, back after three good rounds."""
    world = await synced_world(lan())
    await world.run(1800)
    world.host.sleep(600 * SECOND_NS)
    assert world.read().state is ClockState.LOGICAL
    await world.run(300, until=lambda: world.state is ClockState.SYNCED)
    assert world.state is ClockState.SYNCED
    assert world.synchronizer.discipline.steps == 1


@pytest.mark.parametrize("change_s", [-3600, 3600])
async def test_a_wall_clock_that_is_set_makes_time_logical_and_moves_nothing(change_s: int) -> None:
    """The software clock runs on the monotonic clock: an hour of wall clock costs three rounds and no step."""
    world = await synced_world(lan())
    await world.run(1800)
    world.host.set_wall(change_s * SECOND_NS)
    assert world.read().state is ClockState.LOGICAL
    world.host.set_wall(-change_s * SECOND_NS)
    assert world.read().state is ClockState.LOGICAL
    await world.run(300, until=lambda: world.state is ClockState.SYNCED)
    assert world.state is ClockState.SYNCED
    assert world.synchronizer.discipline.steps == 0


async def test_a_smearing_server_is_left_out_around_an_announced_leap_second() -> None:
    """C10: half a second of smear from Google in a UTC group: left out from a day before, back a day after, 0 steps."""
    leap_ns = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp()) * SECOND_NS
    start_ns = leap_ns - 26 * 3600 * SECOND_NS
    servers = [SimulatedServer(**LAN, leap=1) for _ in range(4)]
    host = SimulatedHost(start_ns=start_ns)
    world = World(servers, host)
    await world.synchronizer.round()
    google = next(source for source in world.synchronizer.sources if source.address[1] == 1003)
    google.is_smearing = True
    servers[3].leap = 0
    assert world.synchronizer.reports()[3].verdict is SourceVerdict.OK
    await world.run(3 * 3600, step_s=60)
    servers[3].offset_ns = 500 * MS
    assert world.synchronizer.reports()[3].verdict is SourceVerdict.SMEARED
    await world.run(3600, step_s=60)
    assert world.state is ClockState.SYNCED
    for server in servers:
        server.leap = 0
        server.offset_ns = 0
    await world.run((leap_ns - host.true_ns) / SECOND_NS + 25 * 3600, step_s=300)
    assert world.synchronizer.reports()[3].verdict is SourceVerdict.OK
    assert world.synchronizer.discipline.steps == 0


async def test_a_smeared_server_without_an_announcement_is_outvoted() -> None:
    """C10: 0.5 s of smear in a UTC group is a falseticker like any other."""
    servers = lan()
    servers[1].offset_ns = 500 * MS
    world = await synced_world(servers)
    await world.run(1800)
    assert world.synchronizer.reports()[1].verdict is SourceVerdict.FALSETICKER
    assert world.synchronizer.discipline.steps == 0


async def test_a_resolver_that_hangs_blocks_neither_rounds_nor_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """N14: names that take for ever are reported as such; the loop makes its rounds with the servers it knows."""
    release = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        release.wait(60)
        return []

    monkeypatch.setattr("services.clock.resolver.socket.getaddrinfo", hang)
    try:
        world = World(lan(3), ntp_servers="pool.ntp.org,127.0.0.1:1000,127.0.0.1:1001,127.0.0.1:1002")
        await world.run(60)
        assert world.state is ClockState.SYNCED
        reports = world.synchronizer.reports()
        assert [report.reason for report in reports if report.name == "pool.ntp.org"] == ["the name is being looked up"]
    finally:
        release.set()


async def test_while_no_name_has_an_address_rounds_become_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each asks the host's chrony by a process of its own; the first look-ups are not kept waiting."""

    def refuse(*_: object, **__: object) -> list[object]:
        raise OSError("no network")

    monkeypatch.setattr("services.clock.resolver.socket.getaddrinfo", refuse)
    world = World([], ntp_servers="pool.ntp.org")
    await world.run(6)
    assert world.synchronizer.rounds == 3
    await world.run(8 * 60)
    assert world.synchronizer.rounds <= 65
