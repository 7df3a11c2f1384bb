"""One HTTP/1.1 connection to a peer: a request goes out, its answer comes in, then the next.

Own code over httptools, because a small call through aiohttp costs four times the CPU (X-45). A
body goes to the socket as it is, never joined to its head, and an answer that announces its length is received where it
stays.

Sources: RFC 9112; llhttp, which decides what is HTTP.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from shared.reused_buffers import ReusedBuffers
from shared.stalls import put_off_s
from shared.units import KIB, MIB

KEEPALIVE_EXPIRY_S: Final = 30.0
"""Shorter than the servers' own (`shared.web.listeners`), so that a connection is not reused while its server closes it."""

MAX_ANSWER_BYTES: Final = 32 * MIB
"""More than any answer of ours that is not streamed: a page of chunk lists of consensus is the longest."""

MAX_HEAD_BYTES: Final = 32 * KIB
"""Status line and headers of one answer, with the interim answers (1xx) before it."""

_MAX_TRUSTED_BYTES: Final = 8 * MIB
"""An announced length is believed before the bytes have come, up to here: a stranger may say anything."""

Body = bytes | bytearray
Content = Sequence[bytes | bytearray | memoryview]
"""A body in pieces, written one after the other."""


class NeverConnectedError(ConnectionError):
    """No connection could be made: nothing was sent."""


class StaleConnectionError(ConnectionError):
    """A connection that had been idle was closed before the first byte of an answer: as a rule its peer was just doing that."""


class MalformedAnswerError(ValueError):
    """What came is no answer in HTTP, or none that a service of ours gives."""


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """An answer, read to the end. Header names are in lower case."""

    status_code: int
    headers: dict[str, str]
    content: Body

    @property
    def is_success(self) -> bool:
        """A status of 2xx."""
        return 200 <= self.status_code < 300

    def json(self) -> Any:
        """The content as JSON. Raises ValueError or RecursionError."""
        return json.loads(self.content)


