"""Every command: its result, its effect, and each way in which it is rejected."""

import pytest

from services.consensus.metadata.store import MetadataStore
from shared.contracts.cluster import NodeState
from shared.contracts.files import Durability, FileContent, FileVersion, Preconditions
from shared.contracts.metadata import (
    AdmitNode,
    AnnounceMember,
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    GetBucket,
    GetCluster,
    GetFile,
    GetRequest,
    InitCluster,
    ListBuckets,
    ListFiles,
    PassTime,
    RaiseEntryVersion,
    RemoveNode,
    RequestAnswer,
    SetNodeState,
    UpdateNode,
)
from shared.errors import (
    BucketNotEmptyError,
    BucketNotFoundError,
    BucketProtectedError,
    BucketRecreatedError,
    ClusterMismatchError,
    CursorExpiredError,
    FileNotFoundInBucketError,
    InvalidNameError,
    InvalidRequestError,
    NodeNotFoundError,
    NodeRemovedError,
    NotReadyError,
    PreconditionFailedError,
    TooManyBucketsError,
)
from tests.unit.consensus.metadata.builders import Log, content, publish, referring_versions, stamp

INIT = InitCluster(cluster_id="trivet-test", admitted_nodes=["storage-2", "storage-1", "storage-1"], stamp=stamp())


def update(node_id: str = "storage-1", **changes) -> UpdateNode:
    fields = {"url": f"http://{node_id}", "zone": "a", "capacity_bytes": 100, "stamp": stamp()}
    return UpdateNode(node_id=node_id, **fields | changes)


def durable_on(*node_ids: str) -> Durability:
    return Durability(target=3, acknowledged=2, nodes=list(node_ids))


# --- init ---------------------------------------------------------------------------------------------------------


def test_init_makes_the_default_bucket_and_admits_the_nodes(tmp_path):
    """The cluster id, the bucket `default` and each named node exist from then on."""
    log = Log(tmp_path / "m", is_initialised=False)
    assert log.store.cluster_id is None
    assert log.apply(INIT) == {"created": True}
    assert log.store.cluster_id == "trivet-test"
    assert log.ask(GetBucket(bucket="default")).bucket.incarnation == 1
    assert [node.id for node in log.ask(GetCluster()).node_map.nodes] == ["storage-1", "storage-2"]
    assert log.ask(GetCluster()).cluster_id == "trivet-test"
    log.store.close()


def test_init_again_changes_nothing(log):
    """The same id is welcome, another one is refused; neither admits nodes."""
    epoch = log.store.node_map().epoch
    assert log.apply(INIT) == {"created": False}
    with pytest.raises(ClusterMismatchError) as refused:
        log.apply(INIT.model_copy(update={"cluster_id": "another-one"}))
    assert refused.value.facts == {"cluster_id": "trivet-test"}
    assert log.store.node_map().epoch == epoch


def test_init_with_a_bad_node_id_makes_no_cluster(tmp_path):
    """A rejected init leaves nothing behind, not even the nodes before the bad one."""
    log = Log(tmp_path / "m", is_initialised=False)
    with pytest.raises(InvalidNameError):
        log.apply(INIT.model_copy(update={"admitted_nodes": ["storage-1", "Storage 2"]}))
    assert log.store.cluster_id is None
    assert log.store.node_map().nodes == []
    log.store.close()


@pytest.mark.parametrize(
    "command",
    [
        CreateBucket(bucket="photos", stamp=stamp()),
        DeleteBucket(bucket="photos", stamp=stamp()),
        publish("a"),
        DeleteFile(bucket="default", key="a", stamp=stamp()),
        AdmitNode(node_id="storage-1", stamp=stamp()),
        update(),
        SetNodeState(node_id="storage-1", state=NodeState.ACTIVE, stamp=stamp()),
        RemoveNode(node_id="storage-1", stamp=stamp()),
        PassTime(elapsed_ms=1, cursor_retention_s=1, tombstone_retention_s=1, stamp=stamp()),
        AnnounceMember(member_id="consensus-1", entry_version=1, stamp=stamp()),
        RaiseEntryVersion(entry_version=2, stamp=stamp()),
    ],
    ids=lambda command: command.kind,
)
def test_nothing_happens_before_init(tmp_path, command):
    """Every other command is rejected until the cluster exists."""
    log = Log(tmp_path / "m", is_initialised=False)
    with pytest.raises(NotReadyError) as refused:
        log.apply(command)
    assert refused.value.definite
    log.store.close()


# --- buckets ------------------------------------------------------------------------------------------------------


