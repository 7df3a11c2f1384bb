"""Publishing and deleting files, and the time that both leave."""

import pytest

from services.consensus.metadata.store import MetadataStore
from shared.contracts.files import Durability, FileContent, FileVersion, Preconditions
from shared.contracts.metadata import (
    AdmitNode,
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    GetFile,
    RemoveNode,
)
from shared.errors import (
    BucketNotFoundError,
    BucketRecreatedError,
    FileNotFoundInBucketError,
    InvalidNameError,
    InvalidRequestError,
    NodeRemovedError,
    PreconditionFailedError,
)
from tests.unit.consensus.metadata.builders import content, publish, stamp


def durable_on(*node_ids: str) -> Durability:
    return Durability(target=3, acknowledged=2, nodes=list(node_ids))


def test_a_publish_is_readable_as_it_was_proposed(log):
    """What a reader gets is what was published, under the index that published it."""
    index = log.next_index
    command = publish("a/b", content=content(2500), stamp=stamp(5), user_metadata={"x": "ÿ"})
    result = log.apply(command, term=4)
    assert result["created"] is True
    answer = log.ask(GetFile(bucket="default", key="a/b"))
    assert FileVersion.model_validate_json(answer.file.model_dump_json()) == answer.file
    assert FileVersion.model_validate(result["version"]) == answer.file
    assert answer.version == answer.file.version == index
    assert answer.incarnation == 1
    assert answer.file == FileVersion(
        bucket="default",
        key="a/b",
        version=index,
        term=4,
        etag="etag-1",
        content=content(2500),
        content_type="text/plain",
        user_metadata={"x": "ÿ"},
        epoch=3,
        durability=durable_on("storage-1", "storage-2"),
        stamp=stamp(5),
        modified_ns=5_000_000_000,
    )
    stored = answer.file.content
    assert [stored.chunk(index)[1] for index in range(stored.chunk_count)] == [1000, 1000, 500]


def test_a_second_publish_replaces_the_first(log):
    """Readers see the new version, and the result says that nothing was created."""
    log.apply(publish("a"))
    index = log.next_index
    assert log.apply(publish("a", etag="etag-2"))["created"] is False
    answer = log.ask(GetFile(bucket="default", key="a"))
    assert (answer.version, answer.file.etag) == (index, "etag-2")


def test_a_file_of_zero_bytes_has_no_chunks(log):
    """It is published and read like any other."""
    log.apply(publish("empty", content=content(0)))
    assert log.ask(GetFile(bucket="default", key="empty")).file.content.chunk_count == 0


@pytest.mark.parametrize("key", ["", "a" * 1025, "a\x00b", "a/../b", ".", "tab\t"])
def test_keys_are_checked_again(log, key):
    """A proposer that forgot its check cannot put a bad key into the state."""
    with pytest.raises(InvalidNameError):
        log.apply(publish(key))
    with pytest.raises(InvalidNameError):
        log.apply(DeleteFile(bucket="default", key=key, stamp=stamp()))


@pytest.mark.parametrize(
    "bad",
    [
        FileContent(size_bytes=1, chunk_size_bytes=10, chunk_digests=b"", digest="ab" * 32),
        FileContent(size_bytes=0, chunk_size_bytes=10, chunk_digests=b"x" * 32, digest="ab" * 32),
        FileContent(size_bytes=11, chunk_size_bytes=10, chunk_digests=b"x" * 32, digest="ab" * 32),
        FileContent(size_bytes=10, chunk_size_bytes=10, chunk_digests=b"x" * 31, digest="ab" * 32),
        FileContent(size_bytes=10, chunk_size_bytes=10, chunk_digests=b"x" * 32, digest="ab" * 31),
        FileContent(size_bytes=1 << 63, chunk_size_bytes=1 << 63, chunk_digests=b"x" * 32, digest="ab" * 32),
    ],
    ids=["no chunk", "chunk of nothing", "one too few", "cut digest", "short body digest", "beyond 63 bits"],
)
def test_chunks_must_add_up_to_the_size(log, bad):
    """A version that could not be read is not published."""
    with pytest.raises(InvalidRequestError):
        log.apply(publish("a", content=bad))
    assert log.ask(GetFile(bucket="default", key="a")).file is None


