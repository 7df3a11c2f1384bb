"""One page of a list of versions: keys in order, the versions of a key from the latest on.

Keys come from the current files and from the older versions, merged; what a key has is one range scan. So a page costs what it
shows, however many versions a key has, and a common prefix is skipped by one seek. Bodies of current versions are read for what
they are among the versions of their key; a page ends early where these are long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from services.consensus.metadata.older_versions import OlderRow, OlderVersions
from services.consensus.metadata.page_rows import PageRows, end_of_prefix
from services.consensus.metadata.rows import FileRow, decode_identity
from services.consensus.metadata.tables import Tables
from shared.contracts.objects import ListVersions, VersionEntry, VersionPage
from shared.units import MIB

BODY_BYTES_MAX: Final = 8 * MIB
"""Of current versions that one page reads, about."""

_NO_LIMIT: Final = (1 << 63) - 1


class _VersionRows(PageRows[VersionEntry]):
    """Full, too, when long bodies were read for it."""

    body_bytes = 0

    @property
    def room(self) -> int:
        """See `PageRows`."""
        return 0 if self.body_bytes > BODY_BYTES_MAX else super().room


def version_page(tables: Tables, incarnation: int, query: ListVersions) -> VersionPage:
    """The page that `query` asks for, of a bucket that exists."""
    page, walk = _VersionRows.of(query.limit, query.prefix, query.delimiter), _Walk(tables, incarnation)
    has_more = _fill(page, walk, query)
    last = page.last if has_more else None
    return VersionPage(
        has_bucket=True,
        versions=page.entries,
        prefixes=page.prefixes,
        has_more=has_more,
        last_key=(page.last_prefix if has_more else None) if last is None else last.key,
        # By its id: meanwhile it may get another number, and others numbers above its own.
        last_version=None if last is None else last.version_id or last.version,
    )


def _fill(page: _VersionRows, walk: _Walk, query: ListVersions) -> bool:
    """Collect rows; whether there are more."""
    lower, upper = page.prefix, end_of_prefix(page.prefix)
    if query.key is not None:
        lower, upper, page.delimiter = query.key.encode(), query.key.encode() + b"\x00", None
    below = _NO_LIMIT
    if query.after_key is not None:
        start = page.start_behind(query.after_key, query.after_version)
        if start >= lower:
            lower = start
            below = _NO_LIMIT if query.after_version is None else query.after_version
    while (key := walk.next_key(lower, upper)) is not None:
        common = page.common_prefix(key)
        if page.room <= 0:
            return True
        if common is not None:
            page.add_prefix(common)
            lower = end_of_prefix(common)
        else:
            if _add_key(page, walk, key, below if key == lower else _NO_LIMIT):
                return True
            lower = key + b"\x00"
        below = _NO_LIMIT
    return False


def _add_key(page: _VersionRows, walk: _Walk, key: bytes, below: int) -> bool:
    """Add the versions of a key that are known by ids below `below`, as many as there is room for; whether some are left."""
    file = walk.file(key)
    if file is not None and (file.version < below or walk.id_of(file) < below):
        page.add(walk.current(page, file))
    room = page.room
    rows = walk.older.known_below(walk.incarnation, key, below, max(room, 0) + 1)
    for row in rows[: max(room, 0)]:
        page.add(_entry(row))
    return len(rows) > max(room, 0)


class _Walk:
    """The keys and versions of one bucket."""

    def __init__(self, tables: Tables, incarnation: int) -> None:
        self._tables = tables
        self.incarnation = incarnation
        self.older = OlderVersions(tables)
        self._files: Iterator[FileRow] | None = None
        self._file: FileRow | None = None
        self._older_key: bytes | None = None
        self._older_from: bytes | None = None

    def next_key(self, lower: bytes, upper: bytes) -> bytes | None:
        """The first key with lower <= key < upper that has versions or markers."""
        file, older = self._next_file(lower, upper), self._next_older(lower, upper)
        keys = [key for key in (None if file is None else file.key, older) if key is not None]
        return min(keys, default=None)

    def file(self, key: bytes) -> FileRow | None:
        """The current version of the key that `next_key` gave last."""
        return self._file if self._file is not None and self._file.key == key else None

    def id_of(self, file: FileRow) -> int:
        """Version id of a current version."""
        return self._tables.identity(file.version).version_id or file.version

    def current(self, page: _VersionRows, file: FileRow) -> VersionEntry:
        """The entry of a current version."""
        body = self._tables.version_body(file.version)
        page.body_bytes += len(body)
        identity = decode_identity(body)
        return VersionEntry(
            file.key.decode(),
            file.version,
            identity.version_id,
            is_current=True,
            is_marker=False,
            is_null=identity.is_null,
            size_bytes=file.size_bytes,
            etag=file.etag,
            content_type=file.content_type,
            modified_ns=file.modified_ns,
            stored_ns=file.modified_ns if file.stored_ns is None else file.stored_ns,
            s3_etag=file.s3_etag,
            storage_class=file.storage_class,
        )

    def _next_file(self, lower: bytes, upper: bytes) -> FileRow | None:
        """Taken from one scan, as long as that is a row further on; a prefix that is skipped begins another one."""
        if self._file is not None and self._file.key >= lower:
            return self._file
        if self._files is not None:
            self._file = next(self._files, None)
            if self._file is None or self._file.key >= lower:
                return self._file
        self._files = self._tables.scan_files(self.incarnation, lower, upper)
        self._file = next(self._files, None)
        return self._file

    def _next_older(self, lower: bytes, upper: bytes) -> bytes | None:
        is_known = self._older_from is not None and self._older_from <= lower
        if not is_known or (self._older_key is not None and self._older_key < lower):
            self._older_from, self._older_key = lower, self.older.next_key(self.incarnation, lower, upper)
        return self._older_key


def _entry(row: OlderRow) -> VersionEntry:
    return VersionEntry(
        row.key.decode(),
        row.version,
        row.version_id,
        is_current=row.superseded_index is None,
        is_marker=bool(row.is_marker),
        is_null=bool(row.is_null),
        size_bytes=row.size_bytes,
        etag=row.etag,
        content_type=row.content_type,
        modified_ns=row.modified_ns,
        stored_ns=row.modified_ns if row.stored_ns is None else row.stored_ns,
        s3_etag=row.s3_etag,
        storage_class=row.storage_class,
    )
