"""Uploads by parts in the state machine: every rule, every bad input with nothing half done, and what is left over of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from services.consensus.metadata import buckets, retention, upload_queries, uploads
from services.consensus.metadata.upload_records import UploadRecords
from services.consensus.metadata.verification import verify
from shared.contracts.backups import BeginBackup, EndBackup
from shared.contracts.cluster import NodeState
from shared.contracts.etags import content_id_of_pieces, etag_of, list_digest
from shared.contracts.files import Durability, Preconditions
from shared.contracts.metadata import (
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    FileAnswer,
    GetFile,
    RecordRun,
    SetNodeState,
)
from shared.contracts.references import CondemnChunks, ListReferenceChanges, ReferenceChanges
from shared.contracts.uploads import GetUpload, ListPieces, ListUploads, UploadPage, upload_id_of
from shared.errors import (
    BucketNotEmptyError,
    BucketNotFoundError,
    BucketRecreatedError,
    ChunkCondemnedError,
    FileNotFoundInBucketError,
    InvalidNameError,
    InvalidPartError,
    InvalidPartOrderError,
    InvalidRequestError,
    NodeDrainingError,
    NodeRemovedError,
    NodeReplacedError,
    PartTooSmallError,
    PayloadTooLargeError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    TrivetError,
    UploadCompletedError,
    UploadNotFoundError,
    VersionGoneError,
    VersionNotFoundError,
)
from tests.unit.consensus.metadata.builders import Log, content, publish, referring_versions, run, stamp
from tests.unit.consensus.metadata.upload_builders import (
    CHUNK,
    DAY_S,
    NONCE,
    UploadOf,
    count,
    large_content,
    pass_time,
    put_large,
    read_pieces,
    shown_of,
)

OBJECT_TABLES = ("uploads", "parts", "manifests", "manifest_refs", "compositions", "composition_refs")
LEFTOVERS = (*OBJECT_TABLES, "versions", "chunk_refs", "released", "doomed", "kept", "past")


@pytest.fixture
def log(tmp_path) -> Iterator[Log]:
    made = Log(tmp_path / "metadata", entry_version=4)
    yield made
    made.store.close()
    verify(tmp_path / "metadata")


def get(log: Log, key: str = "a") -> FileAnswer:
    answer = log.ask(GetFile(bucket="default", key=key))
    assert isinstance(answer, FileAnswer)
    return answer


def delete(log: Log, key: str = "a", bucket: str = "default") -> None:
    log.apply(DeleteFile(bucket=bucket, key=key, stamp=stamp()), retain_s=0)


def rows(log: Log) -> dict[str, int]:
    return {table: count(log, table) for table in LEFTOVERS}


def refused(log: Log, kind: type[TrivetError], call: Any, *arguments: Any, **options: Any) -> TrivetError:
    """The call is refused, and nothing but the log index has changed."""
    before = log.store.summary().content_sum
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    assert log.store.summary().content_sum == before
    assert caught.value.definite
    return caught.value


# --- parts and completing -------------------------------------------------------------------------------------------


def test_parts_make_a_file_in_the_order_of_their_numbers(log):
    """Put in any order; the version says the sizes, the chunks and an etag of the content id."""
    one, two, three = large_content(6, fill=1), large_content(5, fill=2), large_content(1, fill=3, short_bytes=7)
    upload = UploadOf.begin(log, user_metadata={"colour": "blue"})
    upload.put(9, three)
    upload.put(1, one)
    upload.put(4, two)
    result = upload.complete()
    assert result["created"]
    file = get(log).file
    assert file is not None
    assert file.version == result["version"]["version"] == log.store.last_applied
    assert (file.content.size_bytes, file.content.chunk_count) == (12 * CHUNK - 7, 12)
    assert (file.content.digest, file.content.chunk_digests, file.content.composition) == (None, b"", upload.upload)
    identity = content_id_of_pieces((list_digest(each.chunk_digests), 0, each.size_bytes) for each in (one, two, three))
    assert file.content_id == identity
    assert file.etag == etag_of(identity, "text/plain", {"colour": "blue"})
    assert (file.durability.acknowledged, file.durability.nodes) == (2, ["storage-1", "storage-2"])
    assert read_pieces(log, file.version) == shown_of(one) + shown_of(two) + shown_of(three)


def test_the_digest_of_the_whole_counts_where_one_request_carried_it(log):
    """Then the etag is that of a single put."""
    upload = UploadOf.begin(log, is_internal=True)
    upload.put(1, large_content(1))
    upload.put(2, large_content(1, fill=2))
    upload.complete(digest="ab" * 32)
    file = get(log).file
    assert file is not None
    assert (file.content.digest, file.etag) == ("ab" * 32, etag_of("ab" * 32, "text/plain", {}))


def test_a_part_that_is_put_again_replaces_the_one_before(log):
    """The last one that was applied; the first one's chunks stay as long as what is deleted does, and are condemned then."""
    upload = UploadOf.begin(log)
    before, after = large_content(1, fill=1), large_content(2, fill=2)
    upload.put(1, before)
    upload.put(1, after)
    assert [part.size_bytes for part in upload.listed()] == [2 * CHUNK]
    assert (count(log, "manifests"), count(log, "chunk_refs")) == (2, 3)
    pass_time(log, 1)
    pass_time(log, DAY_S)
    assert (count(log, "manifests"), count(log, "chunk_refs"), count(log, "condemned")) == (1, 2, 1)
    version = upload.complete()["version"]["version"]
    assert read_pieces(log, version) == shown_of(after)


