"""`services.consensus.tools.initialise`: a cluster is begun once, whoever is away or has lost its disk meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.consensus.tools import initialise as tool
from shared.contracts.cluster import InitResponse, MemberStatus
from shared.errors import ClusterMismatchError, NotLeaderError, PeerUnreachableError
from shared.peer_address import PeerAddress

SETTINGS = tool.InitialiseSettings.model_construct(
    cluster_id="berlin",
    init_members=tool.parse_members("a=http://a:1=a:2,b=http://b:1=b:2,c=http://c:1=c:2"),
    init_nodes=["storage-0"],
)


class Members:
    """Stands in for the client and for the members behind it.

    Attributes:
        knows: the cluster that each of those who answer knows of.
        leader: who leads; None where the member that is asked to begin becomes it.
        begun_at: whom a cluster was begun or confirmed at.
    """

    def __init__(self, knows: dict[str, str | None], leader: str | None = None) -> None:
        self.knows = knows
        self.leader = leader
        self.begun_at: list[str] = []

    async def call(self, member: PeerAddress, method: str, path: str, *_: Any, **__: Any) -> Any:
        if member.id not in self.knows:
            raise PeerUnreachableError("Nobody is there.")
        known = self.knows[member.id]
        if method == "GET":
            assert path == "/v1/status"
            return MemberStatus.model_construct(id=member.id, cluster_id=known)
        if known not in {None, SETTINGS.cluster_id}:
            raise ClusterMismatchError("Another one.")
        if self.leader not in {None, member.id}:
            raise NotLeaderError("Not I.", leader_id=self.leader, leader_url=f"http://{self.leader}:1")
        self.begun_at.append(member.id)
        created = known is None
        self.knows[member.id] = SETTINGS.cluster_id
        return InitResponse(cluster_id=SETTINGS.cluster_id, created=created)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch) -> None:
    monkeypatch.setattr(tool, "PAUSE_S", 0.0)


async def run(members: Members) -> InitResponse:
    return await tool.initialise(cast("Any", members), SETTINGS)


async def test_a_new_cluster_is_begun_at_the_first_member() -> None:
    """And only there, or there would be two."""
    members = Members({"a": None, "b": None, "c": None})
    assert (await run(members)).created
    assert members.begun_at == ["a"]


async def test_a_cluster_is_confirmed_while_the_first_member_is_away() -> None:
    """A gateway starts although the host of that member is lost."""
    members = Members({"b": "berlin", "c": "berlin"}, leader="c")
    assert not (await run(members)).created
    assert members.begun_at == ["c"]


async def test_a_member_that_lost_its_disk_begins_no_second_cluster() -> None:
    """The first one, too: the others know that there is a cluster."""
    members = Members({"a": None, "b": "berlin", "c": "berlin"}, leader="b")
    assert not (await run(members)).created
    assert members.begun_at == ["b"]


async def test_nothing_is_begun_while_a_member_does_not_answer(monkeypatch) -> None:
    """It may be the one that has the cluster."""
    monkeypatch.setattr(tool, "PATIENCE_S", 0.02)
    members = Members({"a": None, "b": None})
    with pytest.raises(TimeoutError):
        await run(members)
    assert members.begun_at == []


async def test_it_waits_for_members_that_are_slow_to_start() -> None:
    """All of them start at once, and some are late."""
    members = Members({"a": None})
    running = asyncio.ensure_future(run(members))
    for late in ("b", "c"):
        await asyncio.sleep(0)
        assert members.begun_at == []
        members.knows[late] = None
    assert (await running).created


async def test_a_leader_that_went_away_is_looked_for_again() -> None:
    """What a member says of the leader may be out of date."""
    members = Members({"a": "berlin", "b": "berlin"}, leader="c")
    running = asyncio.ensure_future(run(members))
    for _ in range(10):
        await asyncio.sleep(0)
    members.leader = "b"
    assert not (await running).created
    assert members.begun_at == ["b"]


async def test_another_cluster_is_refused() -> None:
    """Definitely, and not waited for."""
    with pytest.raises(ClusterMismatchError):
        await run(Members({"a": "paris", "b": "paris", "c": "paris"}))
