from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from services.storage.heartbeat import HeartbeatSender
from services.storage.incarnation import Incarnation
from services.storage.metrics import StorageMetrics
from shared.background_tasks import BackgroundTasks
from shared.contracts.cluster import MAX_CAPACITY_BYTES, HealthReport, Heartbeat, HeartbeatResponse, NodeRun
from shared.errors import (
    ClusterMismatchError,
    InvalidRequestError,
    NotLeaderError,
    NotReadyError,
    PeerUnreachableError,
    RunSupersededError,
    SignatureRejectedError,
    UnavailableError,
)
from shared.peer_address import PeerAddress
from shared.roles import Role

MEMBERS = [PeerAddress(f"consensus-{n}", f"http://127.0.0.1:820{n}", Role.CONSENSUS) for n in (1, 2, 3)]
ADMITTED = HeartbeatResponse(is_admitted=True, cluster_id="test-cluster", epoch=3, fence=2, is_run_recorded=True)
HEARTBEAT = Heartbeat(
    cluster_id="test-cluster",
    run=NodeRun(disk_id="d" * 32, counter=1, boot_id="b" * 32),
    url="http://127.0.0.1:8101",
    zone="z",
    capacity_bytes=10,
    used_bytes=1,
    chunk_count=1,
)


class FakeMembers:
    """Answers as told, by member id; remembers who was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, object] = {}
        self.asked: list[str] = []

    async def call(self, peer, method, path, answer, *, body, timeout_s):
        assert (method, path, body) == ("POST", "/v1/nodes/storage-1/heartbeat", HEARTBEAT)
        self.asked.append(peer.id)
        found = self.answers[peer.id]
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def members():
    return FakeMembers()


@pytest.fixture
def incarnation() -> Incarnation:
    return Incarnation(Path("/nowhere"), lambda: None, is_redis_record=False)


def make_sender(members, describe, incarnation, news: Callable[[], object] = lambda: True) -> HeartbeatSender:
    metrics = StorageMetrics(CollectorRegistry())
    return HeartbeatSender(
        "storage-1",
        MEMBERS,
        members,
        describe,
        metrics,
        news=news,
        incarnation=incarnation,
        interval_s=30,
        retry_base_s=5,
    )


@pytest.fixture
def sender(members, incarnation):
    async def describe() -> Heartbeat:
        return HEARTBEAT

    return make_sender(members, describe, incarnation)


async def beats(sender: HeartbeatSender, monkeypatch, on_pause: Callable[[float], None]) -> None:
    """Run the sender until `on_pause`, which is called with every pause instead of waiting, raises CancelledError."""
    real_sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        if seconds:
            on_pause(seconds)
        await real_sleep(0)

    monkeypatch.setattr(asyncio, "sleep", pause)
    monkeypatch.setattr(sender, "_pause", pause)
    with pytest.raises(asyncio.CancelledError):
        await BackgroundTasks().every("heartbeat", 1.0, sender.beat, first_after_s=0)


async def test_the_named_leader_is_followed_and_remembered(members, sender):
    """A member that does not lead names the leader, who is asked next, and first the next time."""
    follower = NotLeaderError("no", leader_id="consensus-3", leader_url=MEMBERS[2].url)
    members.answers = {"consensus-1": follower, "consensus-2": follower, "consensus-3": ADMITTED}
    assert await sender.send()
    assert await sender.send()
    assert members.asked == ["consensus-1", "consensus-3", "consensus-3"]
    assert sender.was_accepted


async def test_dead_members_are_passed_over(members, sender):
    """With two members gone, the third is found within one heartbeat."""
    dead = PeerUnreachableError("gone")
    members.answers = {"consensus-1": dead, "consensus-2": dead, "consensus-3": ADMITTED}
    assert await sender.send()
    assert members.asked == ["consensus-1", "consensus-2", "consensus-3"]


async def test_nobody_there_is_a_failure_with_a_bounded_number_of_calls(members, sender):
    """Without a leader a heartbeat fails after each member was asked at most twice."""
    lost = NotLeaderError("no", leader_id=None, leader_url=None)
    members.answers = {"consensus-1": lost, "consensus-2": PeerUnreachableError("gone"), "consensus-3": lost}
    assert not await sender.send()
    assert len(members.asked) <= 6
    assert {"consensus-1", "consensus-2", "consensus-3"} == set(members.asked)
    assert not sender.was_accepted


async def test_a_refusal_is_told_until_it_ends(members, sender):
    """A cluster that does not know this node's cluster id is a reason for /readyz, not a silent retry."""
    wrong = ClusterMismatchError("another cluster")
    members.answers = dict.fromkeys(("consensus-1", "consensus-2", "consensus-3"), wrong)
    assert not await sender.send()
    assert sender.refusal == "another cluster"
    members.answers = dict.fromkeys(members.answers, ADMITTED)
    assert await sender.send()
    assert sender.refusal is None


