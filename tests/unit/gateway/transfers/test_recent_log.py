"""What a gateway remembers of the log, for how long, and of which cluster."""

from __future__ import annotations

import pytest

from services.gateway.cluster_caches import ClusterCaches
from services.gateway.transfers.recent_log import MAX_BUCKETS, RecentLog, RememberedPosition
from shared.consensus_calls.client import ReadContext
from shared.contracts.calls import Proposed
from shared.contracts.cluster import NodeMap
from shared.contracts.metadata import (
    Bucket,
    BucketAnswer,
    ClusterAnswer,
    CreateBucket,
    DeleteBucket,
    FileAnswer,
    GetBucket,
    GetCluster,
    GetFile,
)
from shared.contracts.time import ClockState, Stamp
from shared.errors import LeaderUnavailableError

STAMP = Stamp(hlc=1, state=ClockState.LOGICAL)
MAX_AGE_S = 5.0
CLUSTER = ClusterAnswer(cluster_id="c-1", leader_id=None, members=[], node_map=NodeMap(epoch=1, nodes=[]))


def context(log_index: int, epoch: int = 1, cluster_id: str | None = "c-1") -> ReadContext:
    return ReadContext(log_index, 1, epoch, 0, cluster_id)


def bucket(name: str, incarnation: int) -> BucketAnswer:
    return BucketAnswer(bucket=Bucket(name=name, incarnation=incarnation, created_ns=0))


class Scripted:
    """Metadata whose next answers a test gives, and a clock."""

    def __init__(self) -> None:
        self.answers: list = []
        self.now_s = 100.0
        self.read_takes_s = 0.0

    async def read(self, query, *, deadline_s=None):
        self.now_s += self.read_takes_s
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def propose(
        self, command, *, request_id=None, retain_s=600, fingerprint=None, requester=None, deadline_s=None
    ):
        return Proposed.of(type(command), 50, 1, self.answers.pop(0))


@pytest.fixture
def metadata() -> Scripted:
    return Scripted()


@pytest.fixture
def recent(metadata) -> RecentLog:
    return RecentLog(metadata, ClusterCaches(), max_age_s=MAX_AGE_S, monotonic_s=lambda: metadata.now_s)


async def read(recent: RecentLog, metadata: Scripted, query, answer, at: ReadContext) -> None:
    metadata.answers.append((answer, at))
    assert await recent.read(query) == (answer, at)


async def know(recent: RecentLog, metadata: Scripted, name: str = "photos", incarnation: int = 4) -> None:
    await read(recent, metadata, GetBucket(bucket=name), bucket(name, incarnation), context(10))


async def test_nothing_is_known_before_a_read(recent) -> None:
    """A gateway that has just started reads."""
    assert recent.position("photos") is None


async def test_the_newest_read_of_any_kind_gives_index_and_epoch(recent, metadata) -> None:
    """Also one that overtook an older one, whose answer comes after it."""
    await know(recent, metadata)
    await read(recent, metadata, GetCluster(), CLUSTER, context(30, epoch=3))
    await read(recent, metadata, GetCluster(), CLUSTER, context(20, epoch=2))
    assert recent.position("photos") == RememberedPosition(incarnation=4, log_index=30, epoch=3)
    assert recent.position("others") is None


async def test_what_is_as_old_as_the_limit_counts_no_more(recent, metadata) -> None:
    """From the moment at which the read was asked for, not answered; an overtaken answer makes nothing younger."""
    metadata.read_takes_s = 1.0
    await know(recent, metadata)
    metadata.now_s += MAX_AGE_S - 1.0 - 0.001
    assert recent.position("photos") is not None
    metadata.now_s += 0.001
    assert recent.position("photos") is None
    await read(recent, metadata, GetCluster(), CLUSTER, context(9))
    assert recent.position("photos") is None
    await read(recent, metadata, GetCluster(), CLUSTER, context(10))
    assert recent.position("photos") is not None


