"""The audit trail as operators read it: pages by log index, and a check of the chain, page by page.

The trail is made by the log (`shared.contracts.audit`). What is checked here is what the leading member holds; that the others
hold the same, members find out by comparing their states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.gateway.ports import Metadata
from shared.audit_chain import ChainBrokenError, ChainPoint, next_point
from shared.contracts.audit import AUDIT_PAGE_MAX, AuditPage, AuditPoint, ListAudit

VERIFY_ROWS_MAX: Final = 100_000
"""Rows that one call checks at most: about a second."""


@dataclass(frozen=True, slots=True)
class TrailCheck:
    """What was checked, from `begin` to `end`.

    Attributes:
        rows: how many there were between them.
        head: the last row of the trail, when the last page was read.
        problem: what does not fit behind `end`; None when everything does.
        broken_index: of the first row that does not fit, where it has one.
    """

    begin: ChainPoint
    end: ChainPoint
    head: ChainPoint
    rows: int = 0
    problem: str | None = None
    broken_index: int | None = None

    @property
    def next_after(self) -> int | None:
        """Where to go on; None at the end of the trail, or where it is broken."""
        return None if self.problem is not None or self.end == self.head else self.end.index


class AuditTrail:
    """Each call is one or more linearizable reads."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    async def page(self, after: int, limit: int = AUDIT_PAGE_MAX) -> AuditPage:
        """Rows after an index."""
        page, _ = await self._metadata.read(ListAudit(after=after, limit=limit))
        return page

    async def verify(self, after: int, rows_max: int) -> TrailCheck:
        """Recompute the chain from the row at `after`, or from where the kept part begins, over about so many rows."""
        page = await self.page(after)
        begin = point = _point(page.begin)
        rows = 0
        while True:
            lines = page.lines.encode().splitlines()
            for line in lines:
                try:
                    point = next_point(point, line)
                except ChainBrokenError as error:
                    return TrailCheck(begin, point, _point(page.head), rows, str(error), error.index)
                rows += 1
            head = _point(page.head)
            if not lines or rows >= rows_max:
                break
            page = await self.page(point.index)
            if (expected := _point(page.begin)) != point:
                if expected.index <= point.index:
                    reason = "its link is another one than before"
                    return TrailCheck(begin, point, _point(page.head), rows, reason, expected.index)
                # The kept part begins later by now: rows were cut that were checked, or would have been.
                begin, point, rows = expected, expected, 0
        if not page.lines and point != head:
            return TrailCheck(begin, point, head, rows, "the rows before the last one are missing", head.index)
        return TrailCheck(begin, point, head, rows)


def _point(point: AuditPoint) -> ChainPoint:
    return ChainPoint(point.index, bytes.fromhex(point.link))
