"""What is said of the cluster: sums of what nodes reported, and nothing where one of them has not."""

from __future__ import annotations

from typing import Any

import pytest

from shared.cluster_summary import chunks_at_risk, summarise
from shared.contracts.cluster import NodeMap, NodeState, StorageNode
from shared.contracts.reconcile import ReconcileReport
from tests.unit.reconcile_reports import report


def node(number: int, told: ReconcileReport | None = None, **changes: Any) -> StorageNode:
    fields: dict[str, Any] = {"url": "http://s", "zone": "z", "state": NodeState.ACTIVE, "capacity_bytes": 1}
    return StorageNode(id=f"storage-{number}", reconcile=told or report(), **fields | changes)


def cluster(*nodes: StorageNode) -> NodeMap:
    return NodeMap(epoch=1, nodes=list(nodes))


def test_a_cluster_that_lacks_nothing() -> None:
    """Three nodes for three replicas, all of them well: zero is measured, and nothing is degraded."""
    summary = summarise(cluster(node(1), node(2), node(3)), 3)
    assert (summary.under_replicated_chunks, summary.remaining_bytes, summary.eta_s) == (0, 0, None)
    assert summary.degraded == []


def test_what_is_missing_is_added_up_and_the_slowest_decides_the_end() -> None:
    """Over live nodes only: one that drains or is away need not get anything."""
    away = report(missing_chunks=1000, missing_bytes=1000, eta_s=1000)
    summary = summarise(
        cluster(
            node(1, report(missing_chunks=4, missing_bytes=40, eta_s=5)),
            node(2, report(missing_chunks=1, missing_bytes=10, eta_s=9)),
            node(3, state=NodeState.SUSPECT, reason="its disk is slow"),
            node(4, away, state=NodeState.DRAINING),
            node(5, away, state=NodeState.INACTIVE, reason="silent for 70 s"),
            node(6, away, url=""),
        ),
        3,
    )
    assert (summary.under_replicated_chunks, summary.remaining_bytes, summary.eta_s) == (5, 50, 9)
    assert summary.degraded == [
        "storage-3 is suspect: its disk is slow",
        "storage-5 is inactive: silent for 70 s",
        "5 replicas are missing and being restored",
    ]


@pytest.mark.parametrize(
    "unknown", [{"reconcile": None}, {"reconcile": report(epoch=0)}, {"reconcile": report(missing_chunks=None)}]
)
def test_nothing_is_said_while_a_live_node_has_not_reported_in_this_epoch(unknown: dict[str, Any]) -> None:
    """Its silence is no zero, and what was missing by another placement is no measurement of this one."""
    nodes = cluster(node(1), node(2), node(3).model_copy(update=unknown))
    assert summarise(nodes, 3).under_replicated_chunks is None
    assert summarise(nodes, 3).eta_s is None
    assert chunks_at_risk(nodes, 3, "storage-2") is None
    assert chunks_at_risk(nodes, 3, "storage-3") == 0, "its own report is not needed"


def test_with_too_few_live_nodes_every_chunk_lacks_a_replica() -> None:
    """And the cluster says that no spare node is left."""
    gone = node(3, state=NodeState.INACTIVE)
    summary = summarise(cluster(node(1, report(expected_chunks=99)), node(2), gone), 3)
    assert (summary.under_replicated_chunks, summary.remaining_bytes) == (100, 0)
    assert summary.degraded == ["no spare node: 2 live nodes for 3 replicas", "storage-3 is inactive"]
    assert summarise(cluster(gone), 3).under_replicated_chunks is None


def test_a_drain_that_cannot_end_says_so() -> None:
    """With fewer other nodes than a chunk has replicas nothing on it is surplus."""
    drains = node(4, state=NodeState.DRAINING)
    stuck = summarise(cluster(node(1), node(2), drains), 3).degraded
    assert stuck == [
        "no spare node: 2 live nodes for 3 replicas",
        "storage-4 drains and cannot end: add a node, or cancel the drain",
    ]
    assert summarise(cluster(node(1), node(2), node(3), drains), 3).degraded == []


def test_an_end_that_one_node_cannot_tell_is_not_told() -> None:
    """Nothing comes in at one of them."""
    waiting = report(missing_chunks=2, eta_s=None)
    assert summarise(cluster(node(1, report(missing_chunks=2, eta_s=3)), node(2, waiting), node(3)), 3).eta_s is None


def test_shortage_of_room_is_said() -> None:
    """A full node fetches nothing more; members that are short of disk space take no new files."""
    full = node(2, report(missing_chunks=7), is_full=True)
    summary = summarise(cluster(node(1), full, node(3, is_full=False)), 3, is_low_on_disk=True)
    assert summary.degraded == [
        "storage-2 is full: 7 missing chunks find no room",
        "7 replicas are missing and being restored",
        "the consensus members are short of disk space: new files are refused",
    ]


@pytest.mark.parametrize(("missing", "at_risk"), [((0, 0, 0), 0), ((2, 3, 3), 2), ((2, 3, 4), 3), ((9, 0, 0), 3)])
def test_chunks_at_risk_are_bounded_by_what_is_missing_everywhere(missing: tuple[int, ...], at_risk: int) -> None:
    """A chunk without another holder is missing at each of three; so of nine missing replicas at most three are such."""
    others = [node(number, report(missing_chunks=count)) for number, count in enumerate(missing, 1)]
    lost = node(9, state=NodeState.INACTIVE)
    assert chunks_at_risk(cluster(*others, lost), 3, "storage-9") == at_risk


def test_chunks_at_risk_with_a_single_other_node() -> None:
    """Every one that it misses."""
    assert (
        chunks_at_risk(cluster(node(1, report(missing_chunks=5)), node(2, state=NodeState.INACTIVE)), 3, "storage-2")
        == 5
    )