async def test_a_secret_that_members_do_not_have_is_told_at_the_start_only(members, sender):
    """In a rotation in the wrong order. Of a node that was known it is a member that has just restarted, which passes."""
    wrong = SignatureRejectedError("not with this secret")
    members.answers = dict.fromkeys(("consensus-1", "consensus-2", "consensus-3"), wrong)
    assert not await sender.send()
    assert sender.refusal == "not with this secret"
    members.answers = dict.fromkeys(members.answers, ADMITTED)
    assert await sender.send()
    members.answers = dict.fromkeys(members.answers, wrong)
    assert not await sender.send()
    assert sender.refusal is None


def test_pauses_are_short_at_start_and_grow_with_jitter_later(sender):
    """Before the first acceptance at most a second; afterwards up to the base, doubling, never beyond a minute."""
    assert all(0.2 <= sender._retry_pause_s() <= 1.0 for _ in range(20))
    sender.was_accepted = True
    assert all(0 <= sender._retry_pause_s() <= ceiling_s for ceiling_s in (5, 10, 20, 40, 60))
    later = [sender._retry_pause_s() for _ in range(200)]
    assert 0 <= min(later) < 12
    assert 48 < max(later) <= 60


async def test_the_sender_goes_on_after_failures(members, sender, monkeypatch):
    """The loop sends at once, retries soon, and keeps the interval once it was accepted."""
    pauses: list[float] = []

    def on_pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            members.answers = dict.fromkeys(members.answers, ADMITTED)
        if len(pauses) == 5:
            raise asyncio.CancelledError

    members.answers = dict.fromkeys(("consensus-1", "consensus-2", "consensus-3"), PeerUnreachableError("gone"))
    await beats(sender, monkeypatch, on_pause)
    assert all(pause <= 1 for pause in pauses[:2])
    assert pauses[2:] == [30, 30, 30]


@pytest.mark.parametrize("fault", [OSError("statvfs: I/O error"), UnavailableError("the catalog is closed")])
async def test_a_node_that_cannot_describe_itself_tries_again(members, incarnation, monkeypatch, fault):
    """A failing file system or catalog is a failed heartbeat, not the end of all heartbeats."""
    faults = [fault]

    async def describe() -> Heartbeat:
        if faults:
            raise faults.pop()
        return HEARTBEAT

    pauses: list[float] = []

    def on_pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise asyncio.CancelledError

    members.answers = dict.fromkeys((member.id for member in MEMBERS), ADMITTED)
    sender = make_sender(members, describe, incarnation)
    await beats(sender, monkeypatch, on_pause)
    assert sender.was_accepted
    assert pauses[1] == 30


async def test_a_node_that_fills_up_says_so_at_once(members, incarnation, monkeypatch):
    """And again when it has room; not every second, and not before the first heartbeat was taken."""
    is_full = False
    sent: list[bool | None] = []

    async def describe() -> Heartbeat:
        return HEARTBEAT.model_copy(update={"is_full": is_full})

    async def call(peer, method, path, answer, *, body, timeout_s):
        sent.append(body.is_full)
        return ADMITTED

    ticks: list[object] = [None, None, "take", None, "fill", None, None, "clear", None, None]
    real_sleep = asyncio.sleep

    async def tick(seconds: float) -> None:
        nonlocal is_full
        if not ticks:
            raise asyncio.CancelledError
        event = ticks.pop(0)
        if event == "take":
            assert sent == []
            assert await sender.send()
        elif event is not None:
            is_full = event == "fill"
        await real_sleep(0)

    monkeypatch.setattr(members, "call", call)
    monkeypatch.setattr(asyncio, "sleep", tick)
    sender = make_sender(members, describe, incarnation, lambda: is_full)
    with pytest.raises(asyncio.CancelledError):
        await BackgroundTasks().every("heartbeat on change", 1.0, sender.send_news)
    assert sent == [False, True, False]


async def test_news_during_the_description_are_told_once_more(members, incarnation, monkeypatch):
    """What the heartbeat says of them may be old or new; the next one is sent at once."""
    news = 0

    async def describe() -> Heartbeat:
        nonlocal news
        news = 1
        return HEARTBEAT

    ticks = [None, None, None]
    real_sleep = asyncio.sleep

    async def tick(seconds: float) -> None:
        if not ticks:
            raise asyncio.CancelledError
        ticks.pop()
        await real_sleep(0)

    members.answers = dict.fromkeys((member.id for member in MEMBERS), ADMITTED)
    sender = make_sender(members, describe, incarnation, lambda: news)
    assert await sender.send()
    monkeypatch.setattr(asyncio, "sleep", tick)
    with pytest.raises(asyncio.CancelledError):
        await BackgroundTasks().every("heartbeat on change", 1.0, sender.send_news)
    assert len(members.asked) == 2


