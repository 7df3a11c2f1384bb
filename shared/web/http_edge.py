"""How many connections there are and what one may cost and say: head, URL, time, body rate, framing, a reader that reads (X-16).

uvicorn with httptools accepts an 8 MiB header and never times out a half-sent request (docs/security.md, "The HTTP edge"),
so its protocol class is subclassed here. That leans on uvicorn's internals: the minor version is pinned, and
tests/integration/test_http_edge.py and test_http_framing.py probe every rule over a raw socket.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import socket
import struct
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.peer_calls.loopback import send_unpaced
from shared.units import KIB, MIB
from shared.web.answer_writer import AnswerCycle
from shared.web.body_receiver import BodyReceiver
from shared.web.descriptors import max_connections
from shared.web.http_exchange import EXCHANGE, HttpExchange
from shared.web.request_metrics import problem_counts

MAX_HEADER_BYTES: Final = 32 * KIB
MAX_HEADERS: Final = 128
MAX_URL_BYTES: Final = 8 * KIB
HEADER_TIMEOUT_S: Final = 9.0
"""Below the ten seconds that a client is promised, by what a timer may be late when hundreds end together."""

BODY_GRACE_S: Final = 10.0
MIN_BODY_BYTES_PER_S: Final = KIB
WRITE_STALL_S: Final = 25.0
"""How often a full send buffer is looked at: a client that drains it at less than `MIN_BODY_BYTES_PER_S` is cut off."""

LINGER_S: Final = 1.0
"""How often it is looked whether a refused client still sends; while it does, it is listened to. Closing with unread bytes
makes the kernel reset the connection, and the refusal is lost on its way to a client that sends all before it reads."""

MAX_LINGER_S: Final = 30.0
MAX_LINGER_BYTES: Final = 256 * MIB
"""What is received and dropped after a refusal, at most. Dropping costs less than storing the same bytes would."""

MAX_LINGERING: Final = 64
"""So many connections beyond the limit are told why; further ones are cut off."""

_LOOKED_AT: Final = 1024
"""Among so many connections an idle one is looked for: the look must not cost more than a request."""

_CHECK_INTERVAL_S: Final = 1.0
_RESET: Final = struct.pack("ii", 1, 0)
_HOST: Final = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_MAX_LENGTH_DIGITS: Final = 20
"""Zeros in front never overflow the parser, and Python reads no number of more than 4,300 digits."""

ERROR_CODE_HEADER: Final = "x-trivet-error-code"
"""Of every answer that is a problem document: its `code`. An answer to HEAD has no body that could say it."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

HEAD_TOO_LARGE: Final = (
    431,
    "Request Header Fields Too Large",
    f"A request has at most {MAX_HEADERS} header fields with {MAX_HEADER_BYTES} bytes",
)
_NOT_REPLAYED: Final = {b"upgrade", b"http2-settings"}


class _RefusedError(Exception):
    """Ends the parser's callback after the answer was written; uvicorn turns it into a closed connection."""