def test_a_publish_into_an_absent_bucket_is_rejected(log):
    """404, and nothing is stored."""
    with pytest.raises(BucketNotFoundError):
        log.apply(publish("a", bucket="photos"))


def test_a_bucket_made_again_in_mid_upload_is_a_conflict(log):
    """The upload began in the bucket that is gone."""
    old = log.apply(CreateBucket(bucket="photos", stamp=stamp()))["incarnation"]
    log.apply(DeleteBucket(bucket="photos", stamp=stamp()))
    new = log.apply(CreateBucket(bucket="photos", stamp=stamp()))["incarnation"]
    with pytest.raises(BucketRecreatedError) as refused:
        log.apply(publish("a", bucket="photos", incarnation=old))
    assert refused.value.facts["incarnation"] == new
    assert log.apply(publish("a", bucket="photos", incarnation=new))["created"]


def test_a_node_that_was_removed_does_not_count(log):
    """An upload that counts a removed node is rejected; one that does not goes on."""
    log.apply(RemoveNode(node_id="storage-2", stamp=stamp()))
    with pytest.raises(NodeRemovedError) as refused:
        log.apply(publish("a"))
    assert refused.value.facts["node_id"] == "storage-2"
    log.apply(publish("a", durability=durable_on("storage-1", "storage-3")))


def test_a_node_admitted_again_counts_only_for_uploads_that_began_later(log):
    """Between removal and return its disk may have become another."""
    before = log.store.node_map().epoch
    log.apply(RemoveNode(node_id="storage-2", stamp=stamp()))
    log.apply(AdmitNode(node_id="storage-2", stamp=stamp()))
    with pytest.raises(NodeRemovedError):
        log.apply(publish("a", epoch=before))
    with pytest.raises(NodeRemovedError):
        log.apply(publish("a", epoch=log.store.node_map().epoch - 1))
    log.apply(publish("a", epoch=log.store.node_map().epoch))


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "holds_when_absent", "holds_for_etag_1"),
    [
        (None, None, True, True),
        (["*"], None, False, True),
        (["etag-1"], None, False, True),
        (["etag-0", "etag-1"], None, False, True),
        (["etag-0"], None, False, False),
        ([], None, False, False),
        (None, ["*"], True, False),
        (None, ["etag-1"], True, False),
        (None, ["etag-0"], True, True),
        (None, [], True, True),
        (["etag-1"], ["etag-0"], False, True),
        (["etag-1"], ["etag-1"], False, False),
    ],
)
def test_preconditions(log, if_match, if_none_match, holds_when_absent, holds_for_etag_1):
    """If-Match and If-None-Match are judged at the instant of the change, against what exists then."""
    conditional = {"if_match": if_match, "if_none_match": if_none_match, "etag": "etag-2"}
    outcome = log.propose(publish("absent", **conditional))
    assert (outcome.problem is None) == holds_when_absent
    if outcome.problem is not None:
        assert (outcome.problem["code"], outcome.problem["version"]) == ("precondition_failed", 0)
    version = log.next_index
    log.apply(publish("present"))
    outcome = log.propose(publish("present", **conditional))
    assert (outcome.problem is None) == holds_for_etag_1
    if outcome.problem is not None:
        assert (outcome.problem["version"], outcome.problem["etag"]) == (version, "etag-1")
    kept = log.ask(GetFile(bucket="default", key="present")).file.etag
    assert kept == ("etag-2" if holds_for_etag_1 else "etag-1")