def test_parts_that_are_not_named_are_not_part_of_the_file(log):
    """They go, their references with them, once nothing can need them; the file keeps its own."""
    upload = UploadOf.begin(log)
    parts = {number: large_content(5, fill=number) for number in (1, 2, 3)}
    for number, part in parts.items():
        upload.put(number, part)
    version = upload.complete([1, 3])["version"]["version"]
    pass_time(log, 1)
    assert count(log, "manifests") == 3
    pass_time(log, DAY_S)
    assert (count(log, "manifests"), count(log, "parts"), count(log, "chunk_refs")) == (2, 0, 10)
    assert count(log, "condemned") == 5
    assert read_pieces(log, version) == shown_of(parts[1]) + shown_of(parts[3])


def test_completing_again_gives_the_same_answer_for_a_week(log):
    """Of the same parts, even when the file was replaced or deleted since; under another request id too."""
    upload = UploadOf.begin(log)
    upload.put(1, large_content(5))
    upload.put(2, large_content(5, fill=2))
    first = upload.complete()
    assert upload.complete() == first
    delete(log)
    pass_time(log, 1)
    pass_time(log, 6 * DAY_S)
    again = log.propose(upload.command(), request_id="again", retain_s=600)
    assert again.result == first
    assert log.propose(upload.command(), request_id="again", retain_s=600).result == first
    refused(log, UploadCompletedError, upload.complete, [1])
    refused(log, UploadCompletedError, upload.complete, digest="ab" * 32)
    refused(log, UploadCompletedError, upload.abort)
    refused(log, UploadNotFoundError, upload.put, 3, large_content(1))
    assert upload.ask().upload is None
    pass_time(log, DAY_S)
    refused(log, UploadNotFoundError, upload.complete)


def test_an_empty_part_makes_an_empty_file(log):
    """A file of no bytes has no pieces to read."""
    upload = UploadOf.begin(log)
    upload.put(1, large_content(0))
    version = upload.complete()["version"]
    assert (version["content"]["size_bytes"], read_pieces(log, version["version"])) == (0, [])


def test_a_completed_upload_replaces_the_file_as_a_publish_does(log):
    """Conditions are those of the moment; Last-Modified goes on."""
    log.apply(publish("a", start_index=1))
    upload = UploadOf.begin(log)
    upload.put(1, large_content(1))
    refused(log, PreconditionFailedError, upload.complete, preconditions=Preconditions(if_none_match=["*"]))
    before = get(log).file
    result = upload.complete(preconditions=Preconditions(if_match=["etag-1"]))
    assert not result["created"]
    assert before is not None
    assert result["version"]["modified_ns"] > before.modified_ns


@pytest.mark.parametrize("numbers", [[2, 1], [1, 1]])
def test_parts_are_named_in_order_and_once(log, numbers):
    upload = UploadOf.begin(log)
    for number in (1, 2):
        upload.put(number, large_content(5, fill=number))
    error = refused(log, InvalidPartOrderError, upload.complete, numbers)
    assert error.facts["number"] == 1


