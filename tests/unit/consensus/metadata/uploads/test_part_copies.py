"""Parts that are a range of a file: what they share with it, and what is refused."""

from __future__ import annotations

import pytest

from shared.contracts.files import Preconditions
from shared.errors import (
    BucketNotFoundError,
    FileNotFoundInBucketError,
    PayloadTooLargeError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    VersionNotFoundError,
)
from tests.unit.consensus.metadata.builders import content, publish, referring_versions
from tests.unit.consensus.metadata.upload_builders import (
    CHUNK,
    DAY_S,
    UploadOf,
    count,
    delete,
    large_content,
    pass_time,
    put_large,
    read_pieces,
    refused,
    shown_of,
)


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, None), (0, 1), (1, CHUNK), (CHUNK, 3 * CHUNK), (CHUNK - 1, 2 * CHUNK + 1), (7, 4 * CHUNK - 9)],
)
def test_a_range_of_a_file_with_its_own_chunk_list_is_a_part(log, start, end):
    """It has a manifest of the chunks in the range, which stay when the source goes."""
    source = large_content(4, short_bytes=8)
    log.apply(publish("source", content=source, start_index=1))
    upload = UploadOf.begin(log)
    end = min(end or source.size_bytes, source.size_bytes)
    result = upload.copy(1, "source", start, end)
    assert result["size_bytes"] == end - start
    version = upload.complete()["version"]["version"]
    delete(log, "source")
    pass_time(log, 1)
    pass_time(log, 2 * DAY_S)
    assert read_pieces(log, version) == shown_of(source, start, end)
    first, last = start // CHUNK, (end - 1) // CHUNK
    assert count(log, "chunk_refs") == last - first + 1


def test_a_range_of_a_composed_file_shares_its_manifests(log):
    """No new manifest and no new chunk reference; the pieces are cut where the range begins and ends."""
    one, two, three = (large_content(5, fill=fill) for fill in (1, 2, 3))
    put_large(log, "source", [one, two, three])
    references = count(log, "chunk_refs")
    upload = UploadOf.begin(log)
    upload.copy(1, "source", 4 * CHUNK + 5, 10 * CHUNK + 7)
    upload.put(2, large_content(1, fill=4))
    version = upload.complete()["version"]["version"]
    assert (count(log, "manifests"), count(log, "chunk_refs")) == (4, references + 1)
    expected = shown_of(one, 4 * CHUNK + 5) + shown_of(two) + shown_of(three, 0, 7) + shown_of(large_content(1, fill=4))
    assert read_pieces(log, version) == expected
    delete(log, "source")
    pass_time(log, 1)
    pass_time(log, 2 * DAY_S)
    assert read_pieces(log, version) == expected


def test_what_a_copied_range_does_not_show_goes_with_its_source(log):
    """A manifest that only the source referred to."""
    parts = [large_content(5, fill=fill) for fill in (1, 2, 3)]
    put_large(log, "source", parts)
    upload = UploadOf.begin(log)
    upload.copy(1, "source", 5 * CHUNK, 6 * CHUNK)
    upload.complete()
    delete(log, "source")
    pass_time(log, 1)
    pass_time(log, 2 * DAY_S)
    assert (count(log, "manifests"), count(log, "chunk_refs"), count(log, "condemned")) == (1, 5, 10)
    for chunk in (parts[0].chunk_digests[:32], parts[2].chunk_digests[:32]):
        assert referring_versions(log.store, chunk) == []


def test_two_parts_may_share_a_manifest_and_one_of_them_be_replaced(log):
    """The reference of the upload is one for both."""
    source = large_content(10)
    put_large(log, "source", [source])
    upload = UploadOf.begin(log)
    upload.copy(1, "source", 0, 5 * CHUNK)
    upload.copy(2, "source", 5 * CHUNK, 10 * CHUNK)
    upload.put(1, large_content(5, fill=2))
    version = upload.complete()["version"]["version"]
    delete(log, "source")
    pass_time(log, 1)
    pass_time(log, 2 * DAY_S)
    assert read_pieces(log, version) == shown_of(large_content(5, fill=2)) + shown_of(source, 5 * CHUNK)


def test_an_empty_file_can_be_copied_whole(log):
    log.apply(publish("source", content=large_content(0), start_index=1))
    upload = UploadOf.begin(log)
    assert upload.copy(1, "source")["size_bytes"] == 0
    assert upload.complete()["version"]["content"]["size_bytes"] == 0


@pytest.mark.parametrize(("start", "end"), [(5, 5), (6, 5), (0, 4 * CHUNK + 1), (4 * CHUNK, None), (1 << 62, 1 << 62)])
@pytest.mark.parametrize("composed", [False, True])
def test_a_range_that_the_source_does_not_have_is_refused(log, start, end, composed):
    if composed:
        put_large(log, "source", [large_content(4)])
    else:
        log.apply(publish("source", content=large_content(4), start_index=1))
    upload = UploadOf.begin(log)
    error = refused(log, RangeNotSatisfiableError, upload.copy, 1, "source", start, end)
    assert error.facts["size_bytes"] == 4 * CHUNK


def test_a_source_that_is_not_there_is_refused(log):
    """No bucket, no file, no such version; and conditions on it."""
    log.apply(publish("source", content=large_content(4), start_index=1))
    version = log.store.last_applied
    upload = UploadOf.begin(log)
    refused(log, BucketNotFoundError, upload.copy, 1, "source", source_bucket="nowhere")
    refused(log, FileNotFoundInBucketError, upload.copy, 1, "nothing")
    refused(log, VersionNotFoundError, upload.copy, 1, "source", source_version=version + 1)
    no_match = Preconditions(if_match=["other"])
    refused(log, PreconditionFailedError, upload.copy, 1, "source", source_preconditions=no_match)
    upload.copy(1, "source", source_version=version)
    delete(log, "source")
    refused(log, FileNotFoundInBucketError, upload.copy, 2, "source")
    refused(log, VersionNotFoundError, upload.copy, 2, "source", source_version=version)


def test_a_range_of_too_many_pieces_or_chunks_is_refused(log, monkeypatch):
    put_large(log, "pieces", [large_content(5, fill=1), large_content(5, fill=2), large_content(5, fill=3)])
    log.apply(publish("chunks", content=content(9_000_000), start_index=1))
    upload = UploadOf.begin(log)
    monkeypatch.setattr("services.consensus.metadata.uploads.PART_PIECES_MAX", 2)
    refused(log, PayloadTooLargeError, upload.copy, 1, "pieces")
    upload.copy(1, "pieces", 0, 10 * CHUNK)
    refused(log, PayloadTooLargeError, upload.copy, 2, "chunks")
    upload.copy(2, "chunks", 0, 8_192_000)
