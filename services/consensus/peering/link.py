"""One connection between two members after its handshake: frames one way, beats the other, and when it is dead (C-77).

TCP does not tell. A middlebox that has lost its table, or a kernel whose process hangs, acknowledges bytes that nobody will
ever read; such a connection stays open for ever, and everything sent on it is lost. So the side that takes frames says with
every beat how many bytes have arrived, and the side that sends puts at least an empty frame into every beat. The count must
grow, seen from both ends; one that does not for `SILENT_BEATS` is the end of the connection, and the dialler makes a new one.

Bytes are counted and not frames, so a link that is only slow, with a large frame on its way, is alive. An empty frame is answered
with a beat at once, which tells the dialler how long the way there and back takes.

Frames and beats are numbered and carry a keyed BLAKE3 under two keys of that connection: nothing can be inserted, repeated or
reordered, and nobody else can say that bytes have arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import statistics
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from blake3 import blake3

from shared.background_tasks import next_tick_s
from shared.units import KIB, MIB

MAX_FRAME_BYTES: Final = 16 * MIB
MAX_BUFFERED_BYTES: Final = 64 * MIB
BEAT_INTERVAL_S: Final = 0.5
SILENT_BEATS: Final = 7
"""More than two seconds, for which a busy or stopped process may be silent; with the beat it may begin in, less than five."""
ROUND_TRIPS: Final = 5
PROBE_BACKLOG_BYTES: Final = 64 * KIB
"""With more than this on its way, a round trip would measure what we send and not the link."""
_FRAME_MAC_BYTES: Final = 16
_PIECE_BYTES: Final = 64 * KIB
_FRAME_HEAD: Final = struct.Struct(f">I{_FRAME_MAC_BYTES}s")
_BEAT: Final = struct.Struct(f">Q{_FRAME_MAC_BYTES}s")
_NUMBER: Final = struct.Struct(">Q")
_KEEP_ALIVE: Final = b""


class LinkError(Exception):
    """What arrived did not come from the member at the other end, or breaks the protocol."""


class LinkKeys(NamedTuple):
    """Of one connection: one key for each direction, so that a beat can never pass for a frame."""

    frames: bytes
    beats: bytes


class Pulse:
    """Whether a count that must grow with every beat still does.

    It is asked once per beat of this member's own loop and reads no clock: whoever was stopped for a minute, or held up,
    wakes up to one late beat, and does not blame the other side for its own absence.
    """

    def __init__(self) -> None:
        self._count = 0
        self._silent_beats = 0

    def is_lost(self, count: int) -> bool:
        """One more beat, at which the count is `count`."""
        self._silent_beats = 0 if count > self._count else self._silent_beats + 1
        self._count = count
        return self._silent_beats >= SILENT_BEATS


class OutgoingLink:
    """The dialler's end: numbers and authenticates frames, and reads beats.

    Invariant: `_arrived_bytes` <= `_sent_bytes`, and neither goes back.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keys: LinkKeys) -> None:
        self._reader = reader
        self._writer = writer
        self._keys = keys
        self._pulse = Pulse()
        self._frame_count = 0
        self._sent_bytes = 0
        self._arrived_bytes = 0
        self._probe: tuple[int, float] | None = None
        self._round_trips_s: deque[float] = deque(maxlen=ROUND_TRIPS)
        self.is_dead = False

    @property
    def round_trip_ms(self) -> int | None:
        """The median of the last few; None while there are too few."""
        if len(self._round_trips_s) < ROUND_TRIPS:
            return None
        return round(1000 * statistics.median(self._round_trips_s))

    @property
    def has_carried(self) -> bool:
        """Whether the other side ever said that something arrived."""
        return self._arrived_bytes > 0

    def send(self, payload: bytes) -> bool:
        """False when the other side takes nothing; the message is dropped, as a network may."""
        transport = self._writer.transport
        if transport.is_closing() or transport.get_write_buffer_size() > MAX_BUFFERED_BYTES:
            return False
        mac = _mac(self._keys.frames, self._frame_count, payload)
        self._frame_count += 1
        self._sent_bytes += _FRAME_HEAD.size + len(payload)
        self._writer.write(_FRAME_HEAD.pack(len(payload), mac) + payload)
        return True

    async def hold(self, beat_interval_s: float) -> None:
        """Keep the connection alive until it ends; returns then, with `is_dead` if it was this side that gave it up.

        Raises:
            LinkError: a beat is not authentic.
        """
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), _every(beat_interval_s, self._beat):
            await self._read_beats()

    def abort(self) -> None:
        """End it now; what stands in buffers is lost."""
        self._writer.transport.abort()

    def _beat(self) -> None:
        if self._pulse.is_lost(self._arrived_bytes):
            self.is_dead = True
            self.abort()
            return
        # What the last beat has not yet told of is no backlog: under load that is half a second's worth of frames.
        backlog_bytes = self._writer.transport.get_write_buffer_size()
        is_probe = self._probe is None and backlog_bytes <= PROBE_BACKLOG_BYTES
        if self.send(_KEEP_ALIVE) and is_probe:
            self._probe = (self._sent_bytes, asyncio.get_running_loop().time())

    async def _read_beats(self) -> None:
        number = 0
        while True:
            beat = await self._reader.readexactly(_BEAT.size)
            arrived_bytes, mac = _BEAT.unpack(beat)
            if not hmac.compare_digest(mac, _mac(self._keys.beats, number, _NUMBER.pack(arrived_bytes))):
                raise LinkError(f"beat {number} is not authentic")
            if not self._arrived_bytes <= arrived_bytes <= self._sent_bytes:
                raise LinkError(f"{arrived_bytes} bytes cannot have arrived: {self._sent_bytes} were sent")
            self._arrived_bytes = arrived_bytes
            number += 1
            if self._probe is not None and arrived_bytes >= self._probe[0]:
                self._round_trips_s.append(asyncio.get_running_loop().time() - self._probe[1])
                self._probe = None


