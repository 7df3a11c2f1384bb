"""What a connection may cost: header size, count and time, URL length, body rate, one Host, and a reader that reads.

uvicorn with httptools accepts an 8 MiB header and never times out a half-sent request (SECURITY.md section 2), so its
protocol class is subclassed here. That leans on uvicorn's internals: the minor version is pinned, and
tests/integration/test_http_edge.py probes every limit over a raw socket.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.units import KIB

MAX_HEADER_BYTES: Final = 32 * KIB
MAX_HEADERS: Final = 128
MAX_URL_BYTES: Final = 8 * KIB
HEADER_TIMEOUT_S: Final = 10.0
BODY_GRACE_S: Final = 10.0
MIN_BODY_BYTES_PER_S: Final = KIB
WRITE_STALL_S: Final = 30.0
"""How often a full send buffer is looked at: a client that drains it at less than `MIN_BODY_BYTES_PER_S` is cut off."""

_CHECK_INTERVAL_S: Final = 1.0


class _RefusedError(Exception):
    """Ends the parser's callback after the answer was written; uvicorn turns it into a closed connection."""


class GuardedHttpProtocol(HttpToolsProtocol):
    """One client connection.

    Invariant: `_timer` is for the header while in the head and for the body's rate after it; `_stall_timer` is armed
    exactly while writing is paused.
    """

    _timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _is_in_head = True
    _head_bytes = 0
    _header_bytes = 0
    _body_bytes = 0
    _body_began_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a request's head."""
        super().connection_made(transport)
        self._arm(HEADER_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the timer with the connection."""
        self._disarm()
        self._disarm_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The send buffer is full: from now on the client must drain it."""
        super().pause_writing()
        self._disarm_stall()
        self._watch_drain()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._disarm_stall()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Bound the bytes of a head before the parser keeps them."""
        if self.transport.is_closing():
            return
        if self._is_in_head:
            if self._head_bytes == 0:
                self._arm(HEADER_TIMEOUT_S)
            if self._head_bytes > MAX_HEADER_BYTES + MAX_URL_BYTES:
                self._refuse(431, "Request Header Fields Too Large")
                return
            self._head_bytes += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._is_in_head = True
        self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Bound the URL."""
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._refuse(414, "URI Too Long")
            raise _RefusedError
        # A request target has no fragment (RFC 9112 section 3.2); the parser would cut a name off there without a word.
        if b"#" in url:
            self._refuse(400, "Bad Request")
            raise _RefusedError

    def on_header(self, name: bytes, value: bytes) -> None:
        """Bound size and number of the header fields."""
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > MAX_HEADER_BYTES or len(self.headers) >= MAX_HEADERS:
            self._refuse(431, "Request Header Fields Too Large")
            raise _RefusedError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Exactly one Host (RFC 9112 section 3.2), then the body's clock starts."""
        if sum(name == b"host" for name, _ in self.headers) != 1:
            self._refuse(400, "Bad Request")
            raise _RefusedError
        self._is_in_head = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._body_began_at = self.loop.time()
        self._arm(BODY_GRACE_S)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count the body for its rate."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole; the wait for the next one is uvicorn's keep-alive."""
        self._disarm()
        self._is_in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Do not answer twice after a refusal."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._on_timer)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch_drain(self) -> None:
        self._stall_timer = self.loop.call_later(
            WRITE_STALL_S, self._on_stall_timer, self.transport.get_write_buffer_size()
        )

    def _on_stall_timer(self, size_bytes: int) -> None:
        if size_bytes - self.transport.get_write_buffer_size() >= MIN_BODY_BYTES_PER_S * WRITE_STALL_S:
            self._watch_drain()
        else:
            # abort() and not close(): close() would wait for the very buffer that is stuck.
            self.transport.abort()

    def _disarm_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _on_timer(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._is_in_head:
            if self._head_bytes == 0:
                self.transport.close()  # connected and said nothing: no request to answer
            else:
                self._refuse(408, "Request Timeout")
            return
        elapsed_s = self.loop.time() - self._body_began_at
        # A body that we ourselves hold back (flow control) is not a slow client.
        if self.flow.read_paused or self._body_bytes >= MIN_BODY_BYTES_PER_S * (elapsed_s - BODY_GRACE_S):
            self._arm(_CHECK_INTERVAL_S)
        else:
            self._refuse(408, "Request Timeout")

    def _refuse(self, status: int, reason: str) -> None:
        if self.transport.is_closing():
            return
        head = f"HTTP/1.1 {status} {reason}\r\nconnection: close\r\ncontent-type: application/problem+json\r\n"
        body = _PROBLEM % (reason.lower().replace(" ", "_"), status)
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        self.transport.close()


_PROBLEM: Any = '{"type": "about:blank", "code": "%s", "status": %d, "definite": true}'