class GuardedHttpProtocol(HttpToolsProtocol):
    """One client connection.

    Invariant: `_timer` is for the header while in the head and for the body's rate after it; `_armed_s` is what it is to be
    started with at the end of `data_received`; `_stall_timer` is armed exactly while writing is paused. `_receiver` is the
    transport's protocol, in place of this one, exactly while it is set. `_is_adrift` is set once the parser does not know
    where the body ends: from then on nothing is heard.
    """

    cycle: AnswerCycle
    _timer: asyncio.TimerHandle | None = None
    _armed_s: float | None = None
    _receiver: BodyReceiver | None = None
    _is_adrift = False
    _stall_timer: asyncio.TimerHandle | None = None
    _is_refused = False
    _is_upgrade = False
    _is_in_head = True
    _head_bytes = 0
    _header_bytes = 0
    _header_count = 0
    _hosts: list[bytes]
    _codings: list[bytes]
    _has_empty_body = False
    _body_bytes = 0
    _body_began_at = 0.0
    _dropped_bytes = 0
    idle_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a request's head."""
        super().connection_made(transport)
        # What waits unsent keeps all of the buffer that it is a part of alive; an answer's memory may be given back only when
        # nothing waits, so the sender must be told of the first byte that does.
        transport.set_write_buffer_limits(high=0)
        if self.client is not None:
            send_unpaced(transport.get_extra_info("socket"), self.client[0])
        self.idle_since_s = self.loop.time()
        surplus = len(self.connections) - self.connection_limit()
        if surplus <= 0 or self._take_idle_place():
            self._start_timer(HEADER_TIMEOUT_S)
        elif surplus > MAX_LINGERING:
            transport.abort()
        else:
            self._refuse(503, "Overloaded", "Too many connections are open")

    def connection_limit(self) -> int:
        """How many connections this listener may have."""
        return max_connections()

    def _take_idle_place(self) -> bool:
        """Close the connection that has been idle for longest, if there is one: a probe must get in while others only wait."""
        some = itertools.islice(self.connections, _LOOKED_AT)
        others = [other for other in some if isinstance(other, GuardedHttpProtocol) and other is not self]
        idle = min((other for other in others if other.is_idle), key=lambda other: other.idle_since_s, default=None)
        if idle is None:
            return False
        idle.transport.close()
        return True

    @property
    def is_idle(self) -> bool:
        """Whether the client may be cut off without loss: no byte of a request has come, and no answer is owed."""
        is_served = self.cycle is None or self.cycle.response_complete
        is_over = self._is_refused or self.transport.is_closing()
        return is_served and self._is_in_head and self._head_bytes == 0 and not is_over

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
        """Bound the bytes of a head before the parser keeps them. Nothing is heard after a refusal."""
        if self._is_refused or self._is_adrift or self.transport.is_closing():
            self._dropped_bytes += len(data)
            return
        if self._is_in_head:
            if self._head_bytes == 0:
                self._arm(HEADER_TIMEOUT_S)
            if self._head_bytes > MAX_HEADER_BYTES + MAX_URL_BYTES:
                self._refuse(*HEAD_TOO_LARGE)
                return
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._armed_s is not None:
            self._start_timer(self._armed_s)

    def _feed(self, data: bytes) -> None:
        """Parse. A wish to upgrade is ignored, as RFC 9110 section 7.8 allows.

        The parser stops at such a head, takes its body for another protocol and, gone on, for the next request; common
        clients send one with every first request (h2c). So the head is parsed again without the wish.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                data = self._head_without_upgrade() + data[stop.args[0] :]
                self._make_parser()
            except httptools.HttpParserError as error:
                self._refuse(400, "Bad Request", _reason_of(error))
                return
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        fields = [name + b": " + value for name, value in self.headers if name not in _NOT_REPLAYED]
        version = self.parser.get_http_version().encode()
        return b"\r\n".join([b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version), *fields, b"", b""])

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._is_in_head = True
        self._header_bytes = 0
        self._header_count = 0
        self._hosts = []
        self._codings = []
        self._has_empty_body = False

    def on_url(self, url: bytes) -> None:
        """Bound the URL."""
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._refuse(414, "URI Too Long", f"A request target has at most {MAX_URL_BYTES} bytes")
            raise _RefusedError
        # A request target has no fragment (RFC 9112 section 3.2); the parser would cut a name off there without a word.
        if b"#" in url:
            self._refuse(400, "Bad Request", "A '#' in a key is written as %23")
            raise _RefusedError

    def on_header(self, name: bytes, value: bytes) -> None:
        """Bound size and number of the header fields. Trailers are read and dropped: they must not pass for headers."""
        self._header_bytes += len(name) + len(value) + 4
        self._header_count += 1
        if self._header_bytes > MAX_HEADER_BYTES or self._header_count > MAX_HEADERS:
            self._refuse(*HEAD_TOO_LARGE)
            raise _RefusedError
        if not self._is_in_head:
            return
        super().on_header(name, value)
        name = self.headers[-1][0]
        if name == b"content-length" and len(value) > _MAX_LENGTH_DIGITS:
            self._refuse(400, "Bad Request", f"A Content-Length has at most {_MAX_LENGTH_DIGITS} digits")
            raise _RefusedError
        if name == b"content-length":
            self._has_empty_body = not value.strip(b"0 \t")
        elif name == b"host":
            self._hosts.append(value)
        elif name == b"transfer-encoding":
            self._codings.append(value)

    def on_headers_complete(self) -> None:
        """Refuse what could be read in two ways (RFC 9112 sections 2.3, 3.2 and 6.1), then the body's clock starts."""
        if (refusal := self._framing_problem()) is not None:
            self._refuse(*refusal)
            raise _RefusedError
        if self.parser.should_upgrade():
            self._is_upgrade = True  # `_feed` comes back with the same head
            return
        self._is_in_head = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._body_began_at = self.loop.time()
        self._arm(BODY_GRACE_S)
        self._begin_cycle()

    def _begin_cycle(self) -> None:
        """In place of uvicorn's `on_headers_complete`, which knows no other cycle than its own."""
        scope, version = self.scope, self.parser.get_http_version()
        target = httptools.parse_url(self.url)
        path = target.path.decode("ascii")
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = target.path
        scope["query_string"] = target.query or b""
        before = self.cycle
        is_next = before is None or before.response_complete
        if self.expect_100_continue and self._has_empty_body:
            self.expect_100_continue = False
            # Nothing is waited for, but older botocore that gets another answer here takes the next one of the connection apart
            # wrongly, and stands still for a minute (botocore#3755).
            if is_next:
                self.transport.write(CONTINUE)
        self.cycle = AnswerCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        scope[EXCHANGE] = HttpExchange(self.url.endswith(b"?"), self, self.cycle)  # type: ignore[typeddict-unknown-key]
        if is_next:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _framing_problem(self) -> tuple[int, str, str] | None:
        version = self.parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            return 505, "HTTP Version Not Supported", "This server speaks HTTP/1.1"
        hosts, codings = self._hosts, self._codings
        # HTTP/1.0 knows no Host; some health checks still speak it.
        if len(hosts) > 1 or (not hosts and version == "1.1") or not all(map(_HOST.fullmatch, hosts)):
            return 400, "Bad Request", "A request has one Host header with a host name and perhaps a port"
        if codings and version == "1.0":
            return 400, "Bad Request", "HTTP/1.0 has no Transfer-Encoding"
        if self.parser.get_method() == b"CONNECT":
            return 400, "Bad Request", "This server is no proxy"
        # A coding that is not undone here would be stored as if it were the file.
        if any(coding.strip().lower() != b"chunked" for coding in codings):
            return 501, "Not Implemented", "The only Transfer-Encoding that is undone here is chunked"
        # HTTP/1.0 does not know the interim answer.
        if version == "1.0":
            self.expect_100_continue = False
        return None

    def on_body(self, body: bytes) -> None:
        """Count the body for its rate, and hand it on in place of uvicorn's `on_body`; an upgrade never comes this far."""
        self.count_body(len(body))
        cycle = self.cycle
        if cycle.response_complete:
            return
        # What comes alone is handed on as it is: into an array and out of it again would be two copies. An array takes
        # the rest, because many small pieces would be copied again and again otherwise.
        held: bytes | bytearray = cycle.body
        if not held:
            held = body
        elif isinstance(held, bytearray):
            held += body
        else:
            held = bytearray(held) + body
        cycle.body = held  # type: ignore[assignment]  # uvicorn takes its length and makes bytes of it
        if len(held) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    async def receive_into(
        self, cycle: AnswerCycle, buffer: memoryview, take: Callable[[memoryview], object], *, is_last: bool
    ) -> None:
        """See `HttpExchange.receive_into`."""
        if cycle.disconnected or self.transport.is_closing() or self._is_refused or self._is_adrift:
            raise ConnectionResetError("The body broke off.")
        if held_bytes := self._take_held(cycle, buffer, take):
            buffer = buffer[held_bytes:]
            if not buffer:
                cycle.is_body_received = is_last
                return
        if self._receiver is None:
            self._receiver = BodyReceiver(self)
            self.transport.set_protocol(self._receiver)
        done = self._receiver.expect(buffer, take, is_last=is_last)
        self.flow.resume_reading()
        try:
            await done
        except BaseException:
            if not self._is_refused:
                self._drift(cycle)
            raise

    def _take_held(self, cycle: AnswerCycle, buffer: memoryview, take: Callable[[memoryview], object]) -> int:
        """Move what came since ASGI's `receive` gave the last piece into `buffer`; the number of bytes."""
        held = cycle.body
        taken_bytes = min(len(held), len(buffer))
        if taken_bytes:
            buffer[:taken_bytes] = held[:taken_bytes]
            cycle.body = held[taken_bytes:]
            take(buffer[:taken_bytes])
        return taken_bytes

    def _drift(self, cycle: AnswerCycle) -> None:
        """Give the body up: the parser has not seen what was received, so what comes next could be taken for anything."""
        self._is_adrift = True
        cycle.keep_alive = False
        self._stop_receiving()
        if not self.transport.is_closing():
            self.flow.pause_reading()

    def count_body(self, size_bytes: int) -> None:
        """Count the body for its rate."""
        self._body_bytes += size_bytes

    def end_body(self) -> None:
        """The receiver has all of it: go on as if the parser had seen it, with one that is at the beginning of a head."""
        self._stop_receiving()
        self.cycle.is_body_received = True
        self._make_parser()
        self.on_message_complete()

    def _stop_receiving(self) -> None:
        if self._receiver is not None:
            self._receiver = None
            self.transport.set_protocol(self)

    def _make_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def on_message_complete(self) -> None:
        """The request is whole; the wait for the next one is uvicorn's keep-alive."""
        if self._is_upgrade:
            self._is_upgrade = False
            return
        self._disarm()
        self._is_in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The client may think of its next request. Not one whose body was not taken."""
        self.idle_since_s = self.loop.time()
        if self._receiver is not None:
            self.transport.close()
        super().on_response_complete()

    def _arm(self, seconds: float) -> None:
        """Have the timer started once what came has been parsed: of most requests nothing is outstanding by then."""
        self._disarm()
        self._armed_s = seconds

    def _start_timer(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._on_timer)

    def _disarm(self) -> None:
        self._armed_s = None
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
            # close() would wait for the very buffer that is stuck, and the kernel would keep its own for minutes.
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
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
                self._refuse(408, "Request Timeout", f"The head did not come within {HEADER_TIMEOUT_S:.0f} s")
            return
        elapsed_s = self.loop.time() - self._body_began_at
        # A body that we ourselves hold back (flow control) is not a slow client.
        if self.flow.read_paused or self._body_bytes >= MIN_BODY_BYTES_PER_S * (elapsed_s - BODY_GRACE_S):
            self._start_timer(_CHECK_INTERVAL_S)
        else:
            self._refuse(408, "Request Timeout", f"The body came at less than {MIN_BODY_BYTES_PER_S} bytes a second")

    def _refuse(self, status: int, reason: str, detail: str | None = None) -> None:
        """Answer with `status` and close, unless the client would take that for the answer to an earlier request."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        self._disarm()
        if self._receiver is not None:
            self._receiver.break_off()
            self._stop_receiving()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and (self._is_in_head or cycle.response_started):
            # What is owed is finished, and the connection ends with it: bytes of ours within it would be wrong ones.
            cycle.keep_alive = False
            return
        if self.pipeline:
            self.transport.abort()  # the body of a request that still waits behind others; none of them is told a lie
            return
        problem_counts().labels(f"edge:{status}").inc()
        status, reason, described, body = self.refusal(status, reason, detail)
        fields = [(b"connection", b"close"), *described]
        if status == 503:
            fields.append((b"retry-after", b"1"))
        marks = self.server_state.default_headers if cycle is None or cycle.response_complete else cycle.default_headers
        fields += [(b"content-length", b"%d" % len(body)), *marks]
        lines = [name + b": " + value for name, value in fields]
        self.transport.write(b"\r\n".join([f"HTTP/1.1 {status} {reason}".encode(), *lines, b"", body]))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.linger()

    def refusal(
        self, status: int, reason: str, detail: str | None
    ) -> tuple[int, str, list[tuple[bytes, bytes]], bytes]:
        """Status, reason, header fields and body of the answer to what never becomes a request: a problem document."""
        problem = problem_of_status(status, reason, detail)
        fields = [
            (b"content-type", b"application/problem+json"),
            (ERROR_CODE_HEADER.encode(), str(problem["code"]).encode()),
        ]
        return status, reason, fields, json.dumps(problem).encode()

    def linger(self) -> None:
        """Say no more, drop what still comes, and close when the client is silent or a bound is reached."""
        if self.transport.is_closing():
            return
        self._is_refused = True
        self._disarm()
        self._stop_receiving()
        self.flow.resume_reading()
        self.transport.write_eof()
        self._dropped_bytes = 0
        self._look_at_lingering(0, self.loop.time() + MAX_LINGER_S)

    def _look_at_lingering(self, before_bytes: int, deadline_s: float) -> None:
        self._timer = self.loop.call_later(LINGER_S, self._on_linger_timer, before_bytes, deadline_s)

    def _on_linger_timer(self, before_bytes: int, deadline_s: float) -> None:
        is_slow = self._dropped_bytes - before_bytes < MIN_BODY_BYTES_PER_S * LINGER_S
        if is_slow or self._dropped_bytes > MAX_LINGER_BYTES or self.loop.time() > deadline_s:
            self.transport.close()
        else:
            self._look_at_lingering(self._dropped_bytes, deadline_s)


def _reason_of(error: httptools.HttpParserError) -> str | None:
    """The parser's own words, which quote nothing of the request; None for an error that came out of a callback."""
    if isinstance(error, httptools.HttpParserCallbackError):
        return None
    return f"The request is malformed: {error}"


def problem_of_status(status: int, reason: str, detail: str | None = None) -> dict[str, object]:
    """The problem document of a refusal. Without `detail` it says no more than its status does."""
    code = reason.lower().replace(" ", "_")
    return {
        "type": f"urn:trivet:problem:{code}",
        "title": reason,
        "status": status,
        "detail": f"{reason if detail is None else detail}. Nothing was done.",
        "code": code,
        "definite": True,
    }
