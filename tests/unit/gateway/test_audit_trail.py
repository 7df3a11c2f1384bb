"""The audit trail as a gateway reads and checks it, over the real state machine."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest

from services.gateway.audit_trail import AuditTrail
from shared.audit_chain import NO_LINK, ChainPoint
from shared.contracts.access import Requester
from shared.contracts.audit import AuditPage, ListAudit
from shared.contracts.metadata import CreateBucket, PassTime

ANN = Requester(principal="a" * 64, request="req-1", address="192.0.2.7")


class ShortPages:
    """Metadata whose pages have few rows, and what happens between two of them."""

    def __init__(self, metadata: Any, rows: int) -> None:
        self._metadata = metadata
        self._rows = rows
        self.between: list[Any] = []

    async def read(self, query: ListAudit) -> Any:
        answer = await self._metadata.read(query.model_copy(update={"limit": self._rows}))
        if self.between:
            await self.between.pop(0)()
        return answer


@pytest.fixture
async def audited(world):
    """Ten buckets, made by somebody, and what nobody made between them."""
    await world.metadata.upgrade(world.clock)
    for number in range(10):
        await make_bucket(world, number)
        await world.metadata.propose(CreateBucket(bucket="default", stamp=world.clock.stamp()))
    return world


async def make_bucket(world, number: int) -> None:
    await world.metadata.propose(CreateBucket(bucket=f"b{number:02}", stamp=world.clock.stamp()), requester=ANN)


async def cut(world, limit_bytes: int) -> None:
    await world.metadata.propose(
        PassTime(
            elapsed_ms=1,
            cursor_retention_s=900,
            tombstone_retention_s=900,
            audit_retention_s=3600,
            audit_limit_bytes=limit_bytes,
            stamp=world.clock.stamp(),
        )
    )


def change(world, statement: str) -> None:
    connection = sqlite3.connect(world.metadata.store.path, isolation_level=None)
    connection.execute(statement)
    connection.close()


async def rows_of(world, after: int = 0) -> list[dict[str, Any]]:
    page = await world.services.audit.page(after)
    return [json.loads(line)["row"] for line in page.lines.splitlines()]


async def test_a_page_shows_who_changed_what(audited) -> None:
    """By log index, from behind the one that is named."""
    rows = await rows_of(audited)
    assert [row["bucket"] for row in rows] == [f"b{number:02}" for number in range(10)]
    assert {(row["principal"], row["request"], row["address"]) for row in rows} == {("a" * 64, "req-1", "192.0.2.7")}
    assert await rows_of(audited, rows[6]["index"]) == rows[7:]


@pytest.mark.parametrize("page_rows", [1, 3, 1000])
async def test_a_whole_trail_is_found_whole_over_all_its_pages(audited, page_rows) -> None:
    """From the beginning to the last row."""
    check = await AuditTrail(ShortPages(audited.metadata, page_rows)).verify(0, 10**6)
    assert (check.begin, check.rows, check.problem, check.next_after) == (ChainPoint(), 10, None, None)
    assert check.end == check.head
    assert check.end.index == (await rows_of(audited))[-1]["index"]


async def test_a_check_is_bounded_and_says_where_to_go_on(audited) -> None:
    """Its parts together see every row once."""
    trail, after, rows = AuditTrail(ShortPages(audited.metadata, 2)), 0, 0
    for _ in range(4):
        check = await trail.verify(after, 3)
        assert check.problem is None
        rows += check.rows
        if check.next_after is None:
            break
        after = check.next_after
    assert rows == 10
    assert check.next_after is None


async def test_a_trail_without_rows_is_whole(world) -> None:
    """It has no ends."""
    check = await world.services.audit.verify(0, 10)
    assert (check.begin, check.end, check.head) == (ChainPoint(), ChainPoint(), ChainPoint(0, NO_LINK))
    assert (check.problem, check.next_after) == (None, None)


@pytest.mark.parametrize("page_rows", [1, 4, 1000])
@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("UPDATE audit SET row=CAST(replace(CAST(row AS TEXT), 'b05', 'b55') AS BLOB) WHERE log_index={at}", 0),
        ("UPDATE audit SET link=zeroblob(32) WHERE log_index={at}", 0),
        ("UPDATE audit SET link=zeroblob(3) WHERE log_index={at}", None),
        ("DELETE FROM audit WHERE log_index={at}", 1),
        ("INSERT INTO audit SELECT log_index+1, end_bytes, link, row FROM audit WHERE log_index={at}", 0),
        ("UPDATE audit SET row=CAST('[]' AS BLOB) WHERE log_index={at}", None),
    ],
)
async def test_the_first_row_that_does_not_fit_is_named(audited, page_rows, statement, broken) -> None:
    """Changed, moved, removed or put in; what stands before it is said to be whole."""
    rows = await rows_of(audited)
    change(audited, statement.format(at=rows[5]["index"]))
    check = await AuditTrail(ShortPages(audited.metadata, page_rows)).verify(0, 10**6)
    assert check.problem is not None
    assert check.next_after is None
    assert check.broken_index == (None if broken is None else rows[5 + broken]["index"])
    assert check.end.index in {rows[4]["index"], rows[5]["index"]}


async def test_rows_that_are_missing_at_the_end_are_missed(audited) -> None:
    """The chain before them holds, but another row is said to be the last one."""
    known = await audited.services.audit.page(0)

    class OldHead:
        async def read(self, query: ListAudit) -> Any:
            answer, context = await audited.metadata.read(query)
            assert isinstance(answer, AuditPage)
            return answer.model_copy(update={"head": known.head}), context

    change(audited, "DELETE FROM audit WHERE log_index=(SELECT max(log_index) FROM audit)")
    check = await AuditTrail(OldHead()).verify(0, 10**6)  # type: ignore[arg-type]
    assert (check.rows, check.broken_index) == (9, known.head.index)
    assert check.problem == "the rows before the last one are missing"


async def test_a_check_goes_on_where_the_trail_was_cut_meanwhile(audited) -> None:
    """Rows that are cut between two pages are not called missing."""
    pages = ShortPages(audited.metadata, 2)
    pages.between = [lambda: cut(audited, 600)]
    check = await AuditTrail(pages).verify(0, 10**6)
    assert (check.problem, check.end == check.head) == (None, True)
    assert check.begin.index > 0
    assert 0 < check.rows < 5


async def test_another_link_than_before_is_no_continuation(audited) -> None:
    """What was rewritten between two pages is noticed by the link at which the next page begins."""
    pages = ShortPages(audited.metadata, 2)
    rows = await rows_of(audited)

    async def rewrite() -> None:
        change(audited, f"UPDATE audit SET link=zeroblob(32) WHERE log_index={rows[1]['index']}")

    pages.between = [rewrite]
    check = await AuditTrail(pages).verify(0, 10**6)
    assert (check.problem, check.broken_index) == ("its link is another one than before", rows[1]["index"])