def test_a_bucket_is_made_once(log):
    """Making it again reports the incarnation that exists."""
    index = log.next_index
    assert log.apply(CreateBucket(bucket="photos", stamp=stamp(9))) == {"created": True, "incarnation": index}
    assert log.apply(CreateBucket(bucket="photos", stamp=stamp())) == {"created": False, "incarnation": index}
    bucket = log.ask(GetBucket(bucket="photos")).bucket
    assert (bucket.name, bucket.incarnation, bucket.created_ns) == ("photos", index, 9_000_000_000)


def test_buckets_are_listed_by_name(log):
    """Deleted ones are left out."""
    for name in ("zebra", "apple", "mango"):
        log.apply(CreateBucket(bucket=name, stamp=stamp()))
    log.apply(DeleteBucket(bucket="mango", stamp=stamp()))
    assert [bucket.name for bucket in log.ask(ListBuckets()).buckets] == ["apple", "default", "zebra"]


def test_buckets_are_listed_in_pages(log):
    """Each page starts after the last name of the one before, and only the last says that there is no more."""
    for number in range(4):
        log.apply(CreateBucket(bucket=f"b-{number}", stamp=stamp()))
    log.apply(DeleteBucket(bucket="b-1", stamp=stamp()))
    pages, after = [], None
    for _ in range(3):
        page = log.ask(ListBuckets(limit=2, after=after))
        pages.append(([bucket.name for bucket in page.buckets], page.has_more))
        after = page.buckets[-1].name if page.buckets else after
    assert pages == [(["b-0", "b-2"], True), (["b-3", "default"], False), ([], False)]


def test_one_bucket_more_than_the_limit_is_refused(log):
    """Counted when the entry is applied: with `default`, two more are three, and a fourth is refused until one goes."""
    for name in ("b-1", "b-2"):
        log.apply(CreateBucket(bucket=name, limit=3, stamp=stamp()))
    with pytest.raises(TooManyBucketsError) as refusal:
        log.apply(CreateBucket(bucket="b-3", limit=3, stamp=stamp()))
    assert (refusal.value.definite, refusal.value.facts) == (True, {"limit": 3})
    assert log.apply(CreateBucket(bucket="b-2", limit=3, stamp=stamp()))["created"] is False
    log.apply(DeleteBucket(bucket="b-1", stamp=stamp()))
    assert log.apply(CreateBucket(bucket="b-3", limit=3, stamp=stamp()))["created"] is True


@pytest.mark.parametrize("name", ["", "ab", "Photos", "a..b", "127.0.0.1", "a" * 64])
def test_bucket_names_are_checked_again(log, name):
    """A proposer that forgot its check cannot put a bad name into the state."""
    with pytest.raises(InvalidNameError):
        log.apply(CreateBucket(bucket=name, stamp=stamp()))


def test_only_an_empty_bucket_is_deleted(log):
    """A bucket with one file stays; without it, it goes."""
    incarnation = log.apply(CreateBucket(bucket="photos", stamp=stamp()))["incarnation"]
    log.apply(publish("a", bucket="photos", incarnation=incarnation))
    with pytest.raises(BucketNotEmptyError):
        log.apply(DeleteBucket(bucket="photos", stamp=stamp()))
    log.apply(DeleteFile(bucket="photos", key="a", stamp=stamp()))
    assert log.apply(DeleteBucket(bucket="photos", stamp=stamp())) == {}
    assert log.ask(GetBucket(bucket="photos")).bucket is None


def test_absent_and_protected_buckets_are_not_deleted(log):
    """404 for a bucket that is not there, 409 for `default`."""
    with pytest.raises(BucketNotFoundError):
        log.apply(DeleteBucket(bucket="photos", stamp=stamp()))
    with pytest.raises(BucketProtectedError):
        log.apply(DeleteBucket(bucket="default", stamp=stamp()))


# --- publish ------------------------------------------------------------------------------------------------------


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


# --- delete -------------------------------------------------------------------------------------------------------


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


# --- time ---------------------------------------------------------------------------------------------------------


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


# --- requests -----------------------------------------------------------------------------------------------------


def test_a_repeated_request_gets_the_stored_result_and_changes_nothing(log):
    """A success, a plain result and a rejection are each repeated word for word."""
    log.apply(publish("a"))
    for request_id, command in (
        ("published", publish("b", content=content(2500))),
        ("replaced", publish("a", content=content(500))),
        ("plain", DeleteFile(bucket="default", key="a", stamp=stamp())),
        ("rejected", publish("c", if_match=["*"])),
    ):
        first = log.propose(command, request_id=request_id, term=3)
        before = log.store.highest_hlc(), log.ask(ListFiles(bucket="default")).files
        assert log.propose(publish("other"), request_id=request_id, term=9) == first
        assert (log.store.highest_hlc(), log.ask(ListFiles(bucket="default")).files) == before
        assert first.term == 3


