"""When a gateway is ready, what it says of shortages, and that its clock is seeded before anything else."""

from __future__ import annotations

import pytest

from services.gateway.main import Gateway
from services.gateway.readiness import ReadinessWatch
from services.gateway.replicas.health import NodeHealth
from services.gateway.replicas.node_directory import NodeDirectory
from shared.background_tasks import BackgroundTasks
from shared.consensus_calls.client import ReadContext
from shared.contracts.cluster import NodeMap, NodeState, StorageNode
from shared.contracts.metadata import Answer, AnyQuery, ClusterAnswer, GetCluster
from shared.errors import LeaderUnavailableError, NotReadyError
from tests.unit.gateway.conftest import make_settings
from tests.unit.gateway.fakes import FakeClock, FakeNodes, node

HLC = 77 << 32


class Cluster:
    """Answers `GetCluster` as it stands; anything else is a mistake of the test's subject."""

    def __init__(self) -> None:
        self.nodes = [node(f"storage-{number}") for number in (1, 2, 3)]
        self.is_low_on_disk: bool | None = False
        self.is_lost = False
        self.asked: list[AnyQuery] = []

    async def propose(self, *_: object, **__: object) -> None:
        raise AssertionError("a watch changes nothing")

    async def read(self, query: AnyQuery, *, deadline_s: float | None = None) -> tuple[Answer, ReadContext]:
        self.asked.append(query)
        if self.is_lost:
            raise LeaderUnavailableError("no leader")
        answer = ClusterAnswer(
            cluster_id="c",
            leader_id="consensus-1",
            members=[],
            node_map=NodeMap(epoch=1, nodes=self.nodes),
            is_low_on_disk=self.is_low_on_disk,
        )
        return answer, ReadContext(1, 1, 1, HLC)

    def fill(self, *is_full: bool | None) -> None:
        self.nodes = [
            known.model_copy(update={"is_full": full}) for known, full in zip(self.nodes, is_full, strict=True)
        ]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def watch(cluster, clock):
    async with BackgroundTasks() as tasks:
        health = NodeHealth(FakeNodes(), tasks, reconnect_base_s=1, reconnect_limit_s=1)
        yield ReadinessWatch(NodeDirectory(cluster, health), clock, write_quorum=2)


async def test_the_clock_is_seeded_by_the_first_answer_and_once(watch, cluster, clock) -> None:
    """Above everything in the log and the leader's own time, whatever the host believes."""
    cluster.is_lost = True
    await watch.check()
    assert (watch.is_clock_seeded, clock.seeded) == (False, [])
    cluster.is_lost = False
    await watch.check()
    await watch.check()
    assert (watch.is_clock_seeded, clock.seeded) == (True, [HLC])
    cluster.is_lost = True
    await watch.check()
    assert watch.is_clock_seeded


async def test_a_gateway_serves_nothing_before_its_clock_is_seeded(watch) -> None:
    """503, which is definite: a timestamp may be given out twice otherwise."""
    gateway = Gateway(make_settings())
    gateway._services, gateway._watch = object(), watch  # type: ignore[assignment]
    with pytest.raises(NotReadyError) as caught:
        _ = gateway.services
    assert caught.value.definite
    await watch.check()
    assert gateway.services is not None


async def test_one_small_question_decides(watch, cluster) -> None:
    """Not the list of all buckets: every gateway asks every few seconds."""
    await watch.check()
    assert watch.reasons == []
    assert cluster.asked == [GetCluster()]


@pytest.mark.parametrize(("dialled_in", "is_ready"), [(1, False), (2, True)])
async def test_a_write_quorum_of_nodes_must_have_dialled_in(watch, cluster, dialled_in, is_ready) -> None:
    """At the edge, and one below it."""
    cluster.nodes = [
        StorageNode(
            id=f"s-{number}", url="http://s" * (number < dialled_in), zone="z", state=NodeState.ACTIVE, capacity_bytes=1
        )
        for number in range(3)
    ]
    await watch.check()
    assert (watch.reasons == []) is is_ready


@pytest.mark.parametrize(
    ("is_full", "says_full"),
    [
        ((False, False, False), False),
        ((True, False, False), False),
        ((True, None, False), False),
        ((None, None, None), False),
        ((True, True, False), True),
        ((True, True, None), True),
        ((True, True, True), True),
    ],
)
async def test_full_is_said_when_fewer_than_a_write_quorum_have_room(watch, cluster, is_full, says_full) -> None:
    """Ready all the same. A node that was not measured is not called full."""
    cluster.fill(*is_full)
    await watch.check()
    assert watch.reasons == []
    assert [reason.split(":")[0] for reason in watch.degradations] == ["full"] * says_full
    cluster.fill(False, False, False)
    await watch.check()
    assert watch.degradations == []


async def test_full_is_said_when_consensus_takes_no_new_files(watch, cluster) -> None:
    """The log is short of disk space: every PUT is 507 there."""
    cluster.is_low_on_disk = True
    await watch.check()
    assert watch.reasons == []
    assert watch.degradations[0].startswith("full: ")