def test_a_part_that_is_missing_or_another_is_refused(log):
    """By number or by etag, that of a replaced one included."""
    upload = UploadOf.begin(log)
    upload.put(1, large_content(5))
    old = upload.parts[1]
    upload.put(1, large_content(5, fill=2))
    refused(log, InvalidPartError, upload.complete, parts=[(1, old)])
    refused(log, InvalidPartError, upload.complete, parts=[(1, upload.parts[1]), (2, old)])
    upload.complete()


def test_only_the_last_part_may_be_small(log):
    """Five MiB is enough; the last one that is named may have a byte."""
    upload = UploadOf.begin(log)
    upload.put(1, large_content(5))
    upload.put(2, large_content(5, fill=2, short_bytes=1))
    upload.put(3, large_content(1, fill=3))
    error = refused(log, PartTooSmallError, upload.complete)
    assert (error.facts["number"], error.facts["size_bytes"]) == (2, 5 * CHUNK - 1)
    upload.complete([1, 2])


def test_an_internal_upload_has_parts_of_any_size_and_stands_in_no_list(log):
    """A gateway seals them as it likes; the bucket counts as empty."""
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    upload = UploadOf.begin(log, bucket="photos", is_internal=True)
    upload.put(1, large_content(1))
    upload.put(2, large_content(1, fill=2))
    page = log.ask(ListUploads(bucket="photos"))
    assert isinstance(page, UploadPage)
    assert page.uploads == []
    log.apply(DeleteBucket(bucket="photos", stamp=stamp()))
    refused(log, BucketNotFoundError, upload.complete)
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    refused(log, BucketRecreatedError, upload.complete)


def test_a_bucket_with_an_upload_under_way_is_not_empty(log):
    """Until it is completed and the file deleted, or it is aborted."""
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    upload = UploadOf.begin(log, bucket="photos")
    refused(log, BucketNotEmptyError, log.apply, DeleteBucket(bucket="photos", stamp=stamp()), retain_s=0)
    upload.abort()
    log.apply(DeleteBucket(bucket="photos", stamp=stamp()))


def test_uploads_under_way_end_with_a_bucket_that_is_deleted_with_them(log, monkeypatch):
    """In the same entry; with a file, or with more of them than one entry aborts, it is refused and nothing is aborted."""
    monkeypatch.setattr(buckets, "ABORTED_UPLOADS_MAX", 2)
    incarnation = log.next_index
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    begun = [UploadOf.begin(log, key, bucket="photos") for key in ("a", "b", "b")]
    elsewhere = UploadOf.begin(log, "a")
    delete = DeleteBucket(bucket="photos", aborts_uploads=True, stamp=stamp())
    refused(log, BucketNotEmptyError, log.apply, delete, retain_s=0)
    begun.pop().abort()
    log.apply(publish("cat", bucket="photos", incarnation=incarnation))
    refused(log, BucketNotEmptyError, log.apply, delete, retain_s=0)
    log.apply(DeleteFile(bucket="photos", key="cat", stamp=stamp()))
    for upload in begun:
        upload.put(1, large_content(1))
    log.apply(delete)
    for upload in begun:
        refused(log, UploadNotFoundError, upload.put, 2, large_content(1))
    elsewhere.put(1, large_content(1))


def test_an_upload_begins_in_a_bucket_that_exists_under_a_name_that_may_be(log):
    refused(log, BucketNotFoundError, UploadOf.begin, log, bucket="nowhere")
    refused(log, InvalidNameError, UploadOf.begin, log, key="a\0b")
    refused(log, BucketRecreatedError, UploadOf.begin, log, incarnation=17)


def test_an_upload_is_found_by_its_number_and_nonce_only(log):
    """No other upload's, nor with a nonce that was made up."""
    upload, other = UploadOf.begin(log), UploadOf.begin(log, nonce="f" * 32)
    upload.put(1, large_content(1))
    refused(log, UploadNotFoundError, upload.complete, nonce="f" * 32)
    refused(log, UploadNotFoundError, upload.put, 1, large_content(1), upload=other.upload)
    refused(log, UploadNotFoundError, upload.put, 1, large_content(1), upload=10_000)
    assert log.ask(GetUpload(upload=upload.upload, nonce="f" * 32)).upload is None
    assert upload_id_of(upload.upload, NONCE) == f"{upload.upload:016x}-{NONCE}"


