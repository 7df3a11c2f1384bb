"""Takes the framing of `aws-chunked` off a body, however it is split on its way. Pure.

A chunk is a line with its size in hex, its bytes, and an end of line; the last one has no bytes. With signatures
(STREAMING-AWS4-HMAC-SHA256-PAYLOAD) no byte of a chunk is given out before its signature is proved. Behind the last chunk may
stand lines of a trailer; AWS ends them with one empty line, minio-go puts one more before or behind.

A chunk header that is stored is silent corruption, so everything that is not exactly this is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from services.gateway.s3.errors import S3Error
from services.gateway.s3.signatures import SignatureChain
from shared.units import KIB, MIB

if TYPE_CHECKING:
    from hashlib import _Hash

SIZE_LINE_MAX: Final = 256
TRAILER_MAX: Final = 16 * KIB
SIGNED_CHUNK_MAX: Final = 2 * MIB
"""Its bytes are held until they are proved, beside all budgets (G-209). Known clients send 64 KiB to 1 MiB."""

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(;chunk-signature=([^;\r\n]*))?")
_TRAILER_LINE: Final = re.compile(rb"([A-Za-z0-9-]{1,128}):[ \t]*([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)[ \t]*")
_TRAILER_SIGNATURE: Final = "x-amz-trailer-signature"
_LINE_ENDS: Final = b"\r\n"


class ChunkedDecoder:
    """Of one body.

    Attributes:
        trailers: what stood behind the last chunk, by lower-case names; all of it once `is_ended`. The signature is not in it.
        is_ended: the last line came.
    """

    def __init__(self, size_bytes: int, *, chain: SignatureChain | None, announced: str | None) -> None:
        """`size_bytes`: what all chunks have together. `announced`: the one name that a trailer must have, and no other."""
        self.trailers: dict[str, str] = {}
        self.is_ended = False
        self._outstanding_bytes = size_bytes
        self._chain = chain
        self._announced = announced
        # A function and not a method of this object: that would keep it, and what it holds, until the collector comes by.
        self._step: Callable[[ChunkedDecoder, memoryview, list[bytes]], int] = ChunkedDecoder._size_line
        self._line = bytearray()
        self._chunk_bytes = 0
        self._chunk_signature = b""
        self._held = bytearray()
        self._hash: _Hash = hashlib.sha256()
        self._trailer_bytes = 0
        self._signed_lines = b""
        self._is_trailer_signed = False
        self._surplus = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The bytes of the file that are complete with `data`, and proved: one piece at most, however small the chunks are.

        Raises:
            S3Error: InvalidRequest for what is no such framing, IncompleteBody for more than was announced,
                SignatureDoesNotMatch; nothing of it may be kept then.
        """
        if self.is_within_chunk(len(data)):
            self._chunk_bytes -= len(data)
            return [data] if data else []
        found: list[bytes] = []
        rest = memoryview(data)
        while rest:
            rest = rest[self._step(self, rest, found) :]
        # A piece of a byte costs whoever keeps it three hundred.
        return [b"".join(found)] if len(found) > 1 else found

    def is_within_chunk(self, size_bytes: int) -> bool:
        """Whether the next `size_bytes` are bytes of an unsigned chunk that does not end with them: they pass as they are."""
        return (
            self._chain is None and self._step is ChunkedDecoder._bytes_of_chunk and self._chunk_bytes > size_bytes > 0
        )

    def finish(self) -> None:
        """The body has ended.

        Raises:
            S3Error: IncompleteBody where it broke off.
        """
        if not self.is_ended:
            raise S3Error("IncompleteBody", "The body ended before its last chunk, or within it.")

    def _size_line(self, rest: memoryview, found: list[bytes]) -> int:  # noqa: ARG002 - one signature for all steps
        line, taken = self._taken_line(rest, SIZE_LINE_MAX, "A line with the size of a chunk")
        if line is None:
            return taken
        match = _SIZE.fullmatch(line.removesuffix(b"\r")) if line.endswith(b"\r") else None
        if match is None or (match[2] is None) != (self._chain is None):
            raise _malformed(
                "A chunk begins with its size in hex"
                + ("." if self._chain is None else ", a semicolon and its chunk-signature.")
            )
        self._begin_chunk(int(match[1], 16), match[3] or b"")
        return taken

    def _begin_chunk(self, size_bytes: int, signature: bytes) -> None:
        if size_bytes > self._outstanding_bytes or (size_bytes == 0 and self._outstanding_bytes):
            raise S3Error("IncompleteBody", "The chunks have another length than x-amz-decoded-content-length.")
        if self._chain is not None and size_bytes > SIGNED_CHUNK_MAX:
            raise _malformed(f"A signed chunk has at most {SIGNED_CHUNK_MAX} bytes.")
        self._outstanding_bytes -= size_bytes
        self._chunk_bytes = size_bytes
        self._chunk_signature = signature
        self._hash = hashlib.sha256()
        if size_bytes:
            self._step = ChunkedDecoder._bytes_of_chunk
        else:
            self._check_chunk()
            self._step = ChunkedDecoder._trailer

    def _bytes_of_chunk(self, rest: memoryview, found: list[bytes]) -> int:
        taken = min(len(rest), self._chunk_bytes)
        piece = bytes(rest[:taken])
        self._chunk_bytes -= taken
        if self._chain is None:
            found.append(piece)
        else:
            self._hash.update(piece)
            self._held += piece
        if not self._chunk_bytes:
            self._check_chunk()
            if self._held:
                found.append(bytes(self._held))
                self._held.clear()
            self._step = ChunkedDecoder._end_of_chunk
        return taken

    def _check_chunk(self) -> None:
        if self._chain is not None and not self._chain.is_chunk_proved(self._hash.hexdigest(), self._chunk_signature):
            raise S3Error("SignatureDoesNotMatch", "The signature of a chunk does not match what was calculated.")

    def _end_of_chunk(self, rest: memoryview, found: list[bytes]) -> int:  # noqa: ARG002 - as above
        taken = min(len(rest), len(_LINE_ENDS) - len(self._line))
        self._line += rest[:taken]
        if not _LINE_ENDS.startswith(self._line):
            raise _malformed("The bytes of a chunk are followed by an end of line.")
        if len(self._line) == len(_LINE_ENDS):
            self._line.clear()
            self._step = ChunkedDecoder._size_line
        return taken

    def _trailer(self, rest: memoryview, found: list[bytes]) -> int:  # noqa: ARG002 - as above
        line, taken = self._taken_line(rest, TRAILER_MAX - self._trailer_bytes, "The trailer")
        if line is None:
            return taken
        self._trailer_bytes += len(line) + 1
        if line := line.removesuffix(b"\r"):
            self._add_trailer(line)
        elif self._is_trailer_complete():
            self.is_ended = True
            self._step = ChunkedDecoder._nothing
        elif self._chain is None or not self.trailers:
            raise _malformed("The trailer that x-amz-trailer announces did not come.")
        return taken

    def _is_trailer_complete(self) -> bool:
        if self._announced is None:
            return True
        return self._announced in self.trailers and (self._chain is None or self._is_trailer_signed)

    def _add_trailer(self, line: bytes) -> None:
        match = _TRAILER_LINE.fullmatch(line)
        if match is None:
            raise _malformed("A line of the trailer has a name, a colon and a value.")
        name, value = match[1].decode().lower(), match[2].decode()
        if name == _TRAILER_SIGNATURE and self._chain is not None and self.trailers and not self._is_trailer_signed:
            if not self._chain.is_trailer_proved(self._signed_lines, value.encode()):
                raise S3Error(
                    "SignatureDoesNotMatch", "The signature of the trailer does not match what was calculated."
                )
            self._is_trailer_signed = True
        elif name != self._announced or name in self.trailers or self._is_trailer_signed:
            raise _malformed("The trailer has what x-amz-trailer announces, once, and nothing else.")
        else:
            self.trailers[name] = value
            self._signed_lines += f"{name}:{value}\n".encode()

    def _nothing(self, rest: memoryview, found: list[bytes]) -> int:  # noqa: ARG002 - as above
        self._surplus += bytes(rest[: len(_LINE_ENDS) + 1])
        if not _LINE_ENDS.startswith(self._surplus):
            raise _malformed("Something follows the end of the last chunk.")
        return len(rest)

    def _taken_line(self, rest: memoryview, limit_bytes: int, what: str) -> tuple[bytes | None, int]:
        """The line that ends within `rest`, without its newline; and how much of `rest` belongs to it."""
        # The line end is looked for in what may belong to the line, not in all that came.
        room = max(0, limit_bytes - len(self._line))
        end = bytes(rest[:room]).find(b"\n")
        if end < 0:
            if len(rest) >= room:
                raise _malformed(f"{what} has at most {limit_bytes} bytes.")
            self._line += rest
            return None, len(rest)
        line = bytes(self._line + rest[:end])
        self._line.clear()
        return line, end + 1


def _malformed(message: str) -> S3Error:
    return S3Error("InvalidRequest", message)
