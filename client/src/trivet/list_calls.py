"""Lists of files and of versions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import TypeVar

from trivet.calls import Calls, PageT, Rows, pages_of
from trivet.models import FilePage, ListedFile, ListedVersion, Prefix, VersionPage
from trivet.targets import Query, bucket_target

FileRow = ListedFile | Prefix
VersionRow = ListedVersion | Prefix
RowT = TypeVar("RowT", ListedFile | Prefix, ListedVersion | Prefix)


class ListCalls(Calls):
    """See `trivet.AsyncClient`."""

    def list(
        self, bucket: str, prefix: str = "", delimiter: str | None = None, *, details: bool = False
    ) -> Rows[FilePage, FileRow]:
        """The files of a bucket whose keys begin with `prefix`, by key, as they are at one instant.

        Args:
            delimiter: mostly `/`: keys that share everything up to it behind the prefix are one `Prefix`.
            details: rows have `digest` and `user_metadata`, too.
        """
        return Rows(self.list_pages(bucket, prefix, delimiter, details=details), _file_rows)

    def list_pages(
        self,
        bucket: str,
        prefix: str = "",
        delimiter: str | None = None,
        *,
        details: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[FilePage]:
        """As `list`, a page at a time: `limit` rows at most, of which some pages have fewer."""
        query = {"prefix": prefix or None, "delimiter": delimiter, "limit": limit}
        return self._pages(FilePage, bucket, "files", {**query, "details": "true" if details else None})

    def versions(
        self, bucket: str, prefix: str = "", delimiter: str | None = None, *, key: str | None = None
    ) -> Rows[VersionPage, VersionRow]:
        """Versions and delete markers: by key, the newest of each first. With `key` those of one file."""
        return Rows(self.version_pages(bucket, prefix, delimiter, key=key), _version_rows)

    def version_pages(
        self,
        bucket: str,
        prefix: str = "",
        delimiter: str | None = None,
        *,
        key: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[VersionPage]:
        """As `versions`, a page at a time."""
        query = {"prefix": prefix or None, "delimiter": delimiter, "key": key, "limit": limit}
        return self._pages(VersionPage, bucket, "versions", query)

    def _pages(self, kind: type[PageT], bucket: str, below: str, query: Query) -> AsyncIterator[PageT]:
        def read(cursor: str | None) -> Awaitable[PageT]:
            return self._caller.model(kind, "GET", bucket_target(bucket, below, {**query, "cursor": cursor}))

        return pages_of(read)


def _file_rows(page: FilePage) -> Iterable[FileRow]:
    if not page.prefixes:
        return page.files
    return _merged([*page.files, *(Prefix(prefix=prefix) for prefix in page.prefixes)])


def _version_rows(page: VersionPage) -> Iterable[VersionRow]:
    if not page.prefixes:
        return page.versions
    return _merged([*page.versions, *(Prefix(prefix=prefix) for prefix in page.prefixes)])


def _merged(rows: list[RowT]) -> list[RowT]:
    """In the order of their names, by bytes, which is the order of the store; rows of one name stay as they are."""
    return sorted(rows, key=_name)


def _name(row: ListedFile | ListedVersion | Prefix) -> bytes:
    return (row.prefix if isinstance(row, Prefix) else row.key).encode()