def test_a_part_has_its_limits(log, monkeypatch):
    """Chunks, bytes, and a chunk list that fits; numbers are checked before the log."""
    upload = UploadOf.begin(log)
    refused(log, PayloadTooLargeError, upload.put, 1, large_content(5121))
    small = large_content(8193).model_copy(update={"chunk_size_bytes": 1, "size_bytes": 8193})
    refused(log, PayloadTooLargeError, upload.put, 1, small)
    bad = large_content(2).model_copy(update={"size_bytes": 3 * CHUNK})
    refused(log, InvalidRequestError, upload.put, 1, bad)
    no_column_has_it = large_content(1).model_copy(update={"chunk_size_bytes": 1 << 63})
    refused(log, InvalidRequestError, upload.put, 1, no_column_has_it)
    upload.put(1, large_content(5120))
    for number in (0, 10_001):
        with pytest.raises(ValueError, match="number"):
            upload.put(number, large_content(1))
    assert [part.number for part in upload.listed()] == [1]


def test_a_file_has_its_limits(log, monkeypatch):
    """Pieces and bytes; nothing is changed by the attempt."""
    upload = UploadOf.begin(log)
    for number in (1, 2, 3):
        upload.put(number, large_content(5, fill=number))
    monkeypatch.setattr("services.consensus.metadata.uploads.PIECES_MAX", 2)
    refused(log, PayloadTooLargeError, upload.complete)
    upload.complete([1, 2])
    other = UploadOf.begin(log, "b")
    other.put(1, large_content(5))
    monkeypatch.setattr("services.consensus.metadata.uploads.FILE_BYTES_MAX", 5 * CHUNK - 1)
    refused(log, PayloadTooLargeError, other.complete)


# --- which parts may be put -----------------------------------------------------------------------------------------


def test_no_more_parts_are_read_than_a_file_may_consist_of(log, monkeypatch):
    """A part may have thousands of pieces, and an upload ten thousand of those; what is not named is not read at all."""
    upload, read = UploadOf.begin(log), []
    for number in range(1, 11):
        upload.put(number, large_content(5, fill=number))
    right = uploads.PartBody.decode
    monkeypatch.setattr(uploads.PartBody, "decode", lambda body: read.append(body) or right(body))
    monkeypatch.setattr(uploads, "PIECES_MAX", 2)
    refused(log, PayloadTooLargeError, upload.complete)
    assert len(read) == 3
    records = UploadRecords(log.store._reader)
    assert [part.number for part in records.named_parts(upload.upload, {2, 7, 11})] == [2, 7]


def test_a_part_that_counts_a_node_that_does_not_count_is_refused(log):
    """Removed, replaced or draining since: as for a publish, and with that part's own epoch."""
    upload = UploadOf.begin(log)
    nobody = Durability(target=3, acknowledged=1, nodes=["storage-9"])
    refused(log, NodeRemovedError, upload.put, 1, large_content(1), durability=nobody)
    log.apply(RecordRun(node_id="storage-1", run=run(), stamp=stamp()))
    log.apply(RecordRun(node_id="storage-1", run=run(disk_id="e" * 32, boot_id="e" * 32), stamp=stamp()))
    refused(log, NodeReplacedError, upload.put, 1, large_content(1), fences={"storage-1": 1})
    log.apply(SetNodeState(node_id="storage-2", state=NodeState.DRAINING, stamp=stamp()))
    drained = Durability(target=3, acknowledged=1, nodes=["storage-2"])
    refused(log, NodeDrainingError, upload.put, 1, large_content(1), durability=drained)
    upload.put(1, large_content(1), durability=Durability(target=3, acknowledged=1, nodes=["storage-3"]))


def test_a_condemned_chunk_in_a_part_is_refused(log):
    """Checked with the part's own start index, in the entry that makes the manifest."""
    upload, part = UploadOf.begin(log), large_content(3)
    began = log.store.last_applied
    log.apply(CondemnChunks(digests=part.chunk_digests[32:64], start_indexes=[0], stamp=stamp()), retain_s=0)
    error = refused(log, ChunkCondemnedError, upload.put, 1, part, start_index=began)
    assert error.facts["digest"] == part.chunk_digests[32:64].hex()
    upload.put(1, part)
    refused(log, InvalidRequestError, upload.put, 1, part, start_index=log.next_index)


