"""What the leader remembers of heartbeats, and for how long it may be believed."""

from __future__ import annotations

from services.consensus.duties.node_reports import NodeReports
from shared.contracts.cluster import Heartbeat
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
    assert {node_id: known.used_bytes for node_id, known in reports.of_term(3).items()} == {
        "storage-1": 20,
        "storage-2": None,
    }


def test_what_was_heard_in_an_earlier_term_is_not_told() -> None:
    """Another member led meanwhile, and may have been told otherwise."""
    reports = NodeReports()
    reports.heard(3, "storage-1", beat(10))
    reports.heard(5, "storage-2", beat(30))
    assert reports.of_term(5).keys() == {"storage-2"}
    assert reports.of_term(6) == {}


def test_a_removed_node_is_forgotten() -> None:
    """Memory is bounded by the nodes that exist."""
    reports = NodeReports()
    reports.heard(3, "storage-1", beat(10))
    reports.heard(3, "storage-2", beat(10))
    reports.keep({"storage-2"})
    assert reports.of_term(3).keys() == {"storage-2"}