def test_a_repeated_publish_is_answered_after_it_was_replaced_and_deleted(log):
    """The stored result outlives the version's place in the bucket."""
    first = log.propose(publish("a"), request_id="once")
    log.apply(publish("a", etag="etag-2"))
    log.apply(DeleteFile(bucket="default", key="a", stamp=stamp()))
    assert log.propose(publish("a"), request_id="once") == first


def test_a_rejection_stands_even_if_the_reason_is_gone(log):
    """Its proposer was told that it certainly did not happen; a late duplicate must not make it happen."""
    first = log.propose(publish("a", bucket="photos", incarnation=3), request_id="once")
    assert first.problem["code"] == "bucket_not_found"
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    assert log.propose(publish("a", bucket="photos", incarnation=3), request_id="once") == first


def test_a_remembered_id_is_not_lent_to_another_fingerprint(log):
    """The other proposal is rejected and changes nothing; the first one's result stays."""
    first = log.propose(publish("a"), request_id="once", fingerprint="f1")
    for other in ("f2", None):
        refused = log.propose(publish("a", etag="etag-2"), request_id="once", fingerprint=other)
        assert refused.problem["code"] == "idempotency_key_reused"
        assert refused.problem["definite"]
    assert log.propose(publish("a"), request_id="once", fingerprint="f1") == first
    assert log.ask(GetFile(bucket="default", key="a")).file.etag == "etag-1"


def test_what_became_of_a_request_can_be_asked(log):
    """Result and fingerprint, a rejection included; nothing for an unknown id."""
    published = log.propose(publish("a"), request_id="published", fingerprint="f1")
    rejected = log.propose(publish("b", if_match=["*"]), request_id="rejected")
    assert log.ask(GetRequest(request_id="published")) == RequestAnswer(result=published, fingerprint="f1")
    assert log.ask(GetRequest(request_id="rejected")) == RequestAnswer(result=rejected)
    assert log.ask(GetRequest(request_id="unknown")) == RequestAnswer()


def test_a_result_that_nobody_wants_kept_is_not_stored(log):
    """Retention 0 costs no row: the same id is a new proposal."""
    assert log.apply(publish("a"), request_id="x", retain_s=0)["created"]
    assert not log.apply(publish("a"), request_id="x", retain_s=0)["created"]


# --- nodes --------------------------------------------------------------------------------------------------------


def node(log, node_id):
    return next(node for node in log.store.node_map().nodes if node.id == node_id)


def test_an_admitted_node_is_away_until_it_announces_itself(log):
    """Its first announcement makes it active; later ones leave its state alone."""
    assert node(log, "storage-1").state == NodeState.INACTIVE
    log.apply(update())
    assert node(log, "storage-1").state == NodeState.ACTIVE
    assert (node(log, "storage-1").url, node(log, "storage-1").zone) == ("http://storage-1", "a")
    log.apply(SetNodeState(node_id="storage-1", state=NodeState.INACTIVE, stamp=stamp()))
    log.apply(update(capacity_bytes=200))
    assert node(log, "storage-1").state == NodeState.INACTIVE


def test_the_epoch_grows_exactly_when_placement_sees_a_change(log):
    """Repeating what is known changes nothing."""
    steps = [
        (update(), 1),
        (update(), 0),
        (update(url="http://elsewhere"), 1),
        (update(url="http://elsewhere", zone="b"), 1),
        (update(url="http://elsewhere", zone="b", capacity_bytes=7), 1),
        (update(url="http://elsewhere", zone="b", capacity_bytes=7), 0),
        (SetNodeState(node_id="storage-1", state=NodeState.DRAINING, stamp=stamp()), 1),
        (SetNodeState(node_id="storage-1", state=NodeState.DRAINING, stamp=stamp()), 0),
        (AdmitNode(node_id="storage-1", stamp=stamp()), 0),
        (AdmitNode(node_id="storage-9", stamp=stamp()), 1),
        (RemoveNode(node_id="storage-9", stamp=stamp()), 1),
        (publish("a"), 0),
    ]
    for command, growth in steps:
        before = log.store.node_map().epoch
        result = log.apply(command)
        assert log.store.node_map().epoch - before == growth, command
        assert result.get("epoch", before + growth) == before + growth
        assert log.ask(GetCluster()).node_map == log.store.node_map()


