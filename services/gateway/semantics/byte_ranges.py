"""Which bytes a GET asks for, as a pure decision over its headers (RFC 9110 section 14).

A set of ranges is an old way to make a server send far more than the file holds, from one short header (section 17.15);
so their number is bounded, and together they may not ask for more bytes than there are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.gateway.semantics.parameters import EXAMPLE_ETAG, Header
from shared.errors import RangeNotSatisfiableError

MAX_RANGES: Final = 16
RANGES: Final = (
    Header(
        "Range",
        f"Ranges of bytes, e.g. `bytes=0-99` or `bytes=0-0,-1`: at most {MAX_RANGES}, together not more than the file.",
        "bytes=0-99",
    ),
    Header("If-Range", "The range only if this is the current entity tag, else the whole file.", EXAMPLE_ETAG),
)
"""What `requested_spans` reads."""

_UNIT: Final = re.compile(r"bytes=", re.IGNORECASE)
_SPEC: Final = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)")
_MAX_DIGITS: Final = 19
_BEYOND: Final = 10**_MAX_DIGITS
"""Behind the end of every file; longer numbers are not worth reading."""


@dataclass(frozen=True, slots=True)
class ByteSpan:
    """Bytes `start` to `stop` of a file, `stop` excluded. Invariant: 0 <= start < stop <= size."""

    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        """How many they are."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class _First:
    """From byte `first` to `last`, or to the end."""

    first: int
    last: int | None

    def within(self, size_bytes: int) -> ByteSpan | None:
        stop = size_bytes if self.last is None else min(self.last + 1, size_bytes)
        return ByteSpan(self.first, stop) if self.first < stop else None


@dataclass(frozen=True, slots=True)
class _Suffix:
    """The last `length` bytes."""

    length: int

    def within(self, size_bytes: int) -> ByteSpan | None:
        start = max(0, size_bytes - self.length)
        return ByteSpan(start, size_bytes) if start < size_bytes else None


def requested_spans(headers: Mapping[str, str], size_bytes: int, etag: str) -> list[ByteSpan] | None:
    """The ranges to answer with 206, in the order asked for, or None for the whole file.

    A Range of another unit or against the grammar is ignored, as section 14.2 allows; of several ranges, those behind the
    end are left out. If-Range holds only for the exact strong tag; a date is never exact enough here.

    Raises:
        RangeNotSatisfiableError: no byte of them exists, or they are more than `MAX_RANGES`, or more bytes than the file.
    """
    if headers.get("if-range", f'"{etag}"') != f'"{etag}"':
        return None
    wanted = _ranges(headers.get("range", ""))
    if wanted is None:
        return None
    if len(wanted) > MAX_RANGES:
        raise RangeNotSatisfiableError(f"A request has at most {MAX_RANGES} ranges.", size_bytes=size_bytes)
    spans = [span for part in wanted if (span := part.within(size_bytes)) is not None]
    if not spans:
        raise RangeNotSatisfiableError("No byte of that range exists.", size_bytes=size_bytes)
    if sum(span.size_bytes for span in spans) > size_bytes:
        raise RangeNotSatisfiableError("The ranges ask for more bytes than the file has.", size_bytes=size_bytes)
    return spans


def _ranges(value: str) -> list[_First | _Suffix] | None:
    """What a Range header asks for; None when it is to be ignored. The edge has bounded its length."""
    unit = _UNIT.match(value)
    if unit is None:
        return None
    # Empty elements of a list count for nothing (section 5.6.1).
    texts = [text for element in value[unit.end() :].split(",") if (text := element.strip(" \t"))]
    ranges = [_range(text) for text in texts]
    known = [part for part in ranges if part is not None]
    return known if known and len(known) == len(ranges) else None


def _range(text: str) -> _First | _Suffix | None:
    match = _SPEC.fullmatch(text)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return _Suffix(_number(suffix))
    if last and _number(last) < _number(first):
        return None
    return _First(_number(first), _number(last) if last else None)


def _number(digits: str) -> int:
    return int(digits) if len(digits) <= _MAX_DIGITS else _BEYOND
