"""The rows of what was: superseded and deleted versions, tombstones, the log's own clock, and what waits to be forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from services.consensus.metadata.database import checked, checked_all
from services.consensus.metadata.rows import FileRow, PastRow, TombstoneRow
from services.consensus.metadata.tables import Tables

SCAN_ROWS_MAX: Final = 20_000
"""Past rows that one page of a pinned list walks over at most; those that it must not show cost time all the same."""

_LISTED: Final = "size_bytes, etag, content_type, modified_ns, stored_ns, s3_etag, storage_class, checksum"
_PAST_COLUMNS: Final = f"incarnation, key, version, deleted_index, {_LISTED}"
_FILES_COLUMNS: Final = f"incarnation, key, version, NULL, {_LISTED}"
_RANGE: Final = "WHERE incarnation=? AND key>=? AND key<? AND version<=?"
# Both halves are in key order already, so SQLite merges them without sorting.
_AS_OF: Final = (
    f"SELECT {_FILES_COLUMNS} FROM files {_RANGE} UNION ALL "  # noqa: S608 (our own constants)
    f"SELECT {_PAST_COLUMNS} FROM past {_RANGE} AND deleted_index>? ORDER BY key"
)
_KEPT: Final = "SELECT version, checksum FROM kept WHERE version IN (VALUES {values})"


class History:
    """What is not there any more, on the same connection as `tables`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._database = tables.database
        self._execute = tables.database.execute
        self._one = tables.database.one

    # --- versions -------------------------------------------------------------------------------------------------

    def add(self, incarnation: int, file: FileRow, deleted_index: int) -> None:
        """`file` was superseded or deleted by `deleted_index`; its chunks stay referenced."""
        self._database.insert("past", incarnation, file.key, file.version, deleted_index, *file[2:])

    def add_each(self, incarnation: int, files: Iterable[FileRow], deleted_index: int) -> None:
        """`add` of many."""
        rows = ((incarnation, file.key, file.version, deleted_index, *file[2:]) for file in files)
        self._database.insert_many("past", rows)

    def oldest(self, up_to_index: int, limit: int) -> list[PastRow]:
        """The first rows that were superseded or deleted, none after `up_to_index`."""
        rows = self._execute(
            f"SELECT {_PAST_COLUMNS} FROM past WHERE deleted_index<=? ORDER BY deleted_index LIMIT ?",  # noqa: S608
            (up_to_index, limit),
        )
        return list(map(PastRow._make, checked_all("past", rows.fetchall())))

    def remove(self, rows: Sequence[PastRow]) -> None:
        """Forget these; the versions themselves are released or doomed."""
        self._database.remove_many("past", rows)

    def scan_as_of(self, incarnation: int, lower: bytes, upper: bytes, at_index: int) -> Iterator[FileRow]:
        """Files with lower <= key < upper by key as of `at_index`; rows are fetched as they are taken."""
        bounds = (incarnation, lower, upper, at_index)
        rows = self._execute(_AS_OF, (*bounds, *bounds, at_index))
        try:
            for row in rows:
                if row[3] is None:
                    incarnation, key, version, _, *rest = row
                    yield FileRow(*checked("files", (incarnation, key, version, *rest))[1:])
                else:
                    columns = checked("past", row)
                    yield FileRow(columns[1], columns[2], *columns[4:])
        finally:
            rows.close()

    def end_of_scan(self, incarnation: int, lower: bytes, upper: bytes) -> bytes | None:
        """The key after which a pinned list has walked over `SCAN_ROWS_MAX` past rows from `lower`; None: not before `upper`."""
        row = self._one(
            "SELECT key FROM past WHERE incarnation=? AND key>=? AND key<? ORDER BY key, version LIMIT 1 OFFSET ?",
            (incarnation, lower, upper, SCAN_ROWS_MAX),
        )
        return None if row is None else row[0]

    # --- tombstones -----------------------------------------------------------------------------------------------

    def tombstone(self, bucket_name: str, key: bytes) -> TombstoneRow | None:
        """The last deletion of an absent key, in this bucket or in an earlier one of the same name."""
        row = self._one(
            "SELECT bucket, key, deleted_index, modified_ns, checksum FROM tombstones WHERE bucket=? AND key=?",
            (bucket_name, key),
        )
        return None if row is None else TombstoneRow(*checked("tombstones", row))

    def insert_tombstone(self, row: TombstoneRow) -> None:
        """A key is absent from now on."""
        self._database.insert("tombstones", *row)

    def insert_tombstones(self, rows: Iterable[TombstoneRow]) -> None:
        """Many keys are."""
        self._database.insert_many("tombstones", rows)

    def remove_tombstone(self, row: TombstoneRow) -> None:
        """The key is there again, or its deletion is forgotten."""
        self._database.remove("tombstones", *row)

    def oldest_tombstones(self, up_to_index: int, limit: int) -> list[TombstoneRow]:
        """The first deletions, none after `up_to_index`."""
        rows = self._execute(
            "SELECT bucket, key, deleted_index, modified_ns, checksum FROM tombstones WHERE deleted_index<=? "
            "ORDER BY deleted_index LIMIT ?",
            (up_to_index, limit),
        )
        return [TombstoneRow(*checked("tombstones", row)) for row in rows.fetchall()]

    def forget_buckets(self, up_to_index: int, limit: int) -> int:
        """Drop the rows of buckets that were deleted, none after `up_to_index`; how many there were."""
        rows = self._execute(
            "SELECT incarnation, name, created_ns, deleted_index, checksum FROM buckets "
            "WHERE deleted_index IS NOT NULL AND deleted_index<=? ORDER BY deleted_index LIMIT ?",
            (up_to_index, limit),
        ).fetchall()
        for row in rows:
            self._database.remove("buckets", *checked("buckets", row))
        return len(rows)

    # --- what waits to be forgotten -------------------------------------------------------------------------------

    def doomed(self, limit: int) -> list[tuple[int, int]]:
        """(version, number of its chunk references dropped already), oldest first."""
        rows = self._execute("SELECT version, next_chunk, checksum FROM doomed ORDER BY version LIMIT ?", (limit,))
        return [(version, dropped) for version, dropped in checked_all("doomed", rows.fetchall())]

    def doom(self, *versions: int) -> None:
        """Nothing shows these versions or needs their chunks any more."""
        self._database.insert_many("doomed", [(version, 0) for version in versions])

    def drop_whole(self, versions: Sequence[int]) -> None:
        """These, of which nothing was dropped before, need no more of it."""
        self._database.remove_many("doomed", [(version, 0) for version in versions])

    def replace_doomed(self, version: int, next_chunk: int, *, done: int | None) -> None:
        """So many chunk references are dropped; None: the version needs no more of this."""
        self._database.remove("doomed", version, next_chunk)
        if done is not None:
            self._database.insert("doomed", version, done)

    def keep(self, *versions: int) -> None:
        """The bodies stay until the requests that made them are forgotten."""
        self._database.insert_many("kept", [(version,) for version in versions])

    def release(self, versions: Iterable[int]) -> list[int]:
        """Those of the versions that were only `kept`; they are not any more."""
        found = list(checked_all("kept", self._database.matching(_KEPT, versions)))
        self._database.remove_many("kept", found)
        return [version for (version,) in found]

    # --- the log's own clock --------------------------------------------------------------------------------------

    def add_moment(self, lived_ms: int, log_index: int) -> None:
        """The entry at `log_index` was applied when leaders had led for `lived_ms` in all."""
        self._database.insert("moments", lived_ms, log_index)

    def index_at(self, lived_ms: int) -> int:
        """The last index that was applied at that age of the cluster at the latest; 0 when none is remembered."""
        row = self._one(
            "SELECT lived_ms, log_index, checksum FROM moments WHERE lived_ms<=? ORDER BY lived_ms DESC LIMIT 1",
            (lived_ms,),
        )
        return 0 if row is None else int(checked("moments", row)[1])

    def forget_moments(self, lived_ms: int, limit: int) -> None:
        """Keep the last moment before `lived_ms` and everything after it."""
        rows = self._execute(
            "SELECT lived_ms, log_index, checksum FROM moments WHERE lived_ms<(SELECT max(lived_ms) FROM moments "
            "WHERE lived_ms<=?) ORDER BY lived_ms LIMIT ?",
            (lived_ms, limit),
        )
        for row in rows.fetchall():
            self._database.remove("moments", *checked("moments", row))
