"""What the leader shows Prometheus of the storage nodes: the numbers of the cluster's own page, and nothing on followers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from services.consensus.duties.node_reports import NodeReports
from services.consensus.metrics import NodeMetrics
from shared.contracts.cluster import NodeMap, NodeState, StorageNode
from tests.unit.consensus.duties.test_node_reports import beat
from tests.unit.reconcile_reports import report

TERM = 4


@pytest.fixture
def member() -> Any:
    return SimpleNamespace(leader_role=SimpleNamespace(term=TERM))


@pytest.fixture
def reports() -> NodeReports:
    return NodeReports()


@pytest.fixture
def metrics(member: Any, reports: NodeReports) -> Iterator[NodeMetrics]:
    nodes = [
        StorageNode(id=f"storage-{number}", url="http://s", zone="z", state=NodeState.ACTIVE, capacity_bytes=1)
        for number in (1, 2)
    ]
    store: Any = SimpleNamespace(node_map=lambda: NodeMap(epoch=1, nodes=nodes))
    made = NodeMetrics(member, store, reports, replica_count=2)
    yield made
    made.close()


def samples(metrics: NodeMetrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("trivet_cluster_"), *sample.labels.values()): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }


def test_the_leader_shows_what_is_missing_where(metrics: NodeMetrics, reports: NodeReports) -> None:
    """Sums and each node; its state is one of all that there are."""
    for number, missing in ((1, 3), (2, 4)):
        told = beat(1).model_copy(update={"reconcile": report(missing_chunks=missing, missing_bytes=missing, eta_s=9)})
        reports.heard(TERM, f"storage-{number}", told)
    found = samples(metrics)
    assert (found["under_replicated_chunks",], found["remaining_bytes",], found["eta_seconds",]) == (7, 7, 9)
    assert (found["node_missing_chunks", "storage-1"], found["node_missing_chunks", "storage-2"]) == (3, 4)
    assert found["degradations",] == 1
    states = {labels[2]: value for labels, value in found.items() if labels[:2] == ("node_state", "storage-1")}
    assert {state for state, value in states.items() if value} == {"active"}
    assert states.keys() == set(NodeState)


def test_what_was_not_reported_in_this_term_is_not_known(metrics: NodeMetrics, reports: NodeReports) -> None:
    """NaN, which no alert takes for zero."""
    reports.heard(TERM - 1, "storage-1", beat(1).model_copy(update={"reconcile": report()}))
    found = samples(metrics)
    assert math.isnan(found["under_replicated_chunks",])
    assert math.isnan(found["node_missing_chunks", "storage-1"])


def test_a_follower_shows_nothing(metrics: NodeMetrics, member: Any) -> None:
    """It hears no heartbeats; an old value of an earlier leadership would be believed."""
    member.leader_role = None
    assert samples(metrics) == {}
