"""Reads the tables back: every row against its checksum, all of them together against the state's sum, and the chained trail.

`verify` proves a whole file (a copy, a backup, a file that comes from elsewhere): the sum also tells a row that is missing or
that does not belong there. `Scrub` looks at a few rows at a time while the member works; it finds rows that rotted, and costs
no transaction that would hold up the write-ahead file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services.consensus.metadata.audit import check_trail, trail_pages
from services.consensus.metadata.database import Database, RowDamagedError, checked
from services.consensus.metadata.rows import State
from services.consensus.metadata.schema import CHECKED_TABLES, KEY_LENGTHS, USAGE, USAGE_COLUMNS, Row
from services.consensus.metadata.tables import Tables, refs_sum
from services.consensus.metadata.usage import check_usage
from shared.units import MIB

_CACHE_BYTES: Final = 2 * MIB
_PAGE_ROWS: Final = 250


def verify(path: Path) -> State:
    """Check every row of the file at `path`, which nobody need hold still; a second or two per 300,000 files.

    Raises:
        RowDamagedError: a row is damaged, missing, or one too many.
        UnknownTablesError, sqlite3.DatabaseError: it cannot be read at all.
    """
    # Not brought up to date: a backup of an older version must stay the file that its manifest proves.
    tables = Tables.open(path, cache_bytes=_CACHE_BYTES, converts=False)
    try:
        with tables.database.transaction(write=False):
            state = tables.read_state()
            tables.database.content_sum = _sum_of_rows(tables.database)
            if tables.database.signed_sum() != state.content_sum:
                raise RowDamagedError("the rows do not add up to what the state says: one is missing, or one too many")
            present = _tables_of(tables.database)
            if "audit" in present:
                check_trail(tables.database)
            if USAGE in present:
                check_usage(tables.database)
            return state
    finally:
        tables.database.close()


def _sum_of_rows(database: Database) -> int:
    total = 0
    present = _tables_of(database)
    for table, columns in CHECKED_TABLES.items():
        if table not in present:
            continue  # a later version added it; rows that are missing are missed in the sum
        known = _columns_of(database, table)
        names = ", ".join(column for column in (*columns, "checksum") if column in known)
        for row in database.execute(f"SELECT {names} FROM {table}"):  # noqa: S608 (our own constants)
            checked(table, row)
            total += row[-1]
    for digest, version, size_bytes in database.execute("SELECT digest, version, size_bytes FROM chunk_refs"):
        total += refs_sum(version, [(digest, size_bytes)])
    return total


def _tables_of(database: Database) -> set[str]:
    return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")}


def _columns_of(database: Database, table: str) -> set[str]:
    """Tables of an earlier version lack those that came later."""
    return {name for (name,) in database.execute("SELECT name FROM pragma_table_info(?)", (table,))}


class Scrub:
    """Checks all rows once, `_PAGE_ROWS` at a time, in the order of their keys."""

    def __init__(self, tables: Tables) -> None:
        self._pages = self._all(tables.database)

    def next_page(self) -> int:
        """Check some rows; how many there were, 0 at the end. Raises RowDamagedError, sqlite3.DatabaseError."""
        return next(self._pages, 0)

    def _all(self, database: Database) -> Iterator[int]:
        for table, columns in (*CHECKED_TABLES.items(), (USAGE, USAGE_COLUMNS)):
            key = columns[: KEY_LENGTHS.get(table, 1)]
            names, places = ", ".join(key), ", ".join("?" * len(key))
            select = f"SELECT {', '.join(columns)}, checksum FROM {table}"  # noqa: S608 (our own constants)
            after: Row | None = None
            while True:
                where = "" if after is None else f"WHERE ({names})>({places})"
                rows = database.execute(f"{select} {where} ORDER BY {names} LIMIT ?", (*(after or ()), _PAGE_ROWS))
                page = rows.fetchall()
                if not page:
                    break
                for row in page:
                    checked(table, row)
                after = page[-1][: len(key)]
                yield len(page)
        yield from trail_pages(database, _PAGE_ROWS)