def test_the_chunks_of_a_part_are_referenced_from_its_entry_on(log):
    """Neither a node's report nor time condemns them while the upload is under way."""
    upload, part = UploadOf.begin(log, lifetime_s=None), large_content(3)
    upload.put(1, part)
    log.apply(CondemnChunks(digests=part.chunk_digests, start_indexes=[0] * 3, stamp=stamp()), retain_s=0)
    pass_time(log, 1)
    pass_time(log, 60 * DAY_S)
    assert (count(log, "condemned"), count(log, "chunk_refs")) == (0, 3)
    version = upload.complete()["version"]["version"]
    assert read_pieces(log, version) == shown_of(part)


def test_reference_changes_list_the_chunks_of_parts(log):
    """As those of versions, each once, in the order of the log, however the pages are cut."""
    began = log.store.last_applied
    upload = UploadOf.begin(log)
    upload.put(1, large_content(3, fill=1))
    log.apply(publish("b", content=content(2500, fill=9), start_index=1))
    upload.put(2, large_content(2, fill=2))
    expected = large_content(3, fill=1).chunk_digests + content(2500, fill=9).chunk_digests
    expected += large_content(2, fill=2).chunk_digests
    for limit in (1, 2, 3, 100):
        added, at, chunk = b"", began, 0
        while True:
            page = log.ask(ListReferenceChanges(after_index=at, after_chunk=chunk, limit=limit))
            assert isinstance(page, ReferenceChanges)
            added += page.added
            at, chunk = page.next_index, page.next_chunk
            if not page.has_more:
                break
        assert added == expected


# --- copies of ranges -----------------------------------------------------------------------------------------------


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


# --- reading --------------------------------------------------------------------------------------------------------


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


# --- what is left over ----------------------------------------------------------------------------------------------


def test_an_aborted_upload_keeps_its_chunks_for_a_while(log):
    """As everything that is removed for good does; then nothing is left of it, and its chunks are condemned."""
    upload = UploadOf.begin(log)
    upload.put(1, large_content(5))
    upload.put(2, large_content(5, fill=2))
    assert upload.abort() == {"aborted": True}
    refused(log, UploadNotFoundError, upload.abort)
    refused(log, UploadNotFoundError, upload.complete)
    refused(log, UploadNotFoundError, upload.put, 3, large_content(1))
    pass_time(log, 1)
    assert count(log, "chunk_refs") == 10
    pass_time(log, DAY_S)
    assert (rows(log), count(log, "condemned")) == (dict.fromkeys(LEFTOVERS, 0), 10)


def test_an_upload_expires_by_the_clock_of_the_log(log):
    """After its lifetime, not before; then it is aborted and goes as such. Without one it never does."""
    upload, other = UploadOf.begin(log, lifetime_s=100), UploadOf.begin(log, lifetime_s=None)
    upload.put(1, large_content(1))
    pass_time(log, 99)
    assert upload.ask().upload is not None
    pass_time(log, 1)
    assert upload.ask().upload is None
    refused(log, UploadNotFoundError, upload.complete)
    assert count(log, "chunk_refs") == 1
    pass_time(log, DAY_S)
    assert (count(log, "chunk_refs"), count(log, "uploads")) == (0, 1)
    pass_time(log, 1000 * DAY_S)
    assert other.ask().upload is not None


def test_a_part_may_keep_its_upload_alive_and_never_shortens_its_life(log):
    """So what a lost gateway leaves of a long body goes soon, and a body that goes on for days is not given up."""
    upload = UploadOf.begin(log, lifetime_s=100, is_internal=True)
    pass_time(log, 60)
    upload.put(1, large_content(1), keep_s=100)
    pass_time(log, 99)
    upload.put(2, large_content(1, fill=2), keep_s=1)
    pass_time(log, 1)
    assert upload.ask().upload is None, "the second part left it as it was"
    long, endless = UploadOf.begin(log, lifetime_s=100), UploadOf.begin(log, lifetime_s=None)
    long.put(1, large_content(1))
    endless.put(1, large_content(1), keep_s=1)
    pass_time(log, 100)
    assert (long.ask().upload is None, endless.ask().upload is None) == (True, False)


def test_nothing_is_left_of_a_deleted_file_of_parts(log):
    """Version, composition, manifests and references, in one entry or in many; its chunks are condemned."""
    put_large(log, "a", [large_content(5, fill=fill) for fill in range(1, 5)])
    delete(log)
    pass_time(log, 1)
    pass_time(log, DAY_S)
    left = rows(log)
    assert left.pop("uploads") == 1  # it answers for a week
    assert (left, count(log, "condemned")) == (dict.fromkeys(left, 0), 20)
    pass_time(log, 7 * DAY_S)
    assert rows(log) == dict.fromkeys(LEFTOVERS, 0)


