"""An NTP server over real UDP on loopback that can be told to misbehave in every way of docs/time.md, "Misbehaviours"."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from shared.timekeeping.host_clock import SystemHostClock

NTP_TO_UNIX_S = 2_208_988_800
SECOND_NS = 1_000_000_000


def ntp_timestamp(unix_ns: int) -> int:
    """64-bit NTP timestamp, wrapped into its era."""
    seconds, rest_ns = divmod(unix_ns, SECOND_NS)
    return ((seconds + NTP_TO_UNIX_S) % (1 << 32)) << 32 | (rest_ns << 32) // SECOND_NS


def short_format(duration_ns: int) -> int:
    """32-bit NTP short format: 16.16 seconds."""
    return (duration_ns << 16) // SECOND_NS


@dataclass
class Behaviour:
    """How a server answers; the defaults are honest.

    `tamper` gets the finished packet and returns the packets that are sent instead. `offset_ns` is how far its clock is
    ahead of this host's, `rate_ppb` how much faster it runs from now on.
    """

    offset_ns: int = 0
    rate_ppb: int = 0
    leap: int = 0
    stratum: int = 2
    version: int = 4
    mode: int = 4
    reference: bytes = b"\x7f\x00\x00\x01"
    root_delay_ns: int = 0
    root_dispersion_ns: int = 0
    delay_before_s: float = 0.0
    delay_after_s: float = 0.0
    is_silent: bool = False
    tamper: Callable[[bytes], list[bytes]] = lambda packet: [packet]


class FakeNtpServer:
    """One server in one thread; change `behaviour` at any time."""

    def __init__(self, behaviour: Behaviour | None = None, wall_ns: Callable[[], int] | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.requests = 0
        self._wall_ns = wall_ns or SystemHostClock().wall_ns
        self._began_ns = self._wall_ns()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name=f"fake ntp {self.port}", daemon=True)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # A datagram of no NTP length ends the loop: closing a socket does not wake its reader.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stopper:
            stopper.sendto(b"stop", self.address)
        self._thread.join(5)
        self._socket.close()

    def now_ns(self) -> int:
        """What this server's clock shows."""
        wall_ns = self._wall_ns()
        return wall_ns + self.behaviour.offset_ns + (wall_ns - self._began_ns) * self.behaviour.rate_ppb // SECOND_NS

    def _serve(self) -> None:
        while True:
            request, sender = self._socket.recvfrom(512)
            if request == b"stop":
                return
            self.requests += 1
            behaviour = self.behaviour
            if behaviour.is_silent or len(request) < 48:
                continue
            time.sleep(behaviour.delay_before_s)
            packet = self._answer(behaviour, request)
            time.sleep(behaviour.delay_after_s)
            for each in behaviour.tamper(packet):
                self._socket.sendto(each, sender)

    def _answer(self, behaviour: Behaviour, request: bytes) -> bytes:
        received = ntp_timestamp(self.now_ns())
        head = struct.pack(
            "!BBbbII4s",
            behaviour.leap << 6 | behaviour.version << 3 | behaviour.mode,
            behaviour.stratum,
            6,
            -20,
            short_format(behaviour.root_delay_ns),
            short_format(behaviour.root_dispersion_ns),
            behaviour.reference,
        )
        origin = request[40:48]
        reference = struct.pack("!Q", ntp_timestamp(self.now_ns() - 10 * SECOND_NS))
        return head + reference + origin + struct.pack("!2Q", received, ntp_timestamp(self.now_ns()))