def test_unknown_nodes_are_rejected(log):
    """Updating, marking and removing need a node that was admitted."""
    for command in (
        update("storage-9"),
        SetNodeState(node_id="storage-9", state=NodeState.ACTIVE, stamp=stamp()),
        RemoveNode(node_id="storage-9", stamp=stamp()),
    ):
        with pytest.raises(NodeNotFoundError):
            log.apply(command)


def test_bad_node_facts_are_rejected(log):
    """An id that is no label, and a capacity that no column holds."""
    with pytest.raises(InvalidNameError):
        log.apply(AdmitNode(node_id="Storage_1", stamp=stamp()))
    for capacity_bytes in (-1, 1 << 63):
        with pytest.raises(InvalidRequestError):
            log.apply(update(capacity_bytes=capacity_bytes))


# --- chunk references ---------------------------------------------------------------------------------------------


def test_chunks_stay_referenced_by_superseded_and_deleted_versions(log):
    """A reader in mid-stream must not lose its chunks; repeated chunks count once per version."""
    digest = b"x" * 32
    twice = FileContent(size_bytes=20, chunk_size_bytes=10, chunk_digests=digest * 2, digest="ab" * 32)
    first = log.apply(publish("a", content=twice))["version"]["version"]
    second = log.apply(publish("a", content=twice))["version"]["version"]
    log.apply(DeleteFile(bucket="default", key="a", stamp=stamp()))
    assert referring_versions(log.store, digest) == [first, second]


# --- lists pinned to an index -------------------------------------------------------------------------------------


def test_a_pinned_list_shows_what_existed_then(log):
    """Later publishes, replacements and deletions do not show, in a bucket that was made again neither."""
    incarnation = log.apply(CreateBucket(bucket="photos", stamp=stamp()))["incarnation"]
    for key in "abc":
        log.apply(publish(key, bucket="photos", incarnation=incarnation))
    pinned = log.ask(ListFiles(bucket="photos", limit=2))
    log.apply(publish("b", bucket="photos", incarnation=incarnation, etag="etag-2"))
    log.apply(publish("bb", bucket="photos", incarnation=incarnation))
    for key in ("a", "b", "bb", "c"):
        log.apply(DeleteFile(bucket="photos", key=key, stamp=stamp()))
    log.apply(DeleteBucket(bucket="photos", stamp=stamp()))
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    assert log.ask(ListFiles(bucket="photos")).files == []
    again = log.ask(ListFiles(bucket="photos", limit=2, at_index=pinned.at_index))
    assert again == pinned
    rest = log.ask(ListFiles(bucket="photos", at_index=pinned.at_index, after_key=pinned.last_key))
    assert ([file.key for file in rest.files], rest.has_more) == (["c"], False)
    assert not log.ask(ListFiles(bucket="photos", at_index=1)).has_bucket


def test_a_pinned_list_changes_exactly_at_the_index_of_a_change(log):
    """At the index of a replacement the new version shows and the old does not; at that of a deletion, neither."""
    first, second = (log.apply(publish("a"))["version"]["version"] for _ in range(2))
    deleted = log.apply(DeleteFile(bucket="default", key="a", stamp=stamp()))["version"]
    log.apply(publish("b"))
    shown = [
        [file.version for file in log.ask(ListFiles(bucket="default", at_index=at_index)).files]
        for at_index in (first - 1, first, second, deleted)
    ]
    assert shown == [[], [first], [second], []]


def test_a_bucket_exists_from_the_index_that_made_it_until_the_one_that_deleted_it(log):
    """A pinned list tells an empty bucket from an absent one."""
    made = log.apply(CreateBucket(bucket="photos", stamp=stamp()))["incarnation"]
    log.apply(DeleteBucket(bucket="photos", stamp=stamp()))
    log.apply(publish("a"))
    shown = [log.ask(ListFiles(bucket="photos", at_index=at)).has_bucket for at in (made - 1, made, made + 1)]
    assert shown == [False, True, False]


def test_a_list_cannot_be_pinned_to_the_future_or_below_the_horizon(log):
    """Both are told apart from an empty list."""
    with pytest.raises(InvalidRequestError):
        log.ask(ListFiles(bucket="default", at_index=log.next_index))
    log.ask(ListFiles(bucket="default", at_index=log.store.last_applied))
    with pytest.raises(CursorExpiredError):
        log.ask(ListFiles(bucket="default", at_index=-1))


