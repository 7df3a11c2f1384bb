"""One page of a list: prefix, delimiter, limit and where to go on. Pure; rows come from a `scan` that is given.

Keys are compared as UTF-8 bytes. A common prefix is reported once and then skipped by a new scan from its end, so that a
folder of a million files costs one seek and not a million rows. Where a scan has to walk over many rows that the page does not
show, the page ends early: it may hold fewer keys than its limit, or none, and still say that there is more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from services.consensus.metadata.rows import FileRow
from shared.contracts.metadata import FileEntry, FilePage, ListFiles

AFTER_EVERY_KEY: Final = b"\xff"
"""No UTF-8 text begins with this byte."""

Scan = Callable[[bytes, bytes], Iterator[FileRow]]
"""Files with lower <= key < upper, in key order, fetched as they are taken."""

EndOfScan = Callable[[bytes, bytes], bytes | None]
"""The key between lower and upper up to which one page may scan; None when it may go to `upper`."""


@dataclass(slots=True)
class _Page:
    """What is collected so far. Invariant: at most `limit` files and prefixes together."""

    limit: int
    files: list[FileEntry] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    has_more: bool = False
    last_key: str | None = None
    last_prefix: str | None = None

    @property
    def room(self) -> int:
        """How many files and prefixes it still takes."""
        return self.limit - len(self.files) - len(self.prefixes)

    def add_prefix(self, prefix: bytes) -> None:
        self.prefixes.append(prefix.decode())
        self.last_key, self.last_prefix = None, self.prefixes[-1]

    def end_early(self, last: bytes) -> None:
        """Nothing else up to the key `last` belongs to the list; what comes after it is for the next page."""
        self.has_more = True
        self.last_key, self.last_prefix = last.decode(), None


def list_page(query: ListFiles, at_index: int, scan: Scan, end_of_scan: EndOfScan | None = None) -> FilePage:
    """The page that `query` asks for, of a bucket that exists."""
    page = _Page(query.limit)
    prefix = query.prefix.encode()
    delimiter = query.delimiter.encode() if query.delimiter else None
    upper = end_of_prefix(prefix)
    lower: bytes | None = max(prefix, _start(query))
    while lower is not None and lower < upper:
        last = None if end_of_scan is None else end_of_scan(lower, upper)
        lower = _collect(page, scan(lower, upper if last is None else last + b"\x00"), prefix, delimiter)
        if last is not None and lower is None and not page.has_more:
            page.end_early(last)
    return FilePage(
        has_bucket=True,
        files=page.files,
        prefixes=page.prefixes,
        has_more=page.has_more,
        last_key=page.last_key,
        last_prefix=page.last_prefix,
        at_index=at_index,
    )


def end_of_prefix(prefix: bytes) -> bytes:
    """The smallest text after everything that begins with `prefix`. The last byte of UTF-8 is never 0xff."""
    return prefix[:-1] + bytes((prefix[-1] + 1,)) if prefix else AFTER_EVERY_KEY


def _start(query: ListFiles) -> bytes:
    """The first key that the page may contain; with both positions given, the later one."""
    after_key = b"" if query.after_key is None else query.after_key.encode() + b"\x00"
    after_prefix = end_of_prefix(query.after_prefix.encode()) if query.after_prefix else b""
    return max(after_key, after_prefix)


def _collect(page: _Page, rows: Iterator[FileRow], prefix: bytes, delimiter: bytes | None) -> bytes | None:
    """Take rows until the page is full, the rows end (None), or a common prefix ends the scan: where to go on then."""
    files, room = page.files, page.room
    for key, version, size_bytes, etag, content_type, modified_ns, stored_ns, s3_etag, storage_class in rows:
        if room <= 0:
            page.has_more = True
            return None
        common = None if delimiter is None else common_prefix(key, prefix, delimiter)
        if common is not None:
            page.add_prefix(common)
            return end_of_prefix(common)
        files.append(
            FileEntry(
                key.decode(),
                size_bytes,
                etag,
                version,
                content_type,
                modified_ns,
                modified_ns if stored_ns is None else stored_ns,
                s3_etag,
                storage_class,
            )
        )
        room -= 1
        page.last_key = files[-1].key
        page.last_prefix = None
    return None


def common_prefix(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    """What a list shows instead of `key`: its beginning up to the first delimiter after `prefix`; None where it has none."""
    at = key.find(delimiter, len(prefix))
    return None if at < 0 else key[: at + len(delimiter)]
