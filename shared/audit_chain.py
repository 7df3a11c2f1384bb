"""Lines that are chained by their hash, so that none can be changed, removed, moved or put in between unnoticed.

A line is one JSON object of printable ASCII: `{"link":"<64 hex>","row":{...}}`. Its link is the BLAKE3 of the link before it, as
32 bytes, and of the bytes of its row as they stand in the line. So anybody can check a chain without knowing what rows mean,
and whoever keeps one link knows that everything up to it is as it was. Whoever can write all of it can write another chain:
what proves anything is a link that stands somewhere else.

The trail of changes (`services.consensus.metadata.audit`) and what gateways write about reads and refusals are such chains.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec
from blake3 import blake3

LINK_BYTES: Final = 32
NO_LINK: Final = bytes(LINK_BYTES)
"""Where a chain begins."""

LINE_HEAD: Final = b'{"link":"'
_MIDDLE: Final = b'","row":'
_ROW_AT: Final = len(LINE_HEAD) + 2 * LINK_BYTES + len(_MIDDLE)

_encode: Final = msgspec.json.Encoder().encode
_escape: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class ChainPoint:
    """A row of a trail by its index, and its link. Index 0 and no link: before the first."""

    index: int = 0
    link: bytes = NO_LINK


class ChainBrokenError(Exception):
    """A line does not follow the one before it. `index`: of its row, None where it has none. Never crosses the wire."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message if index is None else f"index {index}: {message}")
        self.index = index


def encode_row(row: msgspec.Struct) -> bytes:
    """A row as JSON in one line of printable ASCII: nothing in it can end the line or steer a terminal."""
    encoded = _encode(row)
    if not encoded.isascii() or b"\x7f" in encoded:
        encoded = _escape(msgspec.json.decode(encoded)).encode().replace(b"\x7f", b"\\u007f")
    return encoded


def next_link(link: bytes, row: bytes) -> bytes:
    """The link of `row` behind the row that has `link`."""
    return blake3(link + row).digest()


def to_line(link: bytes, row: bytes) -> bytes:
    """The line, with its end."""
    return b"".join((LINE_HEAD, link.hex().encode(), _MIDDLE, row, b"}\n"))


def begin_line(index: int, link_hex: str) -> bytes:
    """The first line of a file of a trail: which row the others follow."""
    return b'{"begin":{"index":%d,"link":"%b"}}\n' % (index, link_hex.encode())


def parse_begin(line: bytes) -> ChainPoint | None:
    """The inverse of `begin_line`; None where the line is another one."""
    try:
        begin = _beginning.decode(line).begin
        return ChainPoint(begin.index, bytes.fromhex(begin.link))
    except (msgspec.MsgspecError, ValueError):
        return None


def split_line(line: bytes) -> tuple[bytes, bytes]:
    """The link and the row of a line, with or without its end.

    Raises:
        ChainBrokenError: it is no such line.
    """
    content = line.rstrip(b"\n")
    middle = content[_ROW_AT - len(_MIDDLE) : _ROW_AT]
    if not content.startswith(LINE_HEAD) or middle != _MIDDLE or not content.endswith(b"}}"):
        raise ChainBrokenError("it is no line of a chain")
    try:
        return bytes.fromhex(content[len(LINE_HEAD) : _ROW_AT - len(_MIDDLE)].decode()), content[_ROW_AT:-1]
    except ValueError as error:
        raise ChainBrokenError("its link is not hex") from error


def follow(point: ChainPoint, lines: Iterable[bytes]) -> ChainPoint:
    """Check that `lines` of a trail follow `point`, each the one before; where they end.

    Raises:
        ChainBrokenError: one does not; its message names the index.
    """
    for line in lines:
        point = next_point(point, line)
    return point


def next_point(point: ChainPoint, line: bytes) -> ChainPoint:
    """The same of one line.

    Raises:
        ChainBrokenError: its index is not above that of the row before, or its link is not that of both.
    """
    link, row = split_line(line)
    index = index_of(row)
    if index <= point.index:
        raise ChainBrokenError(f"it stands behind index {point.index}", index)
    if next_link(point.link, row) != link:
        raise ChainBrokenError(f"its link does not follow that of index {point.index}", index)
    return ChainPoint(index, link)


def point_of(line: bytes) -> ChainPoint:
    """The row of a line that is not checked. Raises ChainBrokenError: it is no line of a trail."""
    link, row = split_line(line)
    return ChainPoint(index_of(row), link)


class _Indexed(msgspec.Struct):
    index: int


class _LinkedIndex(msgspec.Struct):
    index: int
    link: str


class _Beginning(msgspec.Struct):
    begin: _LinkedIndex


_indexed: Final = msgspec.json.Decoder(_Indexed)
_beginning: Final = msgspec.json.Decoder(_Beginning)


def index_of(row: bytes) -> int:
    """The log index of a row of a trail. Raises ChainBrokenError: it has none."""
    try:
        return _indexed.decode(row).index
    except msgspec.MsgspecError as error:
        raise ChainBrokenError(f"a row has no index: {error}") from error
