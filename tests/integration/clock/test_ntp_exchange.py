"""One exchange over real UDP with servers that misbehave: each lie is named, and none becomes a sample."""

from __future__ import annotations

import struct

import pytest

from services.clock.ntp import ask
from services.clock.ntp_answer import SampleVerdict
from shared.timekeeping.host_clock import SystemHostClock
from tests.integration.clock.fake_ntp import SECOND_NS, Behaviour, FakeNtpServer, ntp_timestamp

HOST = SystemHostClock()
TIMEOUT_S = 1.0


def replaced(packet: bytes, offset: int, value: bytes) -> bytes:
    return packet[:offset] + value + packet[offset + len(value) :]


def at_year(seconds: int):
    stamps = struct.pack("!2Q", ntp_timestamp(seconds * SECOND_NS), ntp_timestamp(seconds * SECOND_NS))
    return lambda packet: [replaced(packet, 32, stamps)]


YEAR_2036_AFTER_THE_ERA = 2_085_978_496 + 100
MISBEHAVIOURS = {
    "silent": (Behaviour(is_silent=True), SampleVerdict.TIMEOUT),
    "kiss RATE": (Behaviour(stratum=0, leap=3, reference=b"RATE"), SampleVerdict.KISS_OF_DEATH),
    "kiss DENY": (Behaviour(stratum=0, leap=3, reference=b"DENY"), SampleVerdict.KISS_OF_DEATH),
    "kiss RSTR": (Behaviour(stratum=0, leap=3, reference=b"RSTR"), SampleVerdict.KISS_OF_DEATH),
    "leap indicator 3": (Behaviour(leap=3), SampleVerdict.UNSYNCHRONISED),
    "stratum 16": (Behaviour(stratum=16), SampleVerdict.UNSYNCHRONISED),
    "wrong origin": (Behaviour(tamper=lambda p: [replaced(p, 24, b"\1" * 8)]), SampleVerdict.BAD_ORIGIN),
    "kiss with a wrong origin": (
        Behaviour(stratum=0, reference=b"DENY", tamper=lambda p: [replaced(p, 24, b"\1" * 8)]),
        SampleVerdict.BAD_ORIGIN,
    ),
    "client mode": (Behaviour(mode=3), SampleVerdict.MALFORMED),
    "version 2": (Behaviour(version=2), SampleVerdict.MALFORMED),
    "47 bytes": (Behaviour(tamper=lambda p: [p[:47]]), SampleVerdict.MALFORMED),
    "empty packet": (Behaviour(tamper=lambda _: [b""]), SampleVerdict.MALFORMED),
    "no transmit timestamp": (Behaviour(tamper=lambda p: [replaced(p, 40, bytes(8))]), SampleVerdict.MALFORMED),
    "sent before received": (
        Behaviour(tamper=lambda p: [replaced(p, 40, struct.pack("!Q", ntp_timestamp(HOST.wall_ns() - SECOND_NS)))]),
        SampleVerdict.MALFORMED,
    ),
    "root dispersion over a second": (Behaviour(root_dispersion_ns=SECOND_NS + 10**8), SampleVerdict.FAR),
    "root delay over two seconds": (Behaviour(root_delay_ns=2 * SECOND_NS + 10**8), SampleVerdict.FAR),
    "the era after 2036": (Behaviour(tamper=at_year(YEAR_2036_AFTER_THE_ERA)), SampleVerdict.FAR),
    "the year 1970": (Behaviour(tamper=at_year(0)), SampleVerdict.FAR),
}


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_a_misbehaving_server_gives_no_sample_and_is_named(name: str) -> None:
    """Every one of docs/time.md, "Misbehaviours", over real UDP has its verdict, and never a sample."""
    behaviour, verdict = MISBEHAVIOURS[name]
    with FakeNtpServer(behaviour) as server:
        outcome = ask(server.address, HOST, TIMEOUT_S)
    assert outcome.verdict is verdict, outcome
    assert outcome.sample is None
    assert outcome.reason


def test_a_root_distance_just_within_the_limit_is_taken() -> None:
    """The limit of one second has two sides."""
    with FakeNtpServer(Behaviour(root_dispersion_ns=SECOND_NS - 10**7)) as server:
        outcome = ask(server.address, HOST, TIMEOUT_S)
    assert outcome.verdict is SampleVerdict.OK
    assert outcome.sample is not None
    assert outcome.sample.error_ns > SECOND_NS - 10**7


def test_a_closed_port_is_noticed_at_once() -> None:
    """Nobody waits for the time-out when the host says that nothing listens."""
    with FakeNtpServer() as server:
        address = server.address
    began_ns = HOST.monotonic_ns()
    outcome = ask(address, HOST, 10.0)
    assert outcome.verdict is SampleVerdict.TIMEOUT
    assert HOST.monotonic_ns() - began_ns < 5 * SECOND_NS


def test_the_true_answer_is_found_behind_forged_ones() -> None:
    """A forged packet neither becomes a sample nor ends the wait for the true one."""
    forged = Behaviour(tamper=lambda p: [replaced(p, 24, b"\1" * 8), p[:20], replaced(p, 24, bytes(8)), p])
    with FakeNtpServer(forged) as server:
        outcome = ask(server.address, HOST, TIMEOUT_S)
    assert outcome.verdict is SampleVerdict.OK


@pytest.mark.parametrize("offset_ns", [0, 5_000_000, -250_000_000, 600 * SECOND_NS])
def test_an_honest_answer_contains_the_servers_time(offset_ns: int) -> None:
    """The sample's interval contains the server's true time, whatever our own wall clock says."""
    with FakeNtpServer(Behaviour(offset_ns=offset_ns)) as server:
        outcome = ask(server.address, HOST, TIMEOUT_S)
        wall_ns, monotonic_ns = HOST.wall_ns(), HOST.monotonic_ns()
    assert outcome.sample is not None
    truth_ns = wall_ns - (monotonic_ns - outcome.sample.monotonic_ns) + offset_ns
    # The two readings above are not one instant; a millisecond is generous for that.
    assert abs(outcome.sample.utc_ns - truth_ns) <= outcome.sample.error_ns + 1_000_000


@pytest.mark.parametrize(("before_s", "after_s"), [(0.4, 0.0), (0.0, 0.4)])
def test_an_asymmetric_delay_is_within_the_bound(before_s: float, after_s: float) -> None:
    """When all the delay is on one way, the midpoint is wrong by half of it, and the bound says so."""
    with FakeNtpServer(Behaviour(delay_before_s=before_s, delay_after_s=after_s)) as server:
        outcome = ask(server.address, HOST, TIMEOUT_S)
        wall_ns, monotonic_ns = HOST.wall_ns(), HOST.monotonic_ns()
    assert outcome.sample is not None
    truth_ns = wall_ns - (monotonic_ns - outcome.sample.monotonic_ns)
    assert 30_000_000 < abs(outcome.sample.utc_ns - truth_ns) <= outcome.sample.error_ns + 1_000_000
