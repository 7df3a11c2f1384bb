"""Every link of the cluster, in our hands: one proxy before every port, one weather for every pair (caller, called) (D-73).

A connection carries requests one way and answers the other, and each way is treated by itself, so a link can hear and not be
heard. The weather is looked up for every piece of data, so a change concerns connections that exist already.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Self

from tests.faults.harness.callers import OUTSIDE, Callers

_PIECE_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
_BUFFER_BYTES = 256 * 1024
_MAX_PIECES = 64


@dataclass(frozen=True, slots=True)
class Weather:
    """What a link does to what it carries.

    Attributes:
        delay_s, jitter_s: every piece is late by `delay_s` and up to `jitter_s` more, each way.
        holds_requests, holds_answers: a pulled cable: what was sent waits, and arrives when it is plugged in again.
        loses_requests, loses_answers: swallowed; the connection is broken when the weather changes.
        refuses: new connections are reset.
        corrupts_one_in_bytes: one wrong bit in about so many bytes of requests; 0 for none.
        corrupts_answers: of answers too, which are not signed (only what carries a digest of its own can stand it).
        bytes_per_s: 0 for no limit.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    holds_requests: bool = False
    holds_answers: bool = False
    loses_requests: bool = False
    loses_answers: bool = False
    refuses: bool = False
    corrupts_one_in_bytes: int = 0
    corrupts_answers: bool = False
    bytes_per_s: int = 0


CLEAR = Weather()
CUT = Weather(holds_requests=True, holds_answers=True)