# --- members ------------------------------------------------------------------------------------------------------


def test_what_may_be_proposed_is_raised_to_what_a_member_announced_and_never_goes_back(log):
    """Not beyond what anybody knows; lower is no change; a member that leaves is forgotten."""
    with pytest.raises(InvalidRequestError):
        log.apply(RaiseEntryVersion(entry_version=1, stamp=stamp()))
    log.apply(AnnounceMember(member_id="consensus-1", entry_version=3, stamp=stamp()))
    log.apply(AnnounceMember(member_id="consensus-2", entry_version=2, stamp=stamp()))
    assert log.apply(RaiseEntryVersion(entry_version=2, stamp=stamp())) == {"entry_version": 2}
    assert log.apply(RaiseEntryVersion(entry_version=1, stamp=stamp())) == {"entry_version": 2}
    with pytest.raises(InvalidRequestError):
        log.apply(RaiseEntryVersion(entry_version=4, stamp=stamp()))
    assert log.store.summary().entry_version == 2
    log.apply(AnnounceMember(member_id="consensus-1", entry_version=None, stamp=stamp()))
    assert log.store.announced() == {"consensus-2": 2}
    log.store.close()
    again = MetadataStore.open(log.path)
    assert (again.announced(), again.summary().entry_version) == ({"consensus-2": 2}, 2)
    again.close()


@pytest.mark.parametrize("entry_version", [-1, 1 << 63])
def test_an_announcement_that_no_column_holds_is_rejected(log, entry_version):
    """Instead of stopping every member at the same entry."""
    with pytest.raises(InvalidRequestError):
        log.apply(AnnounceMember(member_id="consensus-1", entry_version=entry_version, stamp=stamp()))


def test_a_transient_refusal_is_not_stored_under_the_key_of_a_client(log):
    """The next attempt may succeed; the refused one never happens any more, however late it is sent again."""
    log.apply(RemoveNode(node_id="storage-2", stamp=stamp()))
    late = publish("a")
    first = log.propose(late, request_id="key", fingerprint="f1", attempt_id="a1")
    assert first.problem is not None
    assert first.problem["code"] == "node_removed"
    assert log.ask(GetRequest(request_id="key")) == RequestAnswer()
    retry = publish("a", durability=Durability(target=3, acknowledged=2, nodes=["storage-1", "storage-3"]))
    second = log.propose(retry, request_id="key", fingerprint="f1", attempt_id="a2")
    assert second.problem is None
    assert log.ask(GetRequest(request_id="key")) == RequestAnswer(result=second, fingerprint="f1")
    assert log.propose(retry, request_id="key", fingerprint="f1", attempt_id="a2") == second
    assert log.propose(late, request_id="key", fingerprint="f1", attempt_id="a1") == first
    assert log.propose(retry, request_id="key", fingerprint="f1", attempt_id="a3") == second


def test_a_refused_attempt_that_is_sent_again_stays_refused(log):
    """Also when it would succeed by now: its proposer was told that it certainly did not happen."""
    command = publish("a", bucket="photos", incarnation=1)
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    first = log.propose(command, request_id="key", fingerprint="f1", attempt_id="a1")
    assert first.problem is not None
    assert first.problem["code"] == "bucket_recreated"
    sound = publish("a")
    assert log.propose(sound, request_id="key", fingerprint="f1", attempt_id="a1") == first


def test_a_final_refusal_is_stored_under_the_key_whatever_the_attempt(log):
    """Precondition, absence: the repeat hears the same, though things have changed."""
    missing = DeleteFile(bucket="default", key="a", stamp=stamp())
    first = log.propose(missing, request_id="key", fingerprint="f1", attempt_id="a1")
    assert first.problem is not None
    log.apply(publish("a"))
    assert log.propose(missing, request_id="key", fingerprint="f1", attempt_id="a2") == first
    held = publish("b", if_match=["other"])
    refused = log.propose(held, request_id="key-2", fingerprint="f1", attempt_id="a3")
    assert refused.problem is not None
    assert refused.problem["code"] == "precondition_failed"
    assert log.propose(held, request_id="key-2", fingerprint="f1", attempt_id="a4") == refused


def test_the_attempt_of_a_reused_key_is_told_so(log):
    """422 comes before anything is run."""
    log.propose(publish("a"), request_id="key", fingerprint="f1", attempt_id="a1")
    other = log.propose(publish("b"), request_id="key", fingerprint="f2", attempt_id="a2")
    assert other.problem is not None
    assert other.problem["code"] == "idempotency_key_reused"
