"""True time, a host whose oscillator is off, and servers that tell the truth or lie: all on invented time.

The whole synchronizer runs in it, with real packets judged by the real code; only sockets and waiting are replaced.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.clock.ntp_answer import NtpReply, NtpResult, Question, SampleVerdict, judge
from services.clock.settings import ClockSettings
from services.clock.synchronizer import Synchronizer
from shared.cluster_keys import key_file
from shared.contracts.time import ClockState
from shared.roles import Role
from shared.timekeeping.followed_clock import Reading
from shared.timekeeping.host_clock import HostClock
from tests.integration.clock.fake_ntp import ntp_timestamp, short_format

SECOND_NS = 1_000_000_000
MS = 1_000_000
START_NS = 1_795_000_000 * SECOND_NS


class SimulatedHost:
    """A host's two clocks against true time. `rate_ppb` is how much too fast its oscillator runs."""

    def __init__(self, *, rate_ppb: int = 0, wall_offset_ns: int = 0, start_ns: int = START_NS) -> None:
        self.true_ns = start_ns
        self.rate_ppb = rate_ppb
        self._monotonic_ns = 12_345 * SECOND_NS
        self._wall_minus_monotonic_ns = start_ns + wall_offset_ns - self._monotonic_ns

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def wall_ns(self) -> int:
        return self._monotonic_ns + self._wall_minus_monotonic_ns

    def advance(self, true_ns: int) -> None:
        """Let true time pass."""
        self.true_ns += true_ns
        self._monotonic_ns += true_ns * (SECOND_NS + self.rate_ppb) // SECOND_NS

    def set_wall(self, change_ns: int) -> None:
        """Somebody sets the wall clock."""
        self._wall_minus_monotonic_ns += change_ns

    def sleep(self, true_ns: int) -> None:
        """Suspend: the monotonic clock misses it, the wall clock does not."""
        self.true_ns += true_ns
        self._wall_minus_monotonic_ns += true_ns

    def monotonic_before(self, true_ns: int) -> int:
        """What the monotonic clock showed `true_ns` ago."""
        return self._monotonic_ns - true_ns * (SECOND_NS + self.rate_ppb) // SECOND_NS


@dataclass
class SimulatedServer:
    """A server: how wrong it is, what it admits, and the network to it."""

    offset_ns: int = 0
    min_delay_ns: int = 1 * MS
    max_delay_ns: int = 20 * MS
    root_dispersion_ns: int = 2 * MS
    leap: int = 0
    stratum: int = 2
    reference: bytes = b"\x7f\0\0\1"
    is_up: bool = True
    loss: float = 0.0
    requests: int = 0
    asked_at_ns: list[int] = field(default_factory=list)

    def answer(self, host: SimulatedHost, chance: random.Random) -> NtpResult:
        self.requests += 1
        self.asked_at_ns.append(host.true_ns)
        there_ns = chance.randint(self.min_delay_ns, self.max_delay_ns) // 2
        back_ns = chance.randint(self.min_delay_ns, self.max_delay_ns) // 2
        if not self.is_up or chance.random() < self.loss:
            return NtpResult(SampleVerdict.TIMEOUT, "no answer in time")
        cookie = b"a cookie"
        # The exchange ends now and began a round trip ago, so that many can take place at one moment of true time.
        sent_ns = host.monotonic_before(there_ns + back_ns)
        stamp = struct.pack("!Q", ntp_timestamp(host.true_ns - back_ns + self.offset_ns))
        head = struct.pack(
            "!BBbbII4s",
            self.leap << 6 | 4 << 3 | 4,
            self.stratum,
            6,
            -20,
            0,
            short_format(self.root_dispersion_ns),
            self.reference,
        )
        packet = head + bytes(8) + cookie + stamp + stamp
        gap_ns = host.wall_ns() - host.monotonic_ns()
        return judge(Question(cookie, sent_ns, sent_ns + gap_ns), NtpReply(packet, host.monotonic_ns(), host.wall_ns()))


class AtOnce(Executor):
    """Runs what it is given then and there: simulated servers keep nobody waiting, and threads cost more than their answers."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*arguments, **named))
        except Exception as error:  # noqa: BLE001 it belongs to who waits
            done.set_exception(error)
        return done


class World:
    """A synchronizer among simulated servers.

    `readings` are checked as they are taken: within an epoch published time never goes back, and while an interval is
    published true time lies in it, unless `is_truth_checked` is off (a lying majority is planted).
    """

    def __init__(
        self, servers: list[SimulatedServer], host: SimulatedHost | None = None, *, seed: int = 0, **settings: object
    ) -> None:
        self.host = host or SimulatedHost()
        self.servers = {("127.0.0.1", 1000 + index): server for index, server in enumerate(servers)}
        self.seed = seed
        self.is_truth_checked = True
        self.readings = 0
        self._chances = {address: random.Random(f"{seed} {address}") for address in self.servers}
        self.chance = random.Random(seed)
        names = ",".join(f"{host}:{port}" for host, port in self.servers)
        self.synchronizer = Synchronizer(
            clock_settings(**{"ntp_servers": names, **settings}), self.host, self._exchange
        )
        self.synchronizer._random = random.Random(seed + 1)
        self.synchronizer._threads = AtOnce()
        self._last: tuple[int, int] | None = None

    @property
    def state(self) -> ClockState:
        return self.read().state

    def read(self) -> Reading:
        """One reading, judged."""
        reading = self.synchronizer.read()
        self.readings += 1
        epoch = self.synchronizer.discipline.epoch
        if reading.error_ns is not None:
            wrong_ns = abs(reading.physical_ns - self.host.true_ns)
            assert not self.is_truth_checked or wrong_ns <= reading.error_ns, (
                f"seed {self.seed}: {wrong_ns} ns off, bound {reading.error_ns} ns"
            )
            if self._last is not None and self._last[0] == epoch:
                assert reading.physical_ns >= self._last[1], f"seed {self.seed}: time went back"
            self._last = (epoch, reading.physical_ns)
        return reading

    async def run(self, true_s: float, *, step_s: float = 8.0, until: Callable[[], bool] | None = None) -> float:
        """Let rounds and readings take place for `true_s` seconds, or until a condition holds; the seconds it took."""
        began_ns = self.host.true_ns
        end_ns = began_ns + round(true_s * SECOND_NS)
        while self.host.true_ns < end_ns and not (until is not None and until()):
            if self.host.true_ns >= self._next_round_ns:
                await self.synchronizer.round()
                self._next_round_ns = self.host.true_ns + round(self.synchronizer.next_wait_s() * SECOND_NS)
            self.read()
            jitter = self.chance.uniform(0.5, 1.0)
            slice_ns = min(round(step_s * jitter * SECOND_NS), self._next_round_ns - self.host.true_ns)
            self.host.advance(max(1, min(slice_ns, end_ns - self.host.true_ns)))
        return (self.host.true_ns - began_ns) / SECOND_NS

    _next_round_ns = 0

    def _exchange(self, address: tuple[str, int], host: HostClock, timeout_s: float) -> NtpResult:
        assert host is self.host
        return self.servers[address].answer(self.host, self._chances[address])


def clock_settings(**values: object) -> ClockSettings:
    """Settings of a clock service that never touches a disk or the host's chronyd."""
    base: dict[str, object] = {
        "node_id": "clock-1",
        "cluster_id": "test-cluster",
        "peer_keys": key_file("s" * 40, Role.CLOCK),
        "port": 8301,
        "data_dir": Path("/nowhere"),
        "host_chrony": False,
    }
    return ClockSettings.model_validate({**base, **values})