class IncomingLink:
    """The acceptor's end: takes frames, and says with every beat how many bytes of them have arrived."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keys: LinkKeys) -> None:
        self._reader = reader
        self._writer = writer
        self._keys = keys
        self._pulse = Pulse()
        self._frame_count = 0
        self._beat_count = 0
        self._has_said = False
        self._arrived_bytes = 0
        self.is_dead = False

    async def receive(self, deliver: Callable[[bytes], None], beat_interval_s: float) -> None:
        """Hand every payload to `deliver`, in order, until the connection ends.

        Raises:
            LinkError: a frame is too long or not authentic.
            OSError, IncompleteReadError: the connection ended, with `is_dead` if it was this side that gave it up.
        """
        with _every(beat_interval_s, self._beat):
            await self._read_frames(deliver)

    async def _read_frames(self, deliver: Callable[[bytes], None]) -> None:
        """Take what the socket has in one read, and all frames in it in one turn of the loop: a wake-up costs more than a frame.

        Not `readexactly`, which would not tell how much of a large frame has arrived.
        """
        received = bytearray()
        while True:
            piece = await self._reader.read(_PIECE_BYTES)
            if not piece:
                raise asyncio.IncompleteReadError(bytes(received), None)
            self._arrived_bytes += len(piece)
            received += piece
            del received[: self._take_frames(received, deliver)]

    def _take_frames(self, received: bytearray, deliver: Callable[[bytes], None]) -> int:
        """Hand over every whole frame; how many bytes they have."""
        taken_bytes = 0
        while len(received) - taken_bytes >= _FRAME_HEAD.size:
            length, mac = _FRAME_HEAD.unpack_from(received, taken_bytes)
            if length > MAX_FRAME_BYTES:
                raise LinkError(f"a frame of {length} bytes")
            start, end = taken_bytes + _FRAME_HEAD.size, taken_bytes + _FRAME_HEAD.size + length
            if end > len(received):
                break
            payload = bytes(memoryview(received)[start:end])
            if not hmac.compare_digest(mac, _mac(self._keys.frames, self._frame_count, payload)):
                raise LinkError(f"frame {self._frame_count} is not authentic")
            self._frame_count += 1
            taken_bytes = end
            if payload == _KEEP_ALIVE:
                self._say_what_arrived()
            else:
                deliver(payload)
        return taken_bytes

    def _beat(self) -> None:
        if self._pulse.is_lost(self._arrived_bytes):
            self.is_dead = True
            self._writer.transport.abort()
        elif not self._has_said:
            self._say_what_arrived()
        self._has_said = False

    def _say_what_arrived(self) -> None:
        self._has_said = True
        mac = _mac(self._keys.beats, self._beat_count, _NUMBER.pack(self._arrived_bytes))
        self._beat_count += 1
        self._writer.write(_BEAT.pack(self._arrived_bytes, mac))


def _mac(key: bytes, number: int, payload: bytes) -> bytes:
    return blake3(_NUMBER.pack(number) + payload, key=key).digest(_FRAME_MAC_BYTES)


@contextlib.contextmanager
def _every(interval_s: float, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` about every `interval_s`, while the block runs, for all links at once (`sleep_to_tick`).

    One late call stands for all that were missed.
    """
    loop = asyncio.get_running_loop()
    handle: asyncio.TimerHandle

    def once() -> None:
        nonlocal handle
        handle = loop.call_at(next_tick_s(loop.time(), interval_s), once)
        act()

    handle = loop.call_at(next_tick_s(loop.time(), interval_s), once)
    try:
        yield
    finally:
        handle.cancel()
