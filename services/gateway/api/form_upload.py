"""One file out of a browser's multipart form, streamed: nothing is spooled to a disk or kept in memory (RFC 7578).

The framework's own form parser would write the file to a temporary folder first; a gateway has no disk. The file name is
data: it becomes the key, is checked like every key, and is never a path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from shared.errors import InvalidRequestError, PayloadTooLargeError
from shared.units import KIB

FILE_FIELD: Final = "file"
MAX_OTHER_BYTES: Final = 64 * KIB
"""What a form may carry around its file: other fields, headers, boundaries."""

_IDENTITY_CODINGS: Final = {b"7bit", b"8bit", b"binary"}
"""Names for bytes as they are (RFC 2045 section 6.2)."""


@dataclass(frozen=True, slots=True)
class FormFile:
    """The file of a form. `body` ends cleanly only if the form does."""

    file_name: str
    content_type: str | None
    body: AsyncIterator[bytes]


async def open_form(content_type: str | None, pieces: AsyncGenerator[bytes, None]) -> FormFile:
    """Read a form up to where its file begins.

    Raises:
        InvalidRequestError: it is no form, is malformed, or has no part `file` with a file name; definite.
        PayloadTooLargeError: more than `MAX_OTHER_BYTES` stand before the file; definite.
    """
    form = _Form(content_type, pieces)
    while form.file_name is None:
        if not await form.advance():
            raise InvalidRequestError("The form has no field 'file' with a file name.", field=FILE_FIELD)
    return FormFile(form.file_name, form.file_content_type, form.file_body())


class _Form:
    """Feeds the parser and keeps what it found.

    Invariant: `_ready` holds bytes of the file only; all other bytes are counted against `MAX_OTHER_BYTES`.
    """

    def __init__(self, content_type: str | None, pieces: AsyncGenerator[bytes, None]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequestError("This route takes multipart/form-data with a boundary.")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise InvalidRequestError("The boundary of the form is malformed.") from error
        self._pieces = pieces
        self._ready: deque[bytes] = deque()
        self._other_bytes = 0
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._is_in_file = False
        self._is_ended = False
        self.file_name: str | None = None
        self.file_content_type: str | None = None

    async def advance(self) -> bool:
        """Take in one more piece of the request; false at its end."""
        piece = await anext(self._pieces, None)
        if piece is None:
            if not self._is_ended:
                raise InvalidRequestError("The form is not complete: its last boundary is missing.")
            return False
        before_bytes = sum(map(len, self._ready))
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise InvalidRequestError("The form is malformed.") from error
        self._other_bytes += len(piece) - (sum(map(len, self._ready)) - before_bytes)
        if self._other_bytes > MAX_OTHER_BYTES:
            raise PayloadTooLargeError("The form carries too much besides its file.", limit_bytes=MAX_OTHER_BYTES)
        return True

    async def file_body(self) -> AsyncIterator[bytes]:
        """The bytes of the file. The rest of the form is read and checked before they end."""
        while True:
            while self._ready:
                yield self._ready.popleft()
            if not await self.advance():
                return

    def _on_part_begin(self) -> None:
        self._headers.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if options.get(b"name") != FILE_FIELD.encode() or b"filename" not in options:
            return
        if self.file_name is not None:
            raise InvalidRequestError("The form has more than one file.", field=FILE_FIELD)
        try:
            self.file_name = options[b"filename"].decode()
        except UnicodeDecodeError as error:
            raise InvalidRequestError("The file name of the form is not valid UTF-8.") from error
        coding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if coding not in _IDENTITY_CODINGS:
            raise InvalidRequestError(
                "The file of a form is kept as it comes: no Content-Transfer-Encoding is undone (RFC 7578 section 4.7).",
                field=FILE_FIELD,
            )
        media_type = self._headers.get(b"content-type")
        self.file_content_type = None if media_type is None else media_type.decode("latin-1")
        self._is_in_file = True

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_in_file:
            self._ready.append(data[start:end])

    def _on_part_end(self) -> None:
        self._is_in_file = False

    def _on_end(self) -> None:
        self._is_ended = True