def test_a_deleted_file_leaves_the_index_of_its_deletion(log):
    """A 404 carries the version that deleted the key; a key that was never seen carries 0."""
    log.apply(publish("a"))
    index = log.next_index
    assert log.apply(DeleteFile(bucket="default", key="a", stamp=stamp())) == {"version": index}
    answer = log.ask(GetFile(bucket="default", key="a"))
    assert (answer.has_bucket, answer.file, answer.version) == (True, None, index)
    assert log.ask(GetFile(bucket="default", key="b")).version == 0


def test_the_tombstone_survives_its_bucket(log):
    """X-Trivet-Version of a key never goes back, though its bucket was deleted and made again."""
    incarnation = log.apply(CreateBucket(bucket="photos", stamp=stamp()))["incarnation"]
    log.apply(publish("a", bucket="photos", incarnation=incarnation, stamp=stamp(900)))
    deleted = log.apply(DeleteFile(bucket="photos", key="a", stamp=stamp()))["version"]
    log.apply(DeleteBucket(bucket="photos", stamp=stamp()))
    answer = log.ask(GetFile(bucket="photos", key="a"))
    assert (answer.has_bucket, answer.version) == (False, deleted)
    again = log.apply(CreateBucket(bucket="photos", stamp=stamp()))["incarnation"]
    answer = log.ask(GetFile(bucket="photos", key="a"))
    assert (answer.has_bucket, answer.incarnation, answer.version) == (True, again, deleted)
    log.apply(publish("a", bucket="photos", incarnation=again))
    assert log.ask(GetFile(bucket="photos", key="a")).file.modified_ns > 900_000_000_000


def test_a_key_that_came_back_may_be_deleted_again(log):
    """Its tombstone goes when it comes back; the next deletion has an index of its own."""
    for _ in range(2):
        log.apply(publish("a"))
        deleted = log.apply(DeleteFile(bucket="default", key="a", stamp=stamp()))
        assert log.ask(GetFile(bucket="default", key="a")).version == deleted["version"] == log.store.last_applied


def test_deleting_what_is_absent_is_not_found_whatever_the_conditions(log):
    """RFC 9110 ignores preconditions where the answer would not be a success anyway."""
    for preconditions in (Preconditions(), Preconditions(if_match=["*"])):
        with pytest.raises(FileNotFoundInBucketError) as refused:
            log.apply(DeleteFile(bucket="default", key="a", preconditions=preconditions, stamp=stamp()))
        assert refused.value.facts["version"] == 0
    log.apply(publish("a"))
    deleted = log.apply(DeleteFile(bucket="default", key="a", stamp=stamp()))["version"]
    with pytest.raises(FileNotFoundInBucketError) as refused:
        log.apply(DeleteFile(bucket="default", key="a", stamp=stamp()))
    assert refused.value.facts["version"] == deleted
    with pytest.raises(BucketNotFoundError):
        log.apply(DeleteFile(bucket="photos", key="a", stamp=stamp()))


def test_a_file_of_a_bucket_that_is_gone_still_says_when_it_was_last_changed(log):
    """The refusal of a write or a deletion carries it."""
    incarnation = log.apply(CreateBucket(bucket="photos", stamp=stamp()))["incarnation"]
    log.apply(publish("a", bucket="photos", incarnation=incarnation))
    deleted = log.apply(DeleteFile(bucket="photos", key="a", stamp=stamp()))["version"]
    log.apply(DeleteBucket(bucket="photos", stamp=stamp()))
    for command in (
        publish("a", bucket="photos", incarnation=incarnation),
        DeleteFile(bucket="photos", key="a", stamp=stamp()),
    ):
        with pytest.raises(BucketNotFoundError) as refused:
            log.apply(command)
        assert refused.value.facts["version"] == deleted


