"""One question to one NTP server: the socket's side of an exchange.

A connected socket, a random transmit timestamp that the answer must repeat, and a wait that forged packets cannot end.
Source: RFC 9769 (data minimisation) for the random timestamp.
"""

from __future__ import annotations

import secrets
import socket
from typing import Final

import ntplib

from services.clock.ntp_answer import NtpReply, NtpResult, Question, SampleVerdict, judge
from shared.timekeeping.host_clock import HostClock
from shared.units import NANOSECONDS_PER_SECOND

_VERSION: Final = 4
_MODE_CLIENT: Final = 3
_RECEIVE_BYTES: Final = 512
_MAX_PACKETS: Final = 32


def ask(address: tuple[str, int], host: HostClock, timeout_s: float) -> NtpResult:
    """One exchange with a numeric address. Blocks up to `timeout_s`; call it in a thread. Raises nothing."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as connection:
            # Connected, so that the kernel drops what comes from elsewhere and reports a closed port at once.
            connection.connect(address)
            return _exchange(connection, host, host.monotonic_ns() + round(timeout_s * NANOSECONDS_PER_SECOND))
    except OSError as error:
        return NtpResult(SampleVerdict.TIMEOUT, f"no answer: {error.strerror or error}")


def _exchange(connection: socket.socket, host: HostClock, deadline_ns: int) -> NtpResult:
    cookie = secrets.token_bytes(8)
    packet = ntplib.NTPPacket(version=_VERSION, mode=_MODE_CLIENT).to_data()[:-8] + cookie
    question = Question(cookie, host.monotonic_ns(), host.wall_ns())
    connection.send(packet)
    # A forged answer must not end the wait for the true one, so the verdict on a foreign packet is only the fallback.
    fallback = NtpResult(SampleVerdict.TIMEOUT, "no answer in time")
    for _ in range(_MAX_PACKETS):
        left_ns = deadline_ns - host.monotonic_ns()
        if left_ns <= 0:
            break
        connection.settimeout(left_ns / NANOSECONDS_PER_SECOND)
        try:
            packet = connection.recv(_RECEIVE_BYTES)
        except TimeoutError:
            break
        outcome = judge(question, NtpReply(packet, host.monotonic_ns(), host.wall_ns()))
        if outcome.verdict not in (SampleVerdict.BAD_ORIGIN, SampleVerdict.MALFORMED):
            return outcome
        fallback = outcome
    return fallback
