"""Parts, and the file that they become: every rule, and every bad input with nothing half done."""

from __future__ import annotations

import pytest

from services.consensus.metadata import buckets, uploads
from services.consensus.metadata.upload_records import UploadRecords
from shared.contracts.cluster import NodeState
from shared.contracts.etags import content_id_of_pieces, etag_of, list_digest
from shared.contracts.files import Durability, Preconditions
from shared.contracts.metadata import CreateBucket, DeleteBucket, DeleteFile, RecordRun, SetNodeState
from shared.contracts.references import CondemnChunks, ListReferenceChanges, ReferenceChanges
from shared.contracts.uploads import GetUpload, ListUploads, UploadPage, upload_id_of
from shared.errors import (
    BucketNotEmptyError,
    BucketNotFoundError,
    BucketRecreatedError,
    ChunkCondemnedError,
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
    UploadCompletedError,
    UploadNotFoundError,
)
from tests.unit.consensus.metadata.builders import content, publish, run, stamp
from tests.unit.consensus.metadata.upload_builders import (
    CHUNK,
    DAY_S,
    NONCE,
    UploadOf,
    count,
    delete,
    get,
    large_content,
    pass_time,
    read_pieces,
    refused,
    shown_of,
)


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
    right = uploads.decode_part_body
    monkeypatch.setattr(uploads, "decode_part_body", lambda body: read.append(body) or right(body))
    monkeypatch.setattr(uploads, "PIECES_MAX", 2)
    refused(log, PayloadTooLargeError, upload.complete)
    assert len(read) == 3
    records = UploadRecords(log.store._reader)
    assert [number for _, number, *_ in records.named_parts(upload.upload, {2, 7, 11})] == [2, 7]


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