def test_a_conditional_delete_deletes_only_the_version_it_names(log):
    """A wrong etag leaves the file."""
    log.apply(publish("a"))
    with pytest.raises(PreconditionFailedError):
        log.apply(
            DeleteFile(bucket="default", key="a", preconditions=Preconditions(if_match=["etag-0"]), stamp=stamp())
        )
    assert log.ask(GetFile(bucket="default", key="a")).file is not None
    log.apply(DeleteFile(bucket="default", key="a", preconditions=Preconditions(if_match=["etag-1"]), stamp=stamp()))


def test_stamps_only_grow_in_apply(log):
    """A proposer with a slow clock gets the stamp after the one before it; one with a fast clock keeps its own."""
    log.apply(publish("a", stamp=stamp(100)))
    log.apply(publish("b", stamp=stamp(50)))
    log.apply(publish("c", stamp=stamp(200)))
    hlcs = [log.ask(GetFile(bucket="default", key=key)).file.stamp.hlc for key in "abc"]
    assert hlcs == [stamp(100).hlc, stamp(100, counter=1).hlc, stamp(200).hlc]
    assert log.store.highest_hlc() == stamp(200).hlc


def test_a_rejected_command_moves_the_time_too(log):
    """Its stamp was applied, so a later one comes after it."""
    log.propose(publish("a", bucket="photos", stamp=stamp(100)))
    assert log.store.highest_hlc() == stamp(100).hlc


def test_last_modified_grows_with_every_version_of_a_key(log):
    """Across replacement and deletion, whatever the proposers' clocks say."""
    seen = []
    for seconds in (100, 50, 50):
        log.apply(publish("a", stamp=stamp(seconds)))
        seen.append(log.ask(GetFile(bucket="default", key="a")).file.modified_ns)
    log.apply(DeleteFile(bucket="default", key="a", stamp=stamp(1)))
    log.apply(publish("a", stamp=stamp(1)))
    seen.append(log.ask(GetFile(bucket="default", key="a")).file.modified_ns)
    assert seen == sorted(set(seen))
    # In whole seconds, which is all that an HTTP date shows: else If-Modified-Since would hide a change.
    assert len({modified_ns // 1_000_000_000 for modified_ns in seen}) == len(seen)


def test_unmodified_since_is_held_against_the_version_that_is_there(log):
    """In whole seconds; without a file it holds. It decides in the log, like entity tags."""
    limit = Preconditions(unmodified_since_s=100)
    log.apply(publish("a", stamp=stamp(100), preconditions=limit))
    log.apply(publish("a", stamp=stamp(101), preconditions=limit))
    for refused in (
        publish("a", preconditions=limit, stamp=stamp(102)),
        DeleteFile(bucket="default", key="a", preconditions=limit, stamp=stamp(102)),
    ):
        with pytest.raises(PreconditionFailedError) as caught:
            log.apply(refused)
        assert caught.value.facts["precondition"] == "If-Unmodified-Since"
    log.apply(DeleteFile(bucket="default", key="a", preconditions=Preconditions(unmodified_since_s=101), stamp=stamp()))


def test_a_lying_clock_cannot_stop_the_log(log):
    """At the very end of the scale stamps stand still, and commands still apply."""
    end = stamp().model_copy(update={"hlc": (1 << 64) - 1})
    for key in "abc":
        log.apply(publish(key, stamp=end))
    assert log.store.highest_hlc() == (1 << 64) - 1
    assert log.ask(GetFile(bucket="default", key="c")).file.stamp.hlc == (1 << 64) - 1


def test_hybrid_timestamps_beyond_2038_keep_their_order(log):
    """They pass 2^63, where a signed column would context them around."""
    seconds = 1 << 31
    log.apply(publish("a", stamp=stamp(seconds - 10)))
    log.apply(publish("b", stamp=stamp(seconds + 10)))
    assert log.store.highest_hlc() == stamp(seconds + 10).hlc
    log.store.close()
    again = MetadataStore.open(log.path)
    assert again.highest_hlc() == stamp(seconds + 10).hlc
    again.close()
