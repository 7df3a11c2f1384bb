"""How several ranges of one file look on the wire: multipart/byteranges (RFC 9110 section 14.6)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from services.gateway.semantics.byte_ranges import ByteSpan


class RangeParts:
    """The delimiters around the ranges of one answer; their bytes come from somewhere else.

    Invariant: `length_bytes` is what all of `opening` of every range, the ranges and `closing` have together.
    """

    def __init__(self, spans: Sequence[ByteSpan], size_bytes: int, content_type: str) -> None:
        # Random, so that nobody can store a file that contains it.
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/byteranges; boundary={boundary}"
        self.closing = f"\r\n--{boundary}--\r\n".encode()
        self._openings = [
            f"{'' if number == 0 else chr(13) + chr(10)}--{boundary}\r\n"
            f"content-type: {content_type}\r\n"
            f"content-range: {content_range(span, size_bytes)}\r\n\r\n".encode()
            for number, span in enumerate(spans)
        ]
        self._spans = list(spans)
        self._next = 0
        self._left_bytes = 0
        self.length_bytes = sum(map(len, self._openings)) + sum(span.size_bytes for span in spans) + len(self.closing)

    def before(self, next_bytes: int) -> bytes:
        """What stands before the next `next_bytes` bytes of the ranges: the opening of a range, or nothing.

        Pieces never reach from one range into the next.
        """
        opening = b""
        if self._left_bytes == 0:
            opening = self._openings[self._next]
            self._left_bytes = self._spans[self._next].size_bytes
            self._next += 1
        self._left_bytes -= next_bytes
        assert self._left_bytes >= 0, "a piece reached into the next range"
        return opening


def content_range(span: ByteSpan, size_bytes: int) -> str:
    """The value of Content-Range."""
    return f"bytes {span.start}-{span.stop - 1}/{size_bytes}"
