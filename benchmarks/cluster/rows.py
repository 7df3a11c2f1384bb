"""The rows of the benchmark: which requests, how large, from how many clients, for how long. Pure.

A row lasts a time and not a number of requests, so that a tree three times as fast does not end within the noise, and
a run keeps its length. It is short, and rounds are many: a shared machine changes its speed by a tenth or two every ten
seconds or so, which longer rows do not average out and more rounds do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from benchmarks.cluster.errors import BenchmarkError
from shared.units import KIB, MIB

LISTED_KEYS: Final = 1000
IDLE: Final = "idle"
"""The row without requests: CPU of the cluster while nothing is asked of it."""


class Operation(StrEnum):
    """What the requests of a row do; the value is the HTTP method but for a list."""

    PUT = "PUT"
    GET = "GET"
    HEAD = "HEAD"
    DELETE = "DELETE"
    LIST = "LIST"


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        size_bytes: of each file.
        clients: connections, each with one request at a time.
        duration_s: how long requests are sent; ignored for one file through curl.
        at_most: requests, after which the row ends early; bounds what one round writes.
        is_curl: one file in one request by curl; figures are then per MiB.
        is_read_once: a GET of each file at most once, of files that no other row has read: nothing comes out of a cache.
        is_s3: it goes to the S3 port and not to `/v1`.
        file_count: how many files a GET reads again and again, all of them once before the row; None for all of the size.
        floor: the name of the floor that bounds it, see `floors`.
        sensitivity: where the gauge's work costs x times as much, requests cost x to this power (`sensitivity.py`).
    """

    name: str
    operation: Operation
    size_bytes: int
    clients: int
    duration_s: float
    at_most: int
    floor: str | None = None
    is_curl: bool = False
    is_read_once: bool = False
    file_count: int | None = None
    is_s3: bool = False
    sensitivity: float = 1.5

    @property
    def unit(self) -> str:
        """What one operation is, in tables."""
        return "MiB" if self.is_curl else "op"

    def count_operations(self, requests: int) -> int:
        """Operations in that many requests."""
        return requests * (self.size_bytes // MIB) if self.is_curl else requests


_SMALL: Final = 4 * KIB
_LARGE: Final = 256 * MIB

ROWS: Final = (
    Row("put-256m", Operation.PUT, _LARGE, 1, 0, 1, "disk-256m", is_curl=True, sensitivity=1.0),
    Row("get-256m", Operation.GET, _LARGE, 1, 0, 1, "serve-256m", is_curl=True, sensitivity=1.25),
    Row("put-1m-x8", Operation.PUT, MIB, 8, 1.25, 120, "disk-1m", sensitivity=1.25),
    Row("get-1m-x8", Operation.GET, MIB, 8, 1.25, 10**6, "serve-1m-x8"),
    Row("put-4k-x16", Operation.PUT, _SMALL, 16, 1.5, 10**6, "disk-4k"),
    Row("get-4k-x16", Operation.GET, _SMALL, 16, 1.5, 1250, "serve-4k-x16", is_read_once=True),
    Row("get-4k-x16-hot", Operation.GET, _SMALL, 16, 1.5, 10**6, file_count=256),
    Row("head-4k-x16", Operation.HEAD, _SMALL, 16, 1.25, 10**6),
    Row("put-4k-x1", Operation.PUT, _SMALL, 1, 1.25, 10**6, "disk-4k", sensitivity=1.75),
    Row("get-4k-x1", Operation.GET, _SMALL, 1, 1.25, 400, "serve-4k-x1", is_read_once=True, sensitivity=1.75),
    Row("list-1000", Operation.LIST, _SMALL, 1, 1.0, 10**6),
    Row("delete-4k-x16", Operation.DELETE, _SMALL, 16, 1.0, 600),
)
"""In the order of running: rows that read find what rows that write have left, and the deletions come last."""

S3_PREFIX: Final = "s3-"
ALL_S3: Final = "s3"
"""In place of names: every row of S3 with the row of `/v1` that it is compared with."""

_S3_COUNTERPARTS: Final = (
    "put-256m",
    "get-256m",
    "put-1m-x8",
    "get-1m-x8",
    "put-4k-x16",
    "get-4k-x16",
    "head-4k-x16",
    "list-1000",
    "delete-4k-x16",
)
_S3_MOST: Final = 4000
"""Requests of one row: each is signed before the row, and they are more than a row has time for."""


def _with_s3(row: Row) -> tuple[Row, ...]:
    if row.name not in _S3_COUNTERPARTS:
        return (row,)
    at_most = min(row.at_most, _S3_MOST) if row.operation is Operation.PUT else row.at_most
    return row, replace(row, name=S3_PREFIX + row.name, is_s3=True, floor=None, at_most=at_most)


ALL_ROWS: Final = tuple(each for row in ROWS for each in _with_s3(row))
"""`ROWS`, and behind each the same row of the S3 port. These run only by name: a run of all of `ROWS` is long enough."""

ROW_NAMES: Final = (*(row.name for row in ALL_ROWS), IDLE)

_SENSITIVITIES: Final = {row.name: row.sensitivity for row in ALL_ROWS}


def sensitivity_of(name: str) -> float:
    """`Row.sensitivity` of the row of that name; 1 of one that this version does not have."""
    return _SENSITIVITIES.get(name, 1.0)


def counterpart_of(row: Row) -> str | None:
    """The name of the row of `/v1` with which a row of S3 is compared."""
    return row.name.removeprefix(S3_PREFIX) if row.is_s3 else None


def choose(names: Sequence[str], *, is_tiny: bool = False) -> tuple[list[Row], bool]:
    """The rows of those names in the order of running, `ROWS` for no name, and whether idle CPU is measured.

    Raises:
        BenchmarkError: there is no row of that name.
    """
    unknown = sorted(set(names) - {*ROW_NAMES, ALL_S3})
    if unknown:
        raise BenchmarkError(f"There is no row {', '.join(unknown)}. Rows: {' '.join(ROW_NAMES)}")
    wanted = set(names) or {*(row.name for row in ROWS), IDLE}
    if ALL_S3 in wanted:
        wanted |= {*_S3_COUNTERPARTS, *(S3_PREFIX + name for name in _S3_COUNTERPARTS)}
    chosen = [row for row in ALL_ROWS if row.name in wanted]
    return [_tiny(row) for row in chosen] if is_tiny else chosen, IDLE in wanted


def _tiny(row: Row) -> Row:
    """A row that only shows that everything works."""
    size_bytes = 4 * MIB if row.is_curl else row.size_bytes
    return replace(row, size_bytes=size_bytes, duration_s=0.2, at_most=min(row.at_most, 20))