class HttpConnection(asyncio.BufferedProtocol):
    """One exchange at a time. Whatever goes wrong in one closes the connection.

    Invariant: `_waiter` is set while an exchange is under way. Bytes that come at another time close the connection.
    Invariant: at most one timer exists: that of the exchange, or that of the idle connection's expiry.
    """

    def __init__(
        self,
        receive_buffer: memoryview,
        bodies: ReusedBuffers[bytearray],
        on_lost: Callable[[HttpConnection], None],
    ) -> None:
        """Expect nothing yet.

        Args:
            receive_buffer: may be shared by all connections of a loop: what is in it is consumed before the next read.
            bodies: for answers that are as long as one of these.
        """
        self._loop = asyncio.get_running_loop()
        self._receive_buffer = receive_buffer
        self._bodies = bodies
        self._on_lost = on_lost
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = 0.0
        self._stalls = 0
        self._waiter: asyncio.Future[PeerAnswer] | None = None
        self._wait_s = 0.0
        self._moved_at_s = self._loop.time()
        self._unsent_bytes = 0
        self._reset()

    def _reset(self) -> None:
        """Expect an answer."""
        self._answer: PeerAnswer | None = None
        self._defect: str | None = None
        self._received_bytes = 0
        self._head_bytes = 0
        self._has_head = False
        self._is_head = False
        self._keeps_alive = False
        self._length: int | None = None
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._status = 0
        self._body: bytearray | None = None
        self._unfilled: memoryview | None = None

    @property
    def is_idle(self) -> bool:
        """Open, and ready for an exchange."""
        return self._transport is not None and self._waiter is None and not self._transport.is_closing()

    async def exchange(self, head: bytes, content: Content, timeout_s: float) -> PeerAnswer:
        """Send a request and read its answer.

        Args:
            head: request line and headers, with the empty line behind them.
            timeout_s: for every wait: for bytes to come, or for the peer to take some of the request.

        Raises:
            OSError: no answer, or half of one; TimeoutError is one. StaleConnectionError: closed before its first byte.
            MalformedAnswerError: no HTTP, a head or a body above the limits, or no length.
        """
        if self._transport is None or not self.is_idle:
            raise StaleConnectionError("the connection is closed")
        waiter: asyncio.Future[PeerAnswer] = self._loop.create_future()
        self._waiter = waiter
        self._reset()
        self._is_head = head.startswith(b"HEAD ")
        self._wait_s = timeout_s
        self._stalls = 0
        self._moved_at_s = self._loop.time()
        self._wake_at(self._moved_at_s + timeout_s)
        # One after the other: joining them would copy the body.
        self._transport.writelines([head, *content])
        self._unsent_bytes = self._transport.get_write_buffer_size()
        try:
            return await waiter
        except BaseException:
            self.abort()
            raise
        finally:
            self._waiter = None

    def abort(self) -> None:
        """Close at once; what is not sent yet is dropped."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is ready."""
        # One of uvloop is none by its class.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer has closed, or `abort` was called."""
        if self._waiter is not None and not self._waiter.done():
            if self._received_bytes == 0:
                error: Exception = StaleConnectionError("it closed the connection without an answer")
            else:
                error = ConnectionError("it closed the connection in the middle of an answer")
            error.__cause__ = exc
            self._end_with(self._waiter, error)
        self.abort()
        self._transport = None
        self._on_lost(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 of the protocol
        """Where the next bytes go: into the body itself once its length is known."""
        return self._receive_buffer if self._unfilled is None else self._unfilled

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` have come into `get_buffer`."""
        self._moved_at_s = self._loop.time()
        if self._unfilled is None:
            self._parse(self._receive_buffer[:nbytes])
            return
        self._unfilled = self._unfilled[nbytes:]
        if not self._unfilled:
            self._unfilled = None
            self._deliver()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """The first byte of an answer, of an interim one, or of one that nobody asked for."""
        if self._answer is not None:
            self._keeps_alive = False
            return
        self._has_head = False
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or a trailer of a chunked body."""
        if self._answer is not None:
            return
        self._head_bytes += len(name) + len(value)
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        # A list, as RFC 9110 section 5.3 has it; what must stand once is wrong when it stands twice.
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        """All that the head says is known."""
        if self._answer is not None or self._parser.get_status_code() < 200:
            return
        self._has_head = True
        self._keeps_alive = self._parser.should_keep_alive()
        length = self._headers.get("content-length")
        if self._head_bytes > MAX_HEAD_BYTES:
            self._defect = "a head without end"
        elif self._is_head:
            # The parser waits for a body that does not come.
            self._answer = PeerAnswer(self._parser.get_status_code(), self._headers, b"")
            self._keeps_alive = False
        elif length is not None:
            self._length = int(length) if length.isascii() and length.isdigit() else MAX_ANSWER_BYTES + 1
            if self._length > MAX_ANSWER_BYTES:
                self._defect = f"an answer of {length[:32]} bytes"
        elif "transfer-encoding" not in self._headers and self._parser.get_status_code() not in {204, 304}:
            # Up to the end of the connection: cut short, it would look whole.
            self._defect = "an answer without a length"

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._answer is None:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """An answer is whole."""
        status = self._parser.get_status_code()
        if self._answer is None and status >= 200:
            content = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._answer = PeerAnswer(status, self._headers, content)

    def _parse(self, data: memoryview) -> None:
        if self._waiter is None or self._waiter.done():
            self.abort()
            return
        self._received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._keeps_alive = False
            if self._answer is None:
                self._fail(MalformedAnswerError(f"no HTTP: {error}"))
                return
        if self._defect is not None:
            self._fail(MalformedAnswerError(self._defect))
        elif self._answer is not None:
            self._deliver()
        elif self._received_bytes > (MAX_ANSWER_BYTES if self._has_head else 0) + MAX_HEAD_BYTES:
            self._fail(MalformedAnswerError("an answer without end"))
        elif self._has_head and self._length is not None and self._length <= _MAX_TRUSTED_BYTES:
            self._receive_directly(self._length)

    def _receive_directly(self, length: int) -> None:
        """The rest of the body goes past the parser, into the place where it stays."""
        self._body = self._bodies.take() if length == self._bodies.size_bytes else bytearray(length)
        at = 0
        for piece in self._pieces:
            memoryview(self._body)[at : at + len(piece)] = piece
            at += len(piece)
        self._unfilled = memoryview(self._body)[at:]
        self._status = self._parser.get_status_code()
        # The old one waits for a body that it will not see.
        self._parser = HttpResponseParser(self)

    def _deliver(self) -> None:
        answer = self._answer
        if answer is None:
            assert self._body is not None
            answer = PeerAnswer(self._status, self._headers, self._body)
        # What is idle holds no bytes of the last answer.
        self._answer = self._body = None
        self._pieces = []
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(answer)
        # A request that was answered before it was sent would go on in front of the next one.
        if not self._keeps_alive or self._transport is None or self._transport.get_write_buffer_size():
            self.abort()

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._end_with(self._waiter, error)
        self.abort()

    @staticmethod
    def _end_with(waiter: asyncio.Future[PeerAnswer], error: Exception) -> None:
        waiter.set_exception(error)
        # A caller that was cancelled in this very turn never fetches it.
        waiter.exception()

    # Time.

    def expire_later(self) -> None:
        """Close after `KEEPALIVE_EXPIRY_S` without an exchange."""
        if self._timer is None:
            self._wake_at(self._moved_at_s + KEEPALIVE_EXPIRY_S)

    def _wake_at(self, at_s: float) -> None:
        # A timer of an earlier exchange that fires too soon looks again: cheaper than a new one for each exchange.
        if self._timer is not None:
            if self._timer_at_s <= at_s:
                return
            self._timer.cancel()
        self._timer_at_s = at_s  # uvloop's handles do not all know it
        self._timer = self._loop.call_at(at_s, self._look_at_the_time)

    def _look_at_the_time(self) -> None:
        now_s = self._loop.time()
        self._timer = None
        is_waiting = self._waiter is not None
        if is_waiting and (late_s := put_off_s(self._timer_at_s, now_s, self._stalls)):
            self._moved_at_s = min(now_s, self._moved_at_s + late_s)
            self._stalls += 1
        if is_waiting and self._transport is not None:
            unsent_bytes = self._transport.get_write_buffer_size()
            if unsent_bytes < self._unsent_bytes:
                self._unsent_bytes, self._moved_at_s = unsent_bytes, now_s
        due_s = self._moved_at_s + (self._wait_s if is_waiting else KEEPALIVE_EXPIRY_S)
        if due_s > now_s:
            self._wake_at(due_s)
        elif is_waiting:
            self._fail(TimeoutError(f"nothing came for {self._wait_s:g} s"))
        else:
            self.abort()
