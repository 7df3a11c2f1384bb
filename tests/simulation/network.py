"""A network that loses, repeats, delays and reorders messages, and can be cut in one direction or both."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from services.consensus.raft.configuration import Configuration
from services.consensus.raft.messages import Message, Received, decode, encode
from tests.simulation.disk import SimulatedDisk


@dataclass
class Weather:
    """How bad the network is. Probabilities per message; delays in seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    slow: float = 0.0
    delay_s: tuple[float, float] = (0.0005, 0.003)
    slow_delay_s: tuple[float, float] = (0.05, 0.8)


class SimulatedNetwork:
    """All links between all members.

    `cut` holds the directed pairs that carry nothing now; `clogged` those that hold everything back until an instant; `late_s`
    those on which every message is late by something between two bounds.
    """

    def __init__(self, weather: Weather, disk_of: Callable[[str], SimulatedDisk]) -> None:
        self.weather = weather
        self._disk_of = disk_of
        self.cut: set[tuple[str, str]] = set()
        self.clogged: dict[tuple[str, str], float] = {}
        self.late_s: dict[tuple[str, str], tuple[float, float]] = {}
        self.receivers: dict[str, Callable[[Received[Message]], None]] = {}
        self.message_count = 0
        self.on_send: Callable[[str, str, Message], None] = _ignore

    def send(self, source: str, destination: str, message: Message) -> None:
        self.message_count += 1
        self.on_send(source, destination, message)
        raw = encode(message)
        weather = self.weather
        loop = asyncio.get_running_loop()
        held_s = max(0.0, self.clogged.get((source, destination), 0.0) - loop.time())
        for _ in range(2 if random.random() < weather.duplication else 1):
            if random.random() < weather.loss or (source, destination) in self.cut:
                continue
            bounds = weather.slow_delay_s if random.random() < weather.slow else weather.delay_s
            delay_s = held_s + random.uniform(*bounds)
            if late_s := self.late_s.get((source, destination)):
                delay_s += random.uniform(*late_s)
            loop.call_later(delay_s, self.deliver, source, destination, raw)

    def round_trip_ms(self, source: str, destination: str) -> int | None:
        """What a member would measure now; None where nothing comes back."""
        ways = ((source, destination), (destination, source))
        if self.cut.intersection(ways) or destination not in self.receivers:
            return None
        return round(1000 * sum(random.uniform(*self.late_s.get(way, (0.0005, 0.003))) for way in ways))

    def deliver(self, source: str, destination: str, raw: bytes) -> None:
        receiver = self.receivers.get(destination)
        if receiver is None or (source, destination) in self.cut:
            return
        sender_disk, receiver_disk = self._disk_of(source), self._disk_of(destination)
        if receiver_disk.accepts(source, sender_disk) and sender_disk.accepts(destination, receiver_disk):
            received = decode(raw, source)
            assert received is not None
            receiver(received)

    def isolate(self, member: str, others: list[str], *, inward: bool, outward: bool) -> None:
        self.cut = {(other, member) for other in others if inward} | {(member, other) for other in others if outward}

    def split(self, group: set[str], everybody: list[str]) -> None:
        self.cut = {(a, b) for a in everybody for b in everybody if (a in group) != (b in group)}

    def heal(self) -> None:
        self.cut = set()
        self.clogged = {}


def _ignore(source: str, destination: str, message: Message) -> None:
    pass


class Endpoint:
    """The `Network` that one member sees; silent once its process has died."""

    def __init__(self, network: SimulatedNetwork, member: str, is_alive: Callable[[], bool]) -> None:
        self._network = network
        self._member = member
        self._is_alive = is_alive

    def post(self, message: Message, destination: str) -> None:
        if self._is_alive():
            self._network.send(self._member, destination, message)

    def configure(self, configuration: Configuration) -> None:
        pass
