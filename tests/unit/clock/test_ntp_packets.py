"""Judging packets: any bytes are judged without an exception, and honest ones give bounds that contain the truth."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from services.clock.ntp_answer import (
    ERA_NS,
    MAX_CLOCK_DISAGREEMENT_NS,
    MAX_DELAY_NS,
    NtpReply,
    Question,
    SampleVerdict,
    judge,
    unix_ns,
)
from tests.integration.clock.fake_ntp import SECOND_NS, ntp_timestamp

NOW_NS = 1_795_000_000 * SECOND_NS
COOKIE = b"8 random"


def packet_of(*, t2_ns: int, t3_ns: int, cookie: bytes = COOKIE, first: int = 0o44, stratum: int = 2) -> bytes:
    head = struct.pack("!BBbbII4s", first, stratum, 6, -20, 0, 0, b"\x7f\0\0\1")
    return head + bytes(8) + cookie + struct.pack("!2Q", ntp_timestamp(t2_ns), ntp_timestamp(t3_ns))


def judged(packet: bytes, *, elapsed_ns: int = 1_000_000, walled_ns: int | None = None):
    walled_ns = elapsed_ns if walled_ns is None else walled_ns
    return judge(Question(COOKIE, 77, NOW_NS), NtpReply(packet, 77 + elapsed_ns, NOW_NS + walled_ns))


@given(st.binary(max_size=80))
def test_any_bytes_are_judged_and_none_are_believed(data: bytes) -> None:
    """A packet that does not repeat the cookie is never a sample, whatever is in it."""
    if data[24:32] != COOKIE:
        assert judged(data).sample is None


@given(st.binary(min_size=24, max_size=24), st.binary(min_size=16, max_size=16))
def test_any_header_and_timestamps_are_judged(head: bytes, stamps: bytes) -> None:
    """With the right cookie every other bit may be anything: there is a verdict, and a sample exactly when it is OK."""
    outcome = judged(head + COOKIE + stamps)
    assert (outcome.sample is not None) == (outcome.verdict is SampleVerdict.OK)


@given(
    offset_ns=st.integers(-(10**12), 10**12),
    there_ns=st.integers(0, 400_000_000),
    inside_ns=st.integers(0, 100_000_000),
    back_ns=st.integers(0, 400_000_000),
)
def test_the_sample_contains_the_servers_time_for_every_split_of_the_delay(
    offset_ns: int, there_ns: int, inside_ns: int, back_ns: int
) -> None:
    """However the delay is split between the two ways, the interval contains the server's time at the middle."""
    elapsed_ns = there_ns + inside_ns + back_ns
    t2_ns = NOW_NS + there_ns + offset_ns
    outcome = judged(packet_of(t2_ns=t2_ns, t3_ns=t2_ns + inside_ns), elapsed_ns=elapsed_ns)
    if there_ns + back_ns == 0 and outcome.verdict is SampleVerdict.MALFORMED:
        return  # the wire's resolution of 0.23 ns can make a delay of nothing negative
    assert outcome.sample is not None, outcome
    truth_ns = NOW_NS + elapsed_ns // 2 + offset_ns
    assert abs(outcome.sample.utc_ns - truth_ns) <= outcome.sample.error_ns + 2
    assert outcome.sample.monotonic_ns == 77 + elapsed_ns // 2


def test_the_delay_limit_has_two_sides() -> None:
    """A delay of one second is taken, a nanosecond of the wire's resolution more is not."""
    at_limit = judged(packet_of(t2_ns=NOW_NS, t3_ns=NOW_NS), elapsed_ns=MAX_DELAY_NS)
    assert at_limit.verdict is SampleVerdict.OK
    beyond = judged(packet_of(t2_ns=NOW_NS, t3_ns=NOW_NS), elapsed_ns=MAX_DELAY_NS + 1)
    assert beyond.verdict is SampleVerdict.FAR


def test_a_jump_of_the_hosts_clock_during_the_exchange_drops_the_sample() -> None:
    """Wall and monotonic clock must agree on the duration within a millisecond, on both sides of that edge."""
    packet = packet_of(t2_ns=NOW_NS, t3_ns=NOW_NS)
    limit_ns = MAX_CLOCK_DISAGREEMENT_NS
    assert judged(packet, walled_ns=1_000_000 + limit_ns).verdict is SampleVerdict.OK
    assert judged(packet, walled_ns=1_000_000 + limit_ns + 1).verdict is SampleVerdict.CLOCK_JUMPED
    assert judged(packet, walled_ns=1_000_000 - limit_ns - 1).verdict is SampleVerdict.CLOCK_JUMPED


def test_version_3_is_taken_and_other_versions_are_not() -> None:
    """RFC 5905 servers answer in the client's version, older ones in 3."""
    for version in range(8):
        outcome = judged(packet_of(t2_ns=NOW_NS, t3_ns=NOW_NS, first=version << 3 | 4))
        assert outcome.verdict is (SampleVerdict.OK if version in (3, 4) else SampleVerdict.MALFORMED)


def test_stratum_1_and_15_are_taken_and_16_is_not() -> None:
    """The strata that may be synchronised are 1 to 15."""
    verdicts = [judged(packet_of(t2_ns=NOW_NS, t3_ns=NOW_NS, stratum=s)).verdict for s in (1, 15, 16, 255)]
    assert verdicts == [SampleVerdict.OK] * 2 + [SampleVerdict.UNSYNCHRONISED] * 2


@given(st.integers(0, 20 * ERA_NS), st.integers(-(ERA_NS // 2) + 2 * SECOND_NS, ERA_NS // 2 - 2 * SECOND_NS))
def test_timestamps_are_read_in_the_era_of_the_pivot(truth_ns: int, pivot_error_ns: int) -> None:
    """2036 and every later wrap-around go unnoticed while this host's clock is right within 68 years."""
    read_ns = unix_ns(ntp_timestamp(truth_ns), truth_ns + pivot_error_ns)
    assert abs(read_ns - truth_ns) <= 1