async def test_reports_are_left_out_until_a_leader_says_that_it_takes_them(members, incarnation, monkeypatch):
    """A member of the version before refuses what it does not know; one may lead again in the middle of an upgrade."""
    health = HealthReport(is_failing=False, is_slow=True)
    sent: list[str] = []
    answer: object = ADMITTED

    async def describe() -> Heartbeat:
        return HEARTBEAT.model_copy(update={"health": health})

    async def call(peer, method, path, kind, *, body, timeout_s):
        sent.append(body.model_dump_json())
        if isinstance(answer, Exception) and "health" in sent[-1]:
            raise answer
        return ADMITTED if isinstance(answer, Exception) else answer

    monkeypatch.setattr(members, "call", call)
    sender = make_sender(members, describe, incarnation)
    assert await sender.send()
    assert sent == [HEARTBEAT.model_dump_json()]
    assert "reconcile" not in sent[0]
    answer = ADMITTED.model_copy(update={"takes_reports": True})
    assert await sender.send()
    assert not sender._is_settled, "what it takes was not told yet"
    assert await sender.send()
    assert sender._is_settled
    assert ['"is_slow":true' in body for body in sent] == [False, False, True]
    answer = InvalidRequestError("health: extra fields are not permitted")
    assert await sender.send()
    assert sender.refusal is None
    assert ['"is_slow":true' in body for body in sent[3:]] == [True, False]


async def test_a_node_whose_heartbeat_is_malformed_says_so(members, sender):
    """A capacity beyond what a node can have, say: it stays out, and its /readyz gives the reason."""
    refusal = InvalidRequestError("capacity_bytes: Input should be less than or equal to 1125899906842624")
    members.answers = dict.fromkeys((member.id for member in MEMBERS), refusal)
    assert not await sender.send()
    assert sender.refusal == refusal.message


@pytest.mark.parametrize("capacity_bytes", [-1, MAX_CAPACITY_BYTES + 1])
def test_an_absurd_capacity_is_no_heartbeat(capacity_bytes):
    """It is the weight in placement: a node that lies about it would get every chunk."""
    with pytest.raises(ValidationError):
        Heartbeat.model_validate(HEARTBEAT.model_dump() | {"capacity_bytes": capacity_bytes})


async def test_a_fence_comes_with_the_first_answer(members, sender, incarnation):
    """Before it nothing is acknowledged; it goes again when the node is no longer admitted."""
    with pytest.raises(NotReadyError):
        incarnation.require_fence()
    members.answers = dict.fromkeys((member.id for member in MEMBERS), ADMITTED)
    assert await sender.send()
    assert incarnation.require_fence() == ADMITTED.fence
    removed = HeartbeatResponse(is_admitted=False, cluster_id="test-cluster", epoch=4)
    members.answers = dict.fromkeys(members.answers, removed)
    assert await sender.send()
    with pytest.raises(NotReadyError):
        incarnation.require_fence()


async def test_a_superseded_run_never_acknowledges_again(members, sender, incarnation):
    """It says so, goes on asking, and takes no later answer for leave."""
    members.answers = dict.fromkeys((member.id for member in MEMBERS), ADMITTED)
    assert await sender.send()
    members.answers = dict.fromkeys(members.answers, RunSupersededError("another one"))
    assert not await sender.send()
    assert sender.refusal == "another one"
    members.answers = dict.fromkeys(members.answers, ADMITTED)
    assert await sender.send()
    with pytest.raises(NotReadyError):
        incarnation.require_fence()


async def test_a_run_that_is_not_recorded_asks_again_soon(members, sender, monkeypatch):
    """Until then another disk under this name would not be noticed."""
    pauses: list[float] = []
    unrecorded = ADMITTED.model_copy(update={"is_run_recorded": False})

    def on_pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            members.answers = dict.fromkeys(members.answers, ADMITTED)
        if len(pauses) == 3:
            raise asyncio.CancelledError

    members.answers = dict.fromkeys((member.id for member in MEMBERS), unrecorded)
    await beats(sender, monkeypatch, on_pause)
    assert pauses == [1, 1, 30]


async def test_another_redis_cuts_the_pause_short(sender, incarnation):
    """The log learns of it before the interval is over."""
    incarnation.heartbeat_wanted.set()
    async with asyncio.timeout(5):
        await sender._pause(1000)
