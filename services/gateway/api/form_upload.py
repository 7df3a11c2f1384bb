"""One file out of a browser's multipart form, streamed: nothing is spooled to a disk or kept in memory (RFC 7578).

The framework's own form parser would write the file to a temporary folder first; a gateway has no disk. The file name is
data: it becomes the key, is checked like every key, and is never a path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
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
    """The file of a form.

    Attributes:
        file_name: empty where the form has none.
        body: ends cleanly only if the form does.
        fields: names and values of what stands before the file, in order.
    """

    file_name: str
    content_type: str | None
    body: AsyncIterator[bytes]
    fields: Sequence[tuple[bytes, bytes]]


async def open_form(
    content_type: str | None,
    pieces: AsyncIterator[bytes],
    *,
    needs_file_name: bool = True,
    limit_bytes: int = MAX_OTHER_BYTES,
) -> FormFile:
    """Read a form up to where its file begins.

    Args:
        needs_file_name: a part `file` without a file name is another field.
        limit_bytes: what it may carry around its file.

    Raises:
        InvalidRequestError: it is no form, is malformed, or has no part `file`; definite.
        PayloadTooLargeError: more than `limit_bytes` stand before the file; definite.
    """
    form = _Form(content_type, pieces, needs_file_name=needs_file_name, limit_bytes=limit_bytes)
    while form.file_name is None:
        if not await form.advance():
            raise InvalidRequestError("The form has no field 'file' with a file name.", field=FILE_FIELD)
    return FormFile(form.file_name, form.file_content_type, form.file_body(), form.fields)


class _Form:
    """Feeds the parser and keeps what it found.

    Invariant: `_ready` holds bytes of the file only; all other bytes are counted against the limit.
    """

    def __init__(
        self, content_type: str | None, pieces: AsyncIterator[bytes], *, needs_file_name: bool, limit_bytes: int
    ) -> None:
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
        self._needs_file_name = needs_file_name
        self._limit_bytes = limit_bytes
        self._field_name: bytes | None = None
        self._field_value = bytearray()
        self.fields: list[tuple[bytes, bytes]] = []
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
        if self._other_bytes > self._limit_bytes:
            raise PayloadTooLargeError("The form carries too much besides its file.", limit_bytes=self._limit_bytes)
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
        name = options.get(b"name", b"")
        if name != FILE_FIELD.encode() or (self._needs_file_name and b"filename" not in options):
            # What stands behind the file comes too late to say anything about it.
            self._field_name = name if self.file_name is None else None
            return
        if self.file_name is not None:
            raise InvalidRequestError("The form has more than one file.", field=FILE_FIELD)
        try:
            self.file_name = options.get(b"filename", b"").decode()
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
        elif self._field_name is not None:
            self._field_value += data[start:end]

    def _on_part_end(self) -> None:
        self._is_in_file = False
        if self._field_name is not None:
            self.fields.append((self._field_name, bytes(self._field_value)))
            self._field_name = None
            self._field_value.clear()

    def _on_end(self) -> None:
        self._is_ended = True
