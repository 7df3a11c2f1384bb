"""The audit trail: a row for every change that is made for somebody, each chained to the one before (C-170).

Which proposals get a row: those that name a requester and are decided by their entry, made or refused. One that is answered
from a stored result changes nothing, and its first time has a row.

Rows are no part of the content sum. The chain does what the sum does, and its two ends are part of the state: members compare
them with everything else. The old end is cut by the log's own clock, or when the rows are too large together: the last row
that is cut stays as the anchor, with its index and link and without what it said. A file that was exported before the cut ends
at that link or passes it, and so proves what was cut, and the anchor proves the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

from services.consensus.metadata.audit_rows import encode_audit_row
from services.consensus.metadata.database import Database, RowDamagedError
from services.consensus.metadata.rows import NO_TRAIL, TrailEnd, TrailEnds
from shared.audit_chain import NO_LINK, next_link, to_line
from shared.contracts.access import Requester
from shared.contracts.audit import AuditPage, AuditPoint, ListAudit
from shared.contracts.base import WireModel
from shared.contracts.metadata import AnyCommand
from shared.contracts.time import Stamp
from shared.errors import TrivetError
from shared.units import KIB, MIB

AUDIT_PAGE_BYTES: Final = 256 * KIB
"""Lines of one answer, but for a row that is longer."""

CUT_ROWS_MAX: Final = 1000
CUT_BYTES_MAX: Final = MIB
"""Cut by one entry; one row at least."""

_ENDS: Final = (
    "SELECT * FROM (SELECT log_index, end_bytes, link, length(row) FROM audit ORDER BY log_index LIMIT 1) UNION ALL "
    "SELECT * FROM (SELECT log_index, end_bytes, link, length(row) FROM audit ORDER BY log_index DESC LIMIT 1)"
)
_FOLLOWING: Final = "SELECT log_index, link, row FROM audit WHERE log_index>? ORDER BY log_index LIMIT ?"


class Trail:
    """The trail during one write transaction. What is recorded is written by `flush`.

    Invariant: `ends` are those of all that was recorded, written or not.
    """

    def __init__(self, database: Database, ends: TrailEnds) -> None:
        self._database = database
        self._anchor = ends.anchor
        self._index, self._end_bytes, self._link = ends.head
        self._rows: list[tuple[int, int, bytes, bytes]] = []

    @property
    def ends(self) -> TrailEnds:
        """Where the kept part begins, and the last row."""
        return TrailEnds(self._anchor, TrailEnd(self._index, self._end_bytes, self._link))

    def record(
        self, index: int, stamp: Stamp, requester: Requester, command: AnyCommand, outcome: WireModel | TrivetError
    ) -> None:
        """A change was decided by the entry at `index`."""
        row = encode_audit_row(index, stamp, requester, command, outcome)
        self._index = index
        self._end_bytes += len(row)
        self._link = next_link(self._link, row)
        self._rows.append((index, self._end_bytes, self._link, row))

    def flush(self) -> None:
        """Write what was recorded."""
        if self._rows:
            self._database.connection.executemany("INSERT INTO audit VALUES (?, ?, ?, ?)", self._rows)
            self._rows = []

    def cut(self, up_to_index: int, limit_bytes: int) -> bool:
        """Cut rows up to an index, and those by which the rest is longer than the limit; whether there is more to cut."""
        self.flush()
        before = self._anchor
        anchor, has_more, count = before, False, 0
        select = "SELECT log_index, end_bytes, link FROM audit WHERE log_index>? ORDER BY log_index"
        rows = self._database.execute(select, (before.log_index,))
        for row in rows:
            end = TrailEnd(*row)
            if end.log_index > up_to_index and self._end_bytes - anchor.end_bytes <= limit_bytes:
                break
            if count >= CUT_ROWS_MAX or (count and end.end_bytes - before.end_bytes > CUT_BYTES_MAX):
                has_more = True
                break
            anchor, count = end, count + 1
        rows.close()
        if count:
            self._database.execute("DELETE FROM audit WHERE log_index<?", (anchor.log_index,))
            self._database.execute("UPDATE audit SET row=x'' WHERE log_index=?", (anchor.log_index,))
            self._anchor = anchor
        return has_more


def read_ends(database: Database) -> TrailEnds:
    """Both ends of what is written."""
    rows = database.execute(_ENDS).fetchall()
    if not rows:
        return NO_TRAIL
    (*first, first_bytes), (*last, _) = rows
    return TrailEnds(TrailEnd(*first) if first_bytes == 0 else TrailEnd(), TrailEnd(*last))


def list_audit(database: Database, query: ListAudit) -> AuditPage:
    """One page. Links are not checked here: whoever verifies the trail is to see what is written."""
    ends = read_ends(database)
    begin = _begin(database, ends, query.after)
    lines: list[bytes] = []
    size_bytes, last_index = 0, begin.log_index
    rows = database.execute(_FOLLOWING, (begin.log_index, query.limit))
    for index, link, row in rows:
        lines.append(to_line(link, row))
        size_bytes, last_index = size_bytes + len(lines[-1]), index
        if size_bytes >= AUDIT_PAGE_BYTES:
            break
    rows.close()
    return AuditPage(
        begin=_point(begin),
        # What is not ASCII was changed behind our back: it is shown, and breaks the chain.
        lines=b"".join(lines).decode("ascii", errors="replace"),
        last_index=last_index,
        head=_point(ends.head),
    )


def _begin(database: Database, ends: TrailEnds, after: int) -> TrailEnd:
    row = database.one(
        "SELECT log_index, end_bytes, link FROM audit WHERE log_index<=? ORDER BY log_index DESC LIMIT 1", (after,)
    )
    return ends.anchor if row is None else TrailEnd(*row)


def _point(end: TrailEnd) -> AuditPoint:
    return AuditPoint(index=end.log_index, link=end.link.hex())


def check_trail(database: Database) -> TrailEnds:
    """Recompute the whole chain; its ends.

    Raises:
        RowDamagedError: a row does not follow the one before.
    """
    rows = database.execute("SELECT log_index, end_bytes, link, row FROM audit ORDER BY log_index")
    for _ in _checked(rows):
        pass
    return read_ends(database)


def trail_pages(database: Database, page_rows: int) -> Iterator[int]:
    """Check the chain a page at a time, while it may be cut and go on; how many rows there were in each.

    Raises:
        RowDamagedError: a row does not follow the one before.
    """
    after = 0
    while True:
        # From the last row of the page before, if it is still there.
        select = "SELECT log_index, end_bytes, link, row FROM audit WHERE log_index>=? ORDER BY log_index LIMIT ?"
        rows = database.execute(select, (after, page_rows + 1)).fetchall()
        indexes = list(_checked(iter(rows), is_continued=after > 0))
        if not indexes or indexes[-1] == after:
            return
        after = indexes[-1]
        yield len(indexes)


def _checked(
    rows: Iterator[tuple[int, int, bytes, bytes]] | sqlite3.Cursor, *, is_continued: bool = False
) -> Iterator[int]:
    """The indexes of rows that follow each other. The first is the anchor, the first of all, or was checked before."""
    end_bytes, link, is_first = 0, NO_LINK, True
    for index, row_end_bytes, row_link, row in rows:
        is_known = is_first and (is_continued or not row)
        if not is_known and (next_link(link, row) != row_link or end_bytes + len(row) != row_end_bytes):
            raise RowDamagedError(f"the audit trail is damaged at index {index}")
        end_bytes, link, is_first = row_end_bytes, row_link, False
        yield index
