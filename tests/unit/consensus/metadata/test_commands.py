"""Commands that make the cluster, its buckets, nodes and members."""

import pytest

from services.consensus.metadata.store import MetadataStore
from shared.contracts.cluster import NodeState
from shared.contracts.files import FileContent
from shared.contracts.metadata import (
    AdmitNode,
    AnnounceMember,
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    GetBucket,
    GetCluster,
    InitCluster,
    ListBuckets,
    PassTime,
    RaiseEntryVersion,
    RemoveNode,
    SetNodeState,
    UpdateNode,
)
from shared.errors import (
    BucketNotEmptyError,
    BucketNotFoundError,
    BucketProtectedError,
    ClusterMismatchError,
    InvalidNameError,
    InvalidRequestError,
    NodeNotFoundError,
    NotReadyError,
    TooManyBucketsError,
)
from tests.unit.consensus.metadata.builders import Log, publish, referring_versions, stamp

INIT = InitCluster(cluster_id="trivet-test", admitted_nodes=["storage-2", "storage-1", "storage-1"], stamp=stamp())


def update(node_id: str = "storage-1", **changes) -> UpdateNode:
    fields = {"url": f"http://{node_id}", "zone": "a", "capacity_bytes": 100, "stamp": stamp()}
    return UpdateNode(node_id=node_id, **fields | changes)


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


def test_chunks_stay_referenced_by_superseded_and_deleted_versions(log):
    """A reader in mid-stream must not lose its chunks; repeated chunks count once per version."""
    digest = b"x" * 32
    twice = FileContent(size_bytes=20, chunk_size_bytes=10, chunk_digests=digest * 2, digest="ab" * 32)
    first = log.apply(publish("a", content=twice))["version"]["version"]
    second = log.apply(publish("a", content=twice))["version"]["version"]
    log.apply(DeleteFile(bucket="default", key="a", stamp=stamp()))
    assert referring_versions(log.store, digest) == [first, second]


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