def test_a_file_of_many_parts_goes_a_few_rows_at_a_time(log, monkeypatch):
    """So that no entry takes long; every slice leaves whole rows."""
    upload = UploadOf.begin(log)
    for number in range(1, 8):
        upload.put(number, large_content(5, fill=number))
    upload.complete([2, 3, 5])
    monkeypatch.setattr(retention, "FORGET_ROWS_MAX", 3)
    pass_time(log, 1)
    entries = pass_time(log, DAY_S)
    assert entries > 10
    assert (count(log, "manifests"), count(log, "manifest_refs"), count(log, "parts")) == (3, 3, 0)
    delete(log)
    pass_time(log, 1)
    assert pass_time(log, DAY_S) > 5
    assert count(log, "condemned") == 35
    pass_time(log, 7 * DAY_S)
    assert rows(log) == dict.fromkeys(LEFTOVERS, 0)


def test_files_of_many_pieces_and_few_manifests_go_one_at_a_time(log, monkeypatch):
    """Their compositions are read to be dropped, and those of their parts, too."""
    put_large(log, "source", [large_content(5, fill=1)])
    for file in range(6):
        upload = UploadOf.begin(log, f"file-{file}")
        for number in range(1, 5):
            upload.copy(number, "source")
        upload.complete()
        delete(log, f"file-{file}")
    monkeypatch.setattr(retention, "FORGET_ROWS_MAX", 8)
    monkeypatch.setattr(retention, "PIECES_PER_ROW", 1)
    monkeypatch.setattr(retention, "PART_BYTES_PER_ROW", 8)
    for seconds in (1, DAY_S, *[0] * 150):
        before = count(log, "compositions"), count(log, "parts")
        pass_time(log, seconds, entries=1)
        after = count(log, "compositions"), count(log, "parts")
        assert max(was - left for was, left in zip(before, after, strict=True)) <= 2
    assert (count(log, "compositions"), count(log, "parts")) == (1, 0)


def test_a_backup_pins_what_uploads_give_up(log):
    """Aborted, replaced, left out or deleted after it began: kept until it ends."""
    aborted, completed = UploadOf.begin(log, "aborted"), UploadOf.begin(log, "completed")
    aborted.put(1, large_content(5, fill=1))
    completed.put(1, large_content(5, fill=2))
    completed.put(1, large_content(5, fill=3))
    completed.put(2, large_content(5, fill=4))
    log.apply(BeginBackup(backup_id="nightly", owner="ops", lease_s=30 * DAY_S, stamp=stamp()), retain_s=0)
    aborted.abort()
    completed.put(2, large_content(5, fill=5))
    completed.put(3, large_content(5, fill=6))
    completed.complete([1])
    delete(log, "completed")
    pass_time(log, 1)
    pass_time(log, 2 * DAY_S)
    # The one that was replaced before it began was on its way already.
    assert (count(log, "chunk_refs"), count(log, "condemned")) == (25, 5)
    log.apply(EndBackup(backup_id="nightly", stamp=stamp()), retain_s=0)
    pass_time(log, DAY_S)
    assert (count(log, "chunk_refs"), count(log, "condemned")) == (0, 30)


def test_the_same_chunks_put_again_while_their_manifest_is_doomed_are_another_manifest(log, monkeypatch):
    """The doomed one loses its references and the new one has its own: the chunks are not condemned."""
    upload, part = UploadOf.begin(log, lifetime_s=None), large_content(8)
    upload.put(1, part)
    upload.put(1, large_content(1, fill=2))
    pass_time(log, 1)
    monkeypatch.setattr(retention, "FORGET_ROWS_MAX", 4)
    began = log.store.last_applied
    assert pass_time(log, DAY_S, entries=2) == 2
    assert count(log, "doomed") == 1
    assert 0 < count(log, "condemned") < 8
    refused(log, ChunkCondemnedError, upload.put, 2, part, start_index=began)
    upload.put(2, part)
    pass_time(log, 0)
    assert (count(log, "manifests"), count(log, "doomed")) == (2, 0)
    assert read_pieces(log, upload.complete([2])["version"]["version"]) == shown_of(part)
