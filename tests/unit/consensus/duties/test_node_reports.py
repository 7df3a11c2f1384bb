"""What the leader remembers of heartbeats, and for how long it may be believed."""

from __future__ import annotations

from services.consensus.duties.node_reports import NodeReports
from shared.contracts.cluster import Heartbeat, NodeState, StorageNode
from shared.contracts.reconcile import ReconcileReport
from tests.unit.consensus.metadata.builders import run


def beat(used_bytes: int | None) -> Heartbeat:
    return Heartbeat(
        cluster_id="c-1",
        run=run(),
        url="http://s",
        zone="z",
        capacity_bytes=100,
        used_bytes=used_bytes,
        chunk_count=None,
    )


def test_the_last_heartbeat_of_each_node_counts() -> None:
    """By node."""
    reports = NodeReports()
    reports.heard(3, "storage-1", beat(10))
    reports.heard(3, "storage-2", beat(None))
    reports.heard(3, "storage-1", beat(20))
    assert {node_id: known.used_bytes for node_id, known in reports.of_term(3).beats.items()} == {
        "storage-1": 20,
        "storage-2": None,
    }


def test_what_was_heard_in_an_earlier_term_is_not_told() -> None:
    """Another member led meanwhile, and may have been told otherwise."""
    reports = NodeReports()
    reports.heard(3, "storage-1", beat(10))
    reports.heard(5, "storage-2", beat(30))
    assert reports.of_term(5).beats.keys() == {"storage-2"}
    assert reports.of_term(6).beats == {}


def test_a_removed_node_is_forgotten() -> None:
    """Memory is bounded by the nodes that exist."""
    reports = NodeReports()
    reports.heard(3, "storage-1", beat(10))
    reports.heard(3, "storage-2", beat(10))
    reports.keep({"storage-2"})
    assert reports.of_term(3).beats.keys() == {"storage-2"}


def test_a_node_of_the_map_is_filled_with_what_the_leader_knows() -> None:
    """Of this term alone: a reason, the fill level, the reconcile report; nothing of what the log says changes."""
    node = StorageNode(id="storage-1", url="http://s", zone="z", state=NodeState.SUSPECT, capacity_bytes=77)
    report = ReconcileReport(
        epoch=4,
        log_index=9,
        expected_chunks=5,
        expected_bytes=50,
        missing_chunks=1,
        missing_bytes=10,
        surplus_chunks=0,
        orphan_chunks=0,
        bytes_per_s=0,
        is_listing=False,
    )
    reports = NodeReports()
    reports.heard(3, "storage-1", beat(10).model_copy(update={"is_full": True, "reconcile": report}))
    reports.judged(3, "storage-1", "its disk is slow")
    known = {"used_bytes": 10, "is_full": True, "reconcile": report, "reason": "its disk is slow"}
    assert reports.of_term(3).fill(node) == node.model_copy(update=known)
    assert reports.of_term(4).fill(node) == node
    reports.judged(3, "storage-1", None)
    assert reports.of_term(3).fill(node).reason is None
