"""What storage nodes ask about references: pages of all, what changed after an index, and single chunks."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.consensus.metadata import references, retention
from shared.contracts.metadata import PassTime
from shared.contracts.references import CheckReferences, ListReferenceChanges, ListReferences, ReferenceChanges
from shared.errors import InvalidRequestError
from tests.unit.consensus.metadata.builders import Log, content, publish, stamp
from tests.unit.consensus.metadata.test_garbage import (
    DAY_MS,
    DAY_S,
    HOUR_MS,
    WEEK_S,
    chunk,
    delete,
    gone,
    pass_time,
    put,
    report,
)


@pytest.fixture
def log(tmp_path) -> Log:
    return Log(tmp_path / "metadata", entry_version=3)


def split(digests: bytes) -> list[bytes]:
    return [digests[at : at + 32] for at in range(0, len(digests), 32)]


def all_references(log: Log, limit: int) -> list[tuple[bytes, int]]:
    """Every page."""
    found, after = [], b""
    while True:
        page = log.ask(ListReferences(after=after, limit=limit))
        digests = split(page.digests)
        assert len(digests) == len(page.sizes) <= limit
        found += zip(digests, page.sizes, strict=True)
        if not page.has_more:
            return found
        after = digests[-1]


def changes(log: Log, after_index: int = 0, after_chunk: int = 0, *, limit: int = 10_000) -> ReferenceChanges:
    page = log.ask(ListReferenceChanges(after_index=after_index, after_chunk=after_chunk, limit=limit))
    assert len(page.added) == 32 * len(page.added_sizes)
    assert len(page.condemned) == 32 * len(page.condemned_indexes) == 32 * len(page.is_referenced)
    assert (page.next_index, page.next_chunk) > (after_index, after_chunk) or not page.has_more
    return page


def follow(log: Log, after_index: int = 0, *, limit: int = 10_000) -> tuple[list[bytes], list[tuple[bytes, int]], int]:
    """Every page: what was added, what was condemned, and how many pages there were."""
    added, condemned, position, pages = [], [], (after_index, 0), 0
    while True:
        page = changes(log, *position, limit=limit)
        added += split(page.added)
        condemned += zip(split(page.condemned), page.condemned_indexes, strict=True)
        position, pages = (page.next_index, page.next_chunk), pages + 1
        if not page.has_more:
            assert position == (log.store.last_applied, 0)
            return added, condemned, pages


# --- all ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 100])
def test_pages_list_every_chunk_once_in_order(log, limit):
    """However many versions refer to it, kept ones included; with its size."""
    put(log, "a", fill=2, size_bytes=2500)
    for key in "bcd":
        put(log, key, fill=1)
    delete(log, "d")
    expected = [(chunk(1), 1), *((chunk(2, n), size) for n, size in enumerate((1000, 1000, 500)))]
    assert all_references(log, limit) == expected


def test_without_a_file_there_is_no_reference(log):
    """And the page says that it is the last."""
    assert all_references(log, 10) == []


def test_a_check_says_of_every_chunk_whether_it_is_referenced(log):
    """In the order of the question, one twice; with the index that is old enough."""
    put(log, "a", fill=1)
    pass_time(log, 1)
    index = log.store.last_applied
    pass_time(log, HOUR_MS)
    answer = log.ask(CheckReferences(digests=chunk(1) + chunk(2) + chunk(1), age_s=3600))
    assert (answer.is_referenced, answer.aged_index) == ([True, False, True], index)
    assert log.ask(CheckReferences(digests=b"", age_s=3601)).aged_index == 0
    assert log.ask(CheckReferences(digests=b"", age_s=1 << 60)).aged_index == 0


def test_a_check_says_what_condemned_a_chunk_last(log):
    """0 for one that never was. What is condemned already is not condemned again for a replica that came late."""
    for fill in (2, 3):
        assert report(log, chunk(fill)) == 1
    index = log.store.last_applied
    before = log.ask(CheckReferences(digests=chunk(1) + chunk(2) + chunk(3), age_s=0)).condemned_indexes
    assert before is not None
    assert (before[0], before[1] < before[2] <= index) == (0, True)
    assert report(log, chunk(2), start_index=before[1] - 1) == 0
    assert log.ask(CheckReferences(digests=chunk(2), age_s=0)).condemned_indexes == [before[1]]


def test_bytes_that_are_no_digests_are_refused(log):
    """Typed."""
    with pytest.raises(InvalidRequestError):
        log.ask(CheckReferences(digests=b"x" * 33, age_s=0))


# --- changes ------------------------------------------------------------------------------------------------------


def test_changes_begin_after_an_index(log):
    """The version at that index is known already; the next one is not."""
    first = put(log, "a", fill=1)
    put(log, "b", fill=2)
    assert split(changes(log, first - 1).added) == [chunk(1), chunk(2)]
    page = changes(log, first)
    assert (split(page.added), page.added_sizes) == ([chunk(2)], [1])
    assert (page.next_index, page.next_chunk, page.has_more) == (log.store.last_applied, 0, False)
    assert changes(log, page.next_index).added == b""


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 9, 10, 11])
def test_a_large_version_is_cut_and_goes_on_where_it_was_cut(log, limit):
    """Every chunk comes once, in the order of the log."""
    put(log, "a", fill=1)
    put(log, "large", fill=2, size_bytes=10_000)
    put(log, "b", fill=3)
    added, _, pages = follow(log, limit=limit)
    assert added == [chunk(1), *(chunk(2, n) for n in range(10)), chunk(3)]
    assert pages >= 12 / limit


def test_a_version_that_goes_while_it_is_listed_skips_nothing_of_the_next(log):
    """The place in a cut version means nothing in another one."""
    put(log, "large", fill=1, size_bytes=10_000)
    put(log, "b", fill=2, size_bytes=5000)
    page = changes(log, limit=8)
    delete(log, "large")
    pass_time(log, 1)
    pass_time(log, DAY_MS)
    rest = changes(log, page.next_index, page.next_chunk)
    assert split(rest.added) == [chunk(2, n) for n in range(5)]
    assert set(split(rest.condemned)) == {chunk(1, n) for n in range(10)}


def test_versions_that_only_a_remembered_request_keeps_are_not_listed(log):
    """They refer to nothing any more."""
    log.apply(publish("a", content=content(fill=1), start_index=1), retain_s=WEEK_S)
    delete(log, "a")
    put(log, "b", fill=2)
    assert split(changes(log).added) == [chunk(1), chunk(2)]
    pass_time(log, 1)
    pass_time(log, DAY_MS)
    assert log.store._reader.database.one("SELECT count(*) FROM kept") == (1,)
    assert split(changes(log).added) == [chunk(2)]


def test_of_a_doomed_version_only_what_is_left_is_listed(log, monkeypatch):
    """Cut anywhere: the place in it counts from its first chunk, dropped or not."""
    put(log, "large", fill=1, size_bytes=20_000)
    put(log, "b", fill=2)
    delete(log, "large")
    pass_time(log, 1)
    pages = {limit: changes(log, limit=limit) for limit in (2, 9, 15)}
    monkeypatch.setattr(retention, "FORGET_ROWS_MAX", 10)
    command = PassTime(
        elapsed_ms=DAY_MS,
        cursor_retention_s=900,
        tombstone_retention_s=9 * DAY_S,
        reference_retention_s=DAY_S,
        condemned_retention_s=WEEK_S,
        stamp=stamp(),
    )
    log.apply(command, retain_s=0)
    dropped = 21 - log.store._reader.database.one("SELECT count(*) FROM chunk_refs")[0]
    assert 2 < dropped < 9
    left = [chunk(1, n) for n in range(dropped, 20)]
    for limit in (1, 4, 13, 100):
        added, condemned, _ = follow(log, limit=limit)
        assert added == [*left, chunk(2)]
        assert {digest for digest, _ in condemned} == {chunk(1, n) for n in range(dropped)}
    for limit, page in pages.items():
        rest = changes(log, page.next_index, page.next_chunk)
        assert split(rest.added) == [*left[max(0, limit - dropped) :], chunk(2)]


def test_condemned_chunks_come_with_what_holds_of_them_now(log):
    """Each once, with the last index; one that is referenced again says so."""
    first, second = gone(log, 1), gone(log, 2)
    put(log, "again", fill=1)
    page = changes(log)
    assert list(zip(split(page.condemned), page.condemned_indexes, page.is_referenced, strict=True)) == [
        (chunk(1), first, True),
        (chunk(2), second, False),
    ]
    assert split(page.added) == [chunk(1)]
    assert split(changes(log, first).condemned) == [chunk(2)]
    assert split(changes(log, second).condemned) == []


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 100])
def test_what_one_entry_condemned_stays_together(log, limit):
    """A row may move to a later index between two pages, so no place inside of an entry would hold."""
    sizes, indexes = (5, 1, 3), []
    for fill, count in enumerate(sizes, 1):
        put(log, f"{fill}", fill=9)
        report(log, *(chunk(fill, n) for n in range(count)))
        indexes.append(log.store.last_applied)
    position, seen = (0, 0), []
    while True:
        page = changes(log, *position, limit=limit)
        seen += page.condemned_indexes
        assert len(page.condemned_indexes) <= max(limit, 5)
        position = page.next_index, page.next_chunk
        if not page.has_more:
            break
    assert seen == [index for index, count in zip(indexes, sizes, strict=True) for _ in range(count)]


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 1000])
def test_pages_of_both_kinds_keep_the_order_of_the_log(log, limit):
    """Nothing of an index comes before everything of the indexes below it, and nothing is left out."""
    for number in range(1, 6):
        put(log, f"{number}", fill=number, size_bytes=1000 * number)
        report(log, *(chunk(10 + number, n) for n in range(number)))
    added, condemned, _ = follow(log, limit=limit)
    assert added == [chunk(number, n) for number in range(1, 6) for n in range(number)]
    assert {digest for digest, _ in condemned} == {
        chunk(10 + number, n) for number in range(1, 6) for n in range(number)
    }
    assert [index for _, index in condemned] == sorted(index for _, index in condemned)


def test_a_page_walks_over_a_bounded_number_of_versions(log, monkeypatch):
    """Files without a chunk, and versions that are only kept, cost time and show nothing."""
    monkeypatch.setattr(references, "VERSIONS_PER_PAGE_MAX", 3)
    for number in range(10):
        put(log, f"{number}", size_bytes=0)
    put(log, "last", fill=7)
    added, _, pages = follow(log)
    assert added == [chunk(7)]
    assert pages == 4


def test_a_place_below_the_horizon_is_lost(log):
    """Chunks were condemned since that nobody knows of any more: all references are to be listed anew."""
    index = gone(log)
    put(log, "b", fill=2)
    pass_time(log, 1)
    pass_time(log, WEEK_S * 1000)
    lost = log.ask(ListReferenceChanges(after_index=index - 1))
    assert (lost.must_restart, lost.horizon, lost.has_more) == (True, index, True)
    assert (lost.added, lost.condemned, lost.next_index) == (b"", b"", index - 1)
    kept = changes(log, index)
    assert (kept.must_restart, kept.horizon, split(kept.added)) == (False, index, [chunk(2)])


def test_an_index_that_no_log_reaches_is_no_question() -> None:
    """SQLite could not compare with it, and the whole request would fail."""
    assert ListReferenceChanges(after_index=2**63 - 1).after_index == 2**63 - 1
    with pytest.raises(ValidationError):
        ListReferenceChanges(after_index=2**63)
