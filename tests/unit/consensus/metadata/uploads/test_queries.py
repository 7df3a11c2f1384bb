"""Reading a file of parts piece by piece; lists of uploads and parts, page by page."""

from __future__ import annotations

from typing import Any

import pytest

from services.consensus.metadata import upload_queries
from shared.contracts.uploads import ListPieces, ListUploads, UploadPage
from shared.errors import VersionGoneError
from tests.unit.consensus.metadata.builders import publish
from tests.unit.consensus.metadata.upload_builders import (
    CHUNK,
    DAY_S,
    UploadOf,
    delete,
    large_content,
    pass_time,
    put_large,
    read_pieces,
    shown_of,
)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 4096])
def test_pages_of_pieces_show_every_chunk_once(log, limit):
    """From any offset, of composed content and of a chunk list of its own; a page ends at a chunk's end."""
    one, two = large_content(5, fill=1), large_content(4, fill=2, short_bytes=100)
    composed = put_large(log, "a", [one, two])
    upload = UploadOf.begin(log, "b")
    upload.copy(1, "a", 7, 5 * CHUNK + 7)
    upload.copy(2, "a", CHUNK + 1, CHUNK + 2)
    ranges = upload.complete()["version"]["version"]
    assert read_pieces(log, ranges, limit=limit) == (
        shown_of(one, 7) + shown_of(two, 0, 7) + shown_of(one, CHUNK + 1, CHUNK + 2)
    )
    for offset in (0, 1, CHUNK, 5 * CHUNK - 1, 5 * CHUNK, 8 * CHUNK, 9 * CHUNK - 101, 9 * CHUNK, 1 << 60):
        expected = shown_of(one, offset) + shown_of(two, max(offset - 5 * CHUNK, 0))
        assert read_pieces(log, composed, offset=offset, limit=limit) == expected
    log.apply(publish("plain", content=two, start_index=1))
    plain = log.store.last_applied
    assert read_pieces(log, plain, offset=CHUNK + 1, limit=limit) == shown_of(two, CHUNK + 1)


def test_a_page_of_pieces_is_bounded_by_what_it_reads(log, monkeypatch):
    """By pieces, and by the chunk lists that it loads."""
    parts = [large_content(5, fill=fill) for fill in range(1, 6)]
    version = put_large(log, "a", parts)
    expected = [each for part in parts for each in shown_of(part)]
    monkeypatch.setattr(upload_queries, "PIECES_PER_PAGE_MAX", 2)
    assert len(log.ask(ListPieces(version=version)).pieces) == 2
    assert read_pieces(log, version) == expected
    monkeypatch.setattr(upload_queries, "_LIST_BYTES_MAX", 1)
    assert len(log.ask(ListPieces(version=version)).pieces) == 1
    assert read_pieces(log, version) == expected


def test_a_version_can_be_read_until_it_drops_its_references(log):
    """A day after it was deleted; then it is gone, and so is one that never was."""
    version = put_large(log, "a", [large_content(5)])
    delete(log)
    pass_time(log, 1)
    pass_time(log, DAY_S // 2)
    assert read_pieces(log, version) == shown_of(large_content(5))
    pass_time(log, DAY_S)
    for gone in (version, 10_000):
        with pytest.raises(VersionGoneError):
            log.ask(ListPieces(version=gone))


def test_parts_are_listed_by_page(log):
    upload = UploadOf.begin(log, tags={"a": "b"}, user_metadata={"colour": "blue"})
    for number in (7, 3, 10_000):
        upload.put(number, large_content(1, fill=number))
    first = upload.ask(limit=2)
    assert ([part.number for part in first.parts], first.has_more) == ([3, 7], True)
    rest = upload.ask(limit=2, after_part=7)
    assert ([part.number for part in rest.parts], rest.has_more) == ([10_000], False)
    assert first.upload is not None
    assert (first.upload.key, first.upload.tags, first.upload.user_metadata) == ("a", {"a": "b"}, {"colour": "blue"})
    assert first.upload.expires_in_s == 7 * DAY_S
    assert [part.etag for part in first.parts] == [f"{3:064x}", f"{7:064x}"]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_uploads_are_listed_by_key_and_page(log, limit):
    """With prefix and delimiter as files are; of one key in the order in which they began."""
    begun = [(key, UploadOf.begin(log, key).upload) for key in ("b/2", "a", "b/1", "b/1", "c", "ab", "b")]
    UploadOf.begin(log, "zz", is_internal=True)
    UploadOf.begin(log, "b/0").abort()

    def listed(**options: Any) -> list[Any]:
        found: list[Any] = []
        after: dict[str, Any] = {}
        while True:
            page = log.ask(ListUploads(bucket="default", limit=limit, **options, **after))
            assert isinstance(page, UploadPage)
            assert len(page.uploads) + len(page.prefixes) <= limit
            found += [(upload.key, upload.upload) for upload in page.uploads] + page.prefixes
            if not page.has_more:
                return found
            after = {"after_key": page.last_key, "after_upload": page.last_upload}

    assert listed() == sorted(begun)
    assert listed(prefix="b/") == sorted(pair for pair in begun if pair[0].startswith("b/"))
    folded = listed(delimiter="/")
    assert sorted(map(str, folded)) == sorted(map(str, ["b/", *(pair for pair in begun if "/" not in pair[0])]))
    assert log.ask(ListUploads(bucket="nowhere")).has_bucket is False


def test_a_list_goes_on_behind_a_key_that_ends_like_a_common_prefix(log):
    """It is the name of the folder that is listed, and not one below it, of which everything would be skipped."""
    for key in ("b/", "b/1", "b/c/1", "b/c/2"):
        UploadOf.begin(log, key)
    query = ListUploads(bucket="default", prefix="b/", delimiter="/", after_key="b/")
    page = log.ask(query)
    assert ([upload.key for upload in page.uploads], page.prefixes) == (["b/1"], ["b/c/"])
    page = log.ask(query.model_copy(update={"after_key": "b/c/"}))
    assert (page.uploads, page.prefixes) == ([], [])


def test_a_page_of_uploads_counts_what_they_were_begun_with(log):
    """In a batch of answers, which is bounded by its bytes: a thousand uploads may have kilobytes of metadata each."""
    UploadOf.begin(log, user_metadata={"colour": "b" * 1000})
    query = ListUploads(bucket="default")
    first, second = log.store.answer([query, query], term=1, max_bytes=1000).results
    assert first.answer is not None
    assert second.problem is not None
    assert second.problem["code"] == "overloaded"
