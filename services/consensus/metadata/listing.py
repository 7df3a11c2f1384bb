"""One page of a list: prefix, delimiter, limit and where to go on. Pure; rows come from a `scan` that is given.

Where a scan has to walk over many rows that the page does not
show, the page ends early: it may hold fewer keys than its limit, or none, and still say that there is more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from services.consensus.metadata.page_rows import PageRows, end_of_prefix
from services.consensus.metadata.rows import FileRow
from shared.contracts.metadata import FileEntry, FilePage, ListFiles

Scan = Callable[[bytes, bytes], Iterator[FileRow]]
"""Files with lower <= key < upper, in key order, fetched as they are taken."""

EndOfScan = Callable[[bytes, bytes], bytes | None]
"""The key between lower and upper up to which one page may scan; None when it may go to `upper`."""


def list_page(query: ListFiles, at_index: int, scan: Scan, end_of_scan: EndOfScan | None = None) -> FilePage:
    """The page that `query` asks for, of a bucket that exists."""
    page = PageRows[FileEntry].of(query.limit, query.prefix, query.delimiter)
    upper = end_of_prefix(page.prefix)
    lower: bytes | None = max(page.prefix, _start(query))
    walked: bytes | None = None
    while lower is not None and lower < upper:
        last = None if end_of_scan is None else end_of_scan(lower, upper)
        lower = page.collect(scan(lower, upper if last is None else last + b"\x00"), _entry)
        if last is not None and lower is None and not page.has_more:
            # Nothing else up to that key belongs to the list; what comes after it is for the next page.
            page.has_more, walked = True, last
    last_key = None if page.last is None else page.last.key
    if walked is not None:
        last_key = walked.decode()
    return FilePage(
        has_bucket=True,
        files=page.entries,
        prefixes=page.prefixes,
        has_more=page.has_more,
        last_key=last_key,
        last_prefix=None if last_key is not None else page.last_prefix,
        at_index=at_index,
    )


def _start(query: ListFiles) -> bytes:
    """The first key that the page may contain; with both positions given, the later one."""
    after_key = b"" if query.after_key is None else query.after_key.encode() + b"\x00"
    after_prefix = end_of_prefix(query.after_prefix.encode()) if query.after_prefix else b""
    return max(after_key, after_prefix)


def _entry(row: FileRow) -> FileEntry:
    key, version, size_bytes, etag, content_type, modified_ns, stored_ns, s3_etag, storage_class = row
    return FileEntry(
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