async def test_an_age_of_nothing_switches_it_off(metadata) -> None:
    """Every upload reads first then."""
    recent = RecentLog(metadata, ClusterCaches(), max_age_s=0, monotonic_s=lambda: metadata.now_s)
    await know(recent, metadata)
    assert recent.position("photos") is None


async def test_another_cluster_empties_it(recent, metadata) -> None:
    """Whatever its index is, and whichever question its answer is to: buckets, index and epoch were another cluster's."""
    await know(recent, metadata)
    await know(recent, metadata, "videos", 6)
    await read(recent, metadata, GetCluster(), CLUSTER, context(3, cluster_id="c-2"))
    assert recent.position("photos") is None
    await read(recent, metadata, GetBucket(bucket="photos"), bucket("photos", 2), context(4, cluster_id="c-2"))
    assert recent.position("photos") == RememberedPosition(incarnation=2, log_index=4, epoch=1)
    assert recent.position("videos") is None


async def test_buckets_are_learnt_from_files_and_creations(recent, metadata) -> None:
    """And forgotten with a deletion, and with an answer that there is none."""
    await read(recent, metadata, GetFile(bucket="a", key="k"), FileAnswer(has_bucket=True, incarnation=7), context(10))
    metadata.answers.append({"created": True, "incarnation": 9})
    await recent.propose(CreateBucket(bucket="b", stamp=STAMP))
    assert [position.incarnation for name in "ab" if (position := recent.position(name))] == [7, 9]
    metadata.answers.append({})
    await recent.propose(DeleteBucket(bucket="b", stamp=STAMP))
    await read(recent, metadata, GetFile(bucket="a", key="k"), FileAnswer(has_bucket=False), context(11))
    assert [recent.position(name) for name in "ab"] == [None, None]
    await know(recent, metadata)
    await read(recent, metadata, GetBucket(bucket="photos"), BucketAnswer(bucket=None), context(12))
    assert recent.position("photos") is None


async def test_what_was_found_stale_is_forgotten_until_the_next_read(recent, metadata) -> None:
    """The bucket, and where the log stands; other buckets are known again with the next read."""
    await know(recent, metadata)
    await know(recent, metadata, "videos", 6)
    recent.forget("photos")
    assert [recent.position(name) for name in ("photos", "videos")] == [None, None]
    await read(recent, metadata, GetCluster(), CLUSTER, context(10))
    assert recent.position("photos") is None
    assert recent.position("videos") is not None


async def test_a_read_that_fails_teaches_nothing(recent, metadata) -> None:
    """What is known does not become younger by it."""
    await know(recent, metadata)
    metadata.now_s += MAX_AGE_S
    metadata.answers.append(LeaderUnavailableError("none"))
    with pytest.raises(LeaderUnavailableError):
        await recent.read(GetCluster())
    assert recent.position("photos") is None


async def test_the_number_of_buckets_is_bounded(recent, metadata) -> None:
    """Those not used for longest go."""
    for number in range(MAX_BUCKETS):
        await know(recent, metadata, f"b-{number}", number + 1)
    assert recent.position("b-0") is not None
    await know(recent, metadata, "one-more", 1 << 20)
    assert recent.position("b-0") is not None
    assert recent.position("b-1") is None


async def test_nothing_is_remembered_of_a_member_that_does_not_name_its_cluster(metadata) -> None:
    """It is of an older version; what was remembered before its answer is forgotten, too."""
    recent = RecentLog(metadata, ClusterCaches(), max_age_s=MAX_AGE_S, monotonic_s=lambda: metadata.now_s)
    ask = GetBucket(bucket="photos")
    for cluster_id, expected in (("c-1", RememberedPosition(7, 10, 1)), (None, None), (None, None)):
        metadata.answers = [(bucket("photos", 7), context(10, cluster_id=cluster_id))]
        await recent.read(ask)
        assert recent.position("photos") == expected
