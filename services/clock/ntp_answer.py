"""Every reason not to believe an NTP server's answer, and how far true time can be from one that is believed. Pure.

It exists because ntplib's client believes everything: a kiss-of-death, an unsynchronised server and an answer to a
question that was never asked all pass. ntplib gives the wire format; the judgement is ours.
Sources: RFC 5905 sections 7.3, 8 and 13.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import ntplib

from shared.units import NANOSECONDS_PER_SECOND

NTP_TO_UNIX_S: Final = 2_208_988_800
ERA_NS: Final = (1 << 32) * NANOSECONDS_PER_SECOND

MAX_DELAY_NS: Final = NANOSECONDS_PER_SECOND
MAX_ROOT_DISTANCE_NS: Final = NANOSECONDS_PER_SECOND
MAX_CLOCK_DISAGREEMENT_NS: Final = 1_000_000
"""Wall and monotonic clock must tell the same duration for one exchange; otherwise the machine slept within it."""

MAX_PLAUSIBLE_OFFSET_NS: Final = 366 * 86_400 * NANOSECONDS_PER_SECOND
"""A server that is a year away from this host is wrong or of another era; either way no use."""

_MODE_SERVER: Final = 4
_VERSIONS: Final = (3, 4)
_LEAP_UNSYNCHRONISED: Final = 3
_MAX_STRATUM: Final = 15


class SampleVerdict(StrEnum):
    """What became of one exchange."""

    OK = "ok"
    TIMEOUT = "timeout"
    KISS_OF_DEATH = "kod"
    UNSYNCHRONISED = "unsync"
    BAD_ORIGIN = "bad_origin"
    MALFORMED = "malformed"
    FAR = "far"
    CLOCK_JUMPED = "clock_jumped"


@dataclass(frozen=True, slots=True)
class Sample:
    """A server's time at one moment of our monotonic clock.

    Attributes:
        monotonic_ns: the middle of the exchange.
        utc_ns: the server's time then, in nanoseconds since the Unix epoch.
        error_ns: how far true time can be from it if the server is honest: half the delay and the root distance.
        delay_ns: network time there and back.
        leap: the leap indicator, 0 to 2.
    """

    monotonic_ns: int
    utc_ns: int
    error_ns: int
    delay_ns: int
    stratum: int
    leap: int


@dataclass(frozen=True, slots=True)
class NtpResult:
    """A verdict, its reason for people, and the sample if there is one. `kiss` is the code of a kiss-of-death."""

    verdict: SampleVerdict
    reason: str = ""
    sample: Sample | None = None
    kiss: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A request that is under way: the transmit timestamp that the answer must repeat, and our clocks when it left."""

    cookie: bytes
    sent_monotonic_ns: int
    sent_wall_ns: int


@dataclass(frozen=True, slots=True)
class NtpReply:
    """What came back, and our clocks when it was there."""

    packet: bytes
    received_monotonic_ns: int
    received_wall_ns: int


def judge(question: Question, answer: NtpReply) -> NtpResult:
    """The verdict on one packet; pure. Any bytes are judged, none raise."""
    packet = ntplib.NTPPacket()
    try:
        packet.from_data(answer.packet)
    except ntplib.NTPException:
        return NtpResult(SampleVerdict.MALFORMED, f"{len(answer.packet)} bytes are no NTP packet")
    return _judge_header(question, answer, packet) or _judge_state(packet) or _judge_times(question, answer, packet)


def _judge_header(question: Question, answer: NtpReply, packet: ntplib.NTPPacket) -> NtpResult | None:
    if packet.mode != _MODE_SERVER or packet.version not in _VERSIONS:
        return NtpResult(SampleVerdict.MALFORMED, f"mode {packet.mode}, version {packet.version}")
    if answer.packet[24:32] != question.cookie:
        return NtpResult(SampleVerdict.BAD_ORIGIN, "an answer to a question that was not asked")
    return None


def _judge_state(packet: ntplib.NTPPacket) -> NtpResult | None:
    if packet.stratum == 0:
        kiss = struct.pack("!I", packet.ref_id).decode("ascii", "replace").rstrip("\0")
        return NtpResult(SampleVerdict.KISS_OF_DEATH, f"kiss-of-death {kiss}", kiss=kiss)
    if packet.leap == _LEAP_UNSYNCHRONISED or packet.stratum > _MAX_STRATUM:
        return NtpResult(SampleVerdict.UNSYNCHRONISED, f"not synchronised (stratum {packet.stratum})")
    return None


def _judge_times(question: Question, answer: NtpReply, packet: ntplib.NTPPacket) -> NtpResult:
    received, transmitted = struct.unpack_from("!2Q", answer.packet, 32)
    if not received or not transmitted:
        return NtpResult(SampleVerdict.MALFORMED, "a timestamp is missing")
    t2_ns = unix_ns(received, answer.received_wall_ns)
    t3_ns = unix_ns(transmitted, answer.received_wall_ns)
    elapsed_ns = answer.received_monotonic_ns - question.sent_monotonic_ns
    delay_ns = elapsed_ns - (t3_ns - t2_ns)
    if t3_ns < t2_ns or delay_ns < 0:
        return NtpResult(SampleVerdict.MALFORMED, "timestamps that contradict each other")
    walled_ns = answer.received_wall_ns - question.sent_wall_ns
    if abs(walled_ns - elapsed_ns) > MAX_CLOCK_DISAGREEMENT_NS:
        return NtpResult(SampleVerdict.CLOCK_JUMPED, "this host's clock jumped during the exchange")
    root_distance_ns = _nanoseconds(packet.root_delay) // 2 + _nanoseconds(packet.root_dispersion)
    utc_ns = (t2_ns + t3_ns) // 2
    middle_wall_ns = question.sent_wall_ns + walled_ns // 2
    if delay_ns > MAX_DELAY_NS or root_distance_ns > MAX_ROOT_DISTANCE_NS:
        return NtpResult(SampleVerdict.FAR, "the delay or the root distance is over a second")
    if abs(utc_ns - middle_wall_ns) > MAX_PLAUSIBLE_OFFSET_NS:
        return NtpResult(SampleVerdict.FAR, "more than a year away from this host's clock")
    sample = Sample(
        monotonic_ns=question.sent_monotonic_ns + elapsed_ns // 2,
        utc_ns=utc_ns,
        error_ns=delay_ns // 2 + root_distance_ns + 1,
        delay_ns=delay_ns,
        stratum=packet.stratum,
        leap=packet.leap,
    )
    return NtpResult(SampleVerdict.OK, sample=sample)


def unix_ns(ntp_timestamp: int, pivot_ns: int) -> int:
    """A 64-bit NTP timestamp in nanoseconds since the Unix epoch, in the era that brings it nearest to `pivot_ns`.

    NTP's seconds wrap around in February 2036; with a pivot that is right within 68 years this code does not notice.
    """
    seconds, fraction = ntp_timestamp >> 32, ntp_timestamp & 0xFFFFFFFF
    since_epoch_ns = (seconds - NTP_TO_UNIX_S) * NANOSECONDS_PER_SECOND + (fraction * NANOSECONDS_PER_SECOND >> 32)
    return since_epoch_ns + (pivot_ns - since_epoch_ns + ERA_NS // 2) // ERA_NS * ERA_NS


def _nanoseconds(seconds: float) -> int:
    return round(seconds * NANOSECONDS_PER_SECOND)
