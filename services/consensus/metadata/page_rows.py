"""What one page of any list by key is made of: rows up to a limit, and common prefixes in place of what they stand for. Pure.

Keys are compared as UTF-8 bytes. A common prefix is reported once and then skipped by a new scan from its end, so that a
folder of a million files costs one seek and not a million rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, Self, TypeVar

AFTER_EVERY_KEY: Final = b"\xff"
"""No UTF-8 text begins with this byte."""


class Keyed(Protocol):
    """A row of a list."""

    @property
    def key(self) -> bytes:
        """In UTF-8."""


RowT = TypeVar("RowT", bound=Keyed)
EntryT = TypeVar("EntryT")


@dataclass(slots=True)
class PageRows(Generic[EntryT]):
    """What is collected so far. Invariant: at most `limit` entries and prefixes together."""

    limit: int
    prefix: bytes
    delimiter: bytes | None
    entries: list[EntryT] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    has_more: bool = False
    last_prefix: str | None = None
    """The common prefix that came last; None where an entry did."""

    @classmethod
    def of(cls, limit: int, prefix: str, delimiter: str | None) -> Self:
        """An empty page of a list of keys that begin with `prefix`."""
        return cls(limit, prefix.encode(), delimiter.encode() if delimiter else None)

    @property
    def room(self) -> int:
        """How many entries and prefixes it still takes."""
        return self.limit - len(self.entries) - len(self.prefixes)

    @property
    def last(self) -> EntryT | None:
        """The entry that came last; None where a common prefix did, or nothing."""
        return self.entries[-1] if self.last_prefix is None and self.entries else None

    def common_prefix(self, key: bytes) -> bytes | None:
        """What the list shows instead of `key`; None: `key` itself."""
        return None if self.delimiter is None else common_prefix(key, self.prefix, self.delimiter)

    def add(self, entry: EntryT) -> None:
        """There is room for it."""
        self.entries.append(entry)
        self.last_prefix = None

    def add_prefix(self, prefix: bytes) -> None:
        """There is room for it."""
        self.last_prefix = prefix.decode()
        self.prefixes.append(self.last_prefix)

    def collect(self, rows: Iterator[RowT], entry_of: Callable[[RowT], EntryT]) -> bytes | None:
        """Take rows until the page is full, the rows end (None), or a common prefix ends the scan: where to go on then."""
        entries, room, prefix, delimiter = self.entries, self.room, self.prefix, self.delimiter
        for row in rows:
            if room <= 0:
                self.has_more = True
                return None
            common = None if delimiter is None else common_prefix(row.key, prefix, delimiter)
            if common is not None:
                self.add_prefix(common)
                return end_of_prefix(common)
            entries.append(entry_of(row))
            self.last_prefix = None
            room -= 1
        return None

    def start_behind(self, last_key: str, number: int | None) -> bytes:
        """Where a page goes on whose predecessor ended at `last_key`.

        At the key itself where that ended at a row of it, `number`; else behind it, or behind all that it stands for.
        """
        key = last_key.encode()
        if number is not None:
            return key
        is_prefix = key.startswith(self.prefix) and self.common_prefix(key) == key
        return end_of_prefix(key) if is_prefix else key + b"\x00"


def end_of_prefix(prefix: bytes) -> bytes:
    """The smallest text after everything that begins with `prefix`. The last byte of UTF-8 is never 0xff."""
    return prefix[:-1] + bytes((prefix[-1] + 1,)) if prefix else AFTER_EVERY_KEY


def common_prefix(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    """What a list shows instead of `key`: its beginning up to the first delimiter after `prefix`; None where it has none."""
    at = key.find(delimiter, len(prefix))
    return None if at < 0 else key[: at + len(delimiter)]