class Network:
    """All proxies. Links are named by processes: (`gateway-1`, `storage-2`); the test itself is `outside`.

    `front` are the processes that are called from outside only, by hundreds of clients at once. Whose connection it is, is not
    asked there: the kernel's answer takes milliseconds, for which this loop, and with it every link of the cluster, stands still.
    """

    def __init__(self, callers: Callers, seed: int, *, front: Collection[str] = ()) -> None:
        self._callers = callers
        self._front = front
        self.draw = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self._weather: dict[tuple[str, str], Weather] = {}
        self._changed = asyncio.Event()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    async def listen(self, called: str, port: int, target_port: int) -> None:
        """Stand before one port of the process `called`."""

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(called, port, target_port, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._servers.append(await asyncio.start_server(accept, "127.0.0.1", port, limit=_BUFFER_BYTES, backlog=512))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def weather(self, caller: str, called: str) -> Weather:
        """What the link is like now."""
        return self._weather.get((caller, called), CLEAR)

    def set(self, callers: Iterable[str], called: Iterable[str], weather: Weather) -> None:
        """Change links; they stay so until `heal`."""
        called = list(called)
        self._weather |= {(one, other): weather for one in callers for other in called if one != other}
        self._announce()

    def cut(self, one_side: Iterable[str], other_side: Iterable[str]) -> None:
        """Nothing passes between the two groups, whoever called."""
        one_side, other_side = list(one_side), list(other_side)
        self.set(one_side, other_side, CUT)
        self.set(other_side, one_side, CUT)

    def clear(self, callers: Iterable[str], called: Iterable[str]) -> None:
        """Clear weather on these links. Connections that lost bytes are broken, as TCP would break them in the end."""
        called = list(called)
        links = {(one, other) for one in callers for other in called}
        self._weather = {link: weather for link, weather in self._weather.items() if link not in links}
        for connection in list(self._connections):
            is_one_of_them = (connection.caller, connection.called) in links
            if is_one_of_them and connection.has_lost_bytes and not connection.is_half_open:
                connection.reset()
        self._announce()

    def heal(self) -> None:
        """Clear weather on every link."""
        links = list(self._weather)
        self.clear({caller for caller, _ in links}, {called for _, called in links})

    def reset(self, caller: str, called: str) -> int:
        """RST on every connection of the link; returns how many there were."""
        chosen = [
            connection for connection in self._connections if (connection.caller, connection.called) == (caller, called)
        ]
        for connection in chosen:
            connection.reset()
        return len(chosen)

    def half_open(self, caller: str, called: str, *, target_port: int | None = None) -> int:
        """Connections that exist now carry nothing any more and nobody is told; new ones work.

        `target_port` chooses one of the ports that the called process listens on. Returns how many there were.
        """
        chosen = [
            connection
            for connection in self._connections
            if (connection.caller, connection.called) == (caller, called)
            and target_port in {None, connection.target_port}
        ]
        for connection in chosen:
            connection.is_half_open = True
        return len(chosen)

    def half_open_connections(self, target_ports: Collection[int]) -> int:
        """How many of those to these ports somebody still holds."""
        return sum(one.is_half_open and one.target_port in target_ports for one in self._connections)

    def open_connections(self, caller: str, called: str) -> int:
        """How many the link has now."""
        return sum((one.caller, one.called) == (caller, called) for one in self._connections)

    async def wait_for_change(self) -> None:
        """Until some weather changes."""
        await self._changed.wait()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(
        self, called: str, port: int, target_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = writer.get_extra_info("peername")
        caller = self._callers.name_of(peer[1], port) if peer and called not in self._front else OUTSIDE
        connection = _Connection(self, caller, called, reader, writer)
        self._connections.add(connection)
        try:
            # A connection is made only where a packet could go both ways.
            while (weather := self.weather(caller, called)).holds_requests or weather.holds_answers:
                await self.wait_for_change()
            if weather.refuses:
                connection.reset()
                return
            await connection.carry(target_port)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(connection)
            connection.close()


class _Connection:
    """One connection through a proxy, and the one behind it."""

    def __init__(
        self, network: Network, caller: str, called: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.caller = caller
        self.called = called
        self.target_port: int | None = None
        self.is_half_open = False
        self.has_lost_bytes = False
        self._network = network
        self._ends: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = [(reader, writer)]

    async def carry(self, target_port: int) -> None:
        """Until either side ends it."""
        self.target_port = target_port
        self._ends.append(await asyncio.open_connection("127.0.0.1", target_port, limit=_BUFFER_BYTES))
        (from_caller, to_caller), (from_called, to_called) = self._ends
        pumps = [
            asyncio.ensure_future(self._pump(from_caller, to_called, is_request=True)),
            asyncio.ensure_future(self._pump(from_called, to_caller, is_request=False)),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if self.is_half_open:
                # The end of one side reaches the other no more than its bytes do.
                done, _ = await asyncio.wait(pumps)
            # What one side sent before it closed is delivered before the close is.
            for pump in done:
                pump.result()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def reset(self) -> None:
        """Both sides see RST."""
        for _, writer in self._ends:
            raw = writer.get_extra_info("socket")
            if raw is not None:
                try:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                except OSError:
                    continue
            writer.transport.abort()

    def close(self) -> None:
        """Both sides are closed; what stands in buffers still goes out."""
        for _, writer in self._ends:
            if not writer.transport.is_closing():
                writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool) -> None:
        line = _DelayLine(writer)
        try:
            while data := await reader.read(_PIECE_BYTES):
                weather = await self._weather_for(is_request=is_request)
                if self.is_half_open or (weather.loses_requests if is_request else weather.loses_answers):
                    self._network.counts["lost"] += 1
                    self.has_lost_bytes = True
                    continue
                if weather.corrupts_one_in_bytes and (is_request or weather.corrupts_answers):
                    data = self._corrupted(data, weather.corrupts_one_in_bytes)
                delay_s = weather.delay_s + (self._network.draw.uniform(0, weather.jitter_s) if weather.jitter_s else 0)
                await line.carry(data, delay_s, weather.bytes_per_s)
            await line.wait_until_empty()
        finally:
            line.close()

    async def _weather_for(self, *, is_request: bool) -> Weather:
        """As it is when the piece may go: waits while the link holds."""
        network = self._network
        while True:
            weather = network.weather(self.caller, self.called)
            if not (weather.holds_requests if is_request else weather.holds_answers):
                return weather
            network.counts["held"] += 1
            await network.wait_for_change()

    def _corrupted(self, data: bytes, one_in_bytes: int) -> bytes:
        draw = self._network.draw
        changed = bytearray(data)
        position = int(draw.expovariate(1 / one_in_bytes))
        while position < len(changed):
            changed[position] ^= 1 << draw.randrange(8)
            self._network.counts["corrupted bits"] += 1
            position += 1 + int(draw.expovariate(1 / one_in_bytes))
        return bytes(changed)


class _DelayLine:
    """Pieces that are on their way, in order: each arrives when it is due, and delays do not add up."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MAX_PIECES)
        self._last_due = 0.0
        self._undelivered = 0
        self._delivery: asyncio.Task[None] | None = None

    async def carry(self, data: bytes, delay_s: float, bytes_per_s: int) -> None:
        """Send a piece off; waits only while too much is under way."""
        if not delay_s and not bytes_per_s and self._is_empty():
            self._writer.write(data)
            await self._writer.drain()
            return
        if self._delivery is None:
            self._delivery = asyncio.ensure_future(self._deliver())
        self._delivery_must_live()
        now = time.monotonic()
        # What is narrow sends one piece after the other; what is far away sends them all, later.
        begun = max(now, self._last_due) if bytes_per_s else now
        self._last_due = max(self._last_due, begun + delay_s + (len(data) / bytes_per_s if bytes_per_s else 0.0))
        self._undelivered += 1
        await self._under_way.put((self._last_due, data))

    async def wait_until_empty(self) -> None:
        """Until everything has arrived."""
        if self._delivery is not None:
            self._delivery_must_live()
            await self._under_way.join()

    def close(self) -> None:
        """What is still under way is lost."""
        if self._delivery is not None:
            self._delivery.cancel()

    def _is_empty(self) -> bool:
        return self._undelivered == 0

    def _delivery_must_live(self) -> None:
        if self._delivery is not None and self._delivery.done():
            raise ConnectionResetError

    async def _deliver(self) -> None:
        while True:
            due, data = await self._under_way.get()
            await asyncio.sleep(due - time.monotonic())
            self._writer.write(data)
            await self._writer.drain()
            # Only now may a later piece be written past the queue.
            self._undelivered -= 1
            self._under_way.task_done()
