"""How an answer goes out: its head with the first of its body in one system call, after one check of all header fields (X-109).

uvicorn writes the head at once and the body after it. Every write on a socket is a system call, which costs more than
everything else here together, and a reader that waits is woken by each. ASGI asks for what is done here: a server must not
send the head before there is a body. Like `http_edge`, this leans on uvicorn's internals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from shared.units import KIB

_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_JOINED_BYTES: Final = 16 * KIB
"""A copy of so much costs less than sending from two places."""

_BODILESS: Final = frozenset({204, 304})


class AnswerCycle(RequestResponseCycle):
    """One request and its answer. Invariant: `_head` is the head of an answer whose body has not begun.

    `is_body_received`: the last of the request's body went past ASGI (`http_edge`).
    """

    is_body_received = False
    _head = b""

    async def run_asgi(self, app: Any) -> None:
        """As uvicorn's; then it lets go of the request, whose scope leads back here (`http_exchange`).

        Or else every request would be a cycle that is left to the collector, and the collector's passes over all that a service
        remembers stop it for 45 to 90 ms (X-275).
        """
        await super().run_asgi(app)
        # Nothing is sent any more that would look at it.
        self.scope = {}  # type: ignore[typeddict-item]

    async def send(self, message: Any) -> None:
        """As ASGI; header names are in lower case."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            _check_type(message, "http.response.start")
            self.response_started = True
            self.waiting_for_100_continue = False
            self._head = self._encode_head(message["status"], message.get("headers", ()))
        elif not self.response_complete:
            _check_type(message, "http.response.body")
            self._send_body(message.get("body", b""), is_last=not message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} was sent after the answer was complete")

    def _encode_head(self, status: int, own_headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        headers = [*self.default_headers, *own_headers]
        fields = dict(headers)
        if b"close" in fields.get(b"connection", b"").lower():
            self.keep_alive = False
        elif not self.keep_alive:
            headers.append((b"connection", b"close"))
        if (length := fields.get(b"content-length")) is not None:
            self.expected_content_length = int(length)
            self.chunked_encoding = False
        elif self.scope["method"] != "HEAD" and status not in _BODILESS:
            self.chunked_encoding = True
            headers.append((b"transfer-encoding", b"chunked"))
        lines = b"\n".join([b"%b: %b" % header for header in headers])
        # One look at all of them: a line end within a field would let its value make up others.
        if lines.count(b"\n") >= max(1, len(headers)) or _CONTROL.search(lines) is not None:
            raise RuntimeError("a header field of an answer has a control character")
        return b"%b%b\r\n\r\n" % (STATUS_LINE[status], lines.replace(b"\n", b"\r\n"))

    def _send_body(self, body: bytes | memoryview, *, is_last: bool) -> None:
        parts: list[bytes | memoryview] = [self._head] if self._head else []
        self._head = b""
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            if body:
                parts += [b"%x\r\n" % len(body), body, b"\r\n"]
            if is_last:
                parts.append(b"0\r\n\r\n")
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("an answer is longer than its Content-Length")
            if body:
                parts.append(body)
        if len(parts) > 1 and len(body) > _JOINED_BYTES:
            self.transport.writelines(parts)
        elif parts:
            self.transport.write(b"".join(parts) if len(parts) > 1 else parts[0])
        if is_last:
            self._finish()

    def _finish(self) -> None:
        if self.expected_content_length != 0:
            raise RuntimeError("an answer is shorter than its Content-Length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def _check_type(message: Any, expected: str) -> None:
    if message["type"] != expected:
        raise RuntimeError(f"{expected} was expected, and {message['type']} was sent")
