"""How the cluster is, from what its storage nodes reported: how much is missing, until when, and what it has to do without.

Pure, so that a gateway and the leader's metrics say the same. A report counts in the epoch of the node map only: one of an
earlier epoch tells what was missing by another placement (C-122).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.contracts.cluster import NodeMap, NodeState, StorageNode
from shared.contracts.reconcile import ReconcileReport
from shared.placement import live_nodes


@dataclass(frozen=True, slots=True)
class ClusterSummary:
    """What is not known is None, never 0.

    Attributes:
        under_replicated_chunks: replicas that are missing, summed over the nodes that should hold them; every chunk where
            fewer nodes are live than a chunk should have replicas.
        remaining_bytes: of the replicas that live nodes have to fetch.
        eta_s: until they have; None also while nothing is missing.
        degraded: what the cluster has to do without, in sentences.
    """

    under_replicated_chunks: int | None
    remaining_bytes: int | None
    eta_s: int | None
    degraded: list[str]


def summarise(node_map: NodeMap, replica_count: int, *, is_low_on_disk: bool | None = None) -> ClusterSummary:
    """The cluster at one moment; the nodes carry what the leader knows of them."""
    live = live_nodes(node_map)
    reports = current_reports(live, node_map.epoch)
    missing_chunks = _sum(reports, lambda report: report.missing_chunks)
    under_replicated = missing_chunks if len(live) >= replica_count else _all_chunks(reports)
    return ClusterSummary(
        under_replicated_chunks=under_replicated,
        remaining_bytes=_sum(reports, lambda report: report.missing_bytes),
        eta_s=_eta_s(reports),
        degraded=_shortages(node_map, live, replica_count)
        + _missing(missing_chunks)
        + (["the consensus members are short of disk space: new files are refused"] if is_low_on_disk else []),
    )


def chunks_at_risk(node_map: NodeMap, replica_count: int, lost_node_id: str) -> int | None:
    """At most so many chunks may have had no other verified holder than `lost_node_id`; None when that is not known.

    Each of them is missing at every live node that should hold it, so the missing replicas are at least as many times more.
    """
    live = [node for node in live_nodes(node_map) if node.id != lost_node_id]
    missing = _sum(current_reports(live, node_map.epoch), lambda report: report.missing_chunks)
    return None if missing is None else missing // min(replica_count, len(live))


def current_reports(nodes: Sequence[StorageNode], epoch: int) -> list[ReconcileReport | None]:
    """What each of `nodes` said in `epoch`; None for one that has said nothing yet."""
    return [node.reconcile if node.reconcile is not None and node.reconcile.epoch == epoch else None for node in nodes]


def _sum(reports: Sequence[ReconcileReport | None], field: Callable[[ReconcileReport], int | None]) -> int | None:
    values = [None if report is None else field(report) for report in reports]
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _all_chunks(reports: Sequence[ReconcileReport | None]) -> int | None:
    """Every live node should hold every chunk; one that is behind knows of fewer."""
    counts = [report.expected_chunks for report in reports if report is not None and report.expected_chunks is not None]
    return max(counts) if counts and len(counts) == len(reports) else None


def _eta_s(reports: Sequence[ReconcileReport | None]) -> int | None:
    if any(report is None or report.missing_chunks is None for report in reports):
        return None
    etas = [report.eta_s for report in reports if report is not None and report.missing_chunks]
    known = [eta_s for eta_s in etas if eta_s is not None]
    return max(known) if known and len(known) == len(etas) else None


def _shortages(node_map: NodeMap, live: Sequence[StorageNode], replica_count: int) -> list[str]:
    sentences = []
    if len(live) < replica_count:
        sentences.append(f"no spare node: {len(live)} live nodes for {replica_count} replicas")
    for node in node_map.nodes:
        if node.state == NodeState.DRAINING and len(live) < replica_count:
            # What it holds is surplus only where enough others should hold it.
            sentences.append(f"{node.id} drains and cannot end: add a node, or cancel the drain")
        if node.url and (node.state in {NodeState.SUSPECT, NodeState.INACTIVE} or node.reason is not None):
            sentences.append(f"{node.id} is {node.state}" + (f": {node.reason}" if node.reason else ""))
        if node.is_full:
            waiting = node.reconcile.missing_chunks if node.reconcile is not None else None
            sentences.append(f"{node.id} is full" + (f": {waiting} missing chunks find no room" if waiting else ""))
    return sentences


def _missing(missing_chunks: int | None) -> list[str]:
    return [f"{missing_chunks} replicas are missing and being restored"] if missing_chunks else []
