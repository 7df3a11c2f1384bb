"""What a member shows Prometheus: the engine, the state machine and, while it leads, the storage nodes.

Read when scraped, so that nothing is counted twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import REGISTRY, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.consensus.duties.log_clock import LogClock
from services.consensus.duties.node_reports import NodeReports
from services.consensus.duties.state_comparison import StateComparison
from services.consensus.member import Member
from services.consensus.metadata.store import MetadataStore, StateMark
from services.consensus.peering.mesh import PeerMesh
from shared.cluster_summary import current_reports, summarise
from shared.contracts.cluster import NodeState
from shared.contracts.reconcile import ReconcileReport

_MARK_DIGITS: Final = 12
"""Of the hash in hex: as many as a float, which is all that Prometheus knows, holds exactly."""

_DISK_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)

_GAUGES: Final = (
    ("raft_term", "Current term."),
    ("raft_is_leader", "1 while this member leads."),
    ("raft_commit_index", "Highest committed log index."),
    ("raft_last_applied", "Highest applied log index."),
    ("raft_last_log_index", "Last index in the log."),
    ("raft_durable_index", "Last index known durable here."),
    ("raft_first_log_index", "First index in the log; what came before is in the state machine only."),
    ("raft_checkpointed_index", "Highest index whose effect survives a power cut without the log."),
    ("raft_uncommitted_bytes", "Bytes of log entries that wait to be committed."),
    ("raft_connected_peers", "Members that messages can be sent to now."),
    (
        "raft_majority_round_trip_ms",
        "Until a majority of the voters can have answered this member; NaN when not known.",
    ),
    ("raft_members", "Members of the cluster, this one included; 0 before it was initialised."),
    ("metadata_forgetting_behind", "1 while the leader has more to forget than one entry may: the backlog of garbage."),
    ("metadata_state_mark_index", "Log index of the last state hash that all members record."),
    ("metadata_state_mark", "The first 48 bits of the last state hash: equal on all members with an equal index."),
    ("metadata_differing_members", "Members found to have another state than this one at the same index."),
)


class DiskTimes:
    """How long durable writes take. Filled by the threads that make them: once per batch, not per request."""

    def __init__(self) -> None:
        self.log_write_s = Histogram(
            "raft_log_write_seconds",
            "One group commit of the log, until it is fsynced.",
            buckets=_DISK_BUCKETS_S,
            registry=None,
        )
        self.apply_s = Histogram(
            "metadata_apply_seconds",
            "One batch of committed entries, until the state machine has them.",
            buckets=_DISK_BUCKETS_S,
            registry=None,
        )


class MemberMetrics(Collector):
    """Registers itself; `close` takes it out again."""

    def __init__(
        self,
        member: Member,
        mesh: PeerMesh,
        store: MetadataStore,
        comparison: StateComparison,
        *,
        log_clock: LogClock,
        times: DiskTimes,
    ) -> None:
        self._log_clock = log_clock
        self._times = times
        self._store = store
        self._comparison = comparison
        self._member = member
        self._mesh = mesh
        REGISTRY.register(self)

    def close(self) -> None:
        """Stop being scraped."""
        REGISTRY.unregister(self)

    def collect(self) -> Iterator[Metric]:
        """One sample per gauge."""
        member, log = self._member, self._member.log
        mark = (self._store.marks() or (StateMark(0, "0"),))[-1]
        values = (
            member.raft.storage.term,
            int(member.leader_role is not None),
            log.commit_index,
            log.last_applied,
            log.last_log_index,
            log.durable_index,
            log.base.index + 1,
            member.checkpointed_index,
            log.uncommitted_bytes,
            len(self._mesh.connected_peers()),
            float("nan") if member.raft.majority_round_trip_ms is None else member.raft.majority_round_trip_ms,
            len(member.configuration.members),
            int(member.leader_role is not None and self._log_clock.is_behind),
            mark.index,
            int(mark.state_hash[:_MARK_DIGITS], 16),
            len(self._comparison.differing),
        )
        for (name, text), value in zip(_GAUGES, values, strict=True):
            yield GaugeMetricFamily(name, text, value=value)
        yield from self._collect_counters()
        yield self._follower_lag()
        yield from self._times.log_write_s.collect()
        yield from self._times.apply_s.collect()

    def _collect_counters(self) -> Iterator[Metric]:
        elections = self._member.raft.elections
        yield CounterMetricFamily(
            "raft_elections_started", "Elections in which this member was a candidate.", value=elections.started
        )
        yield CounterMetricFamily("raft_elections_won", "Those that made it the leader.", value=elections.won)
        yield CounterMetricFamily(
            "raft_leader_changes", "How often this member learnt of another leader.", value=elections.leader_changes
        )
        yield CounterMetricFamily(
            "metadata_forgotten_rows",
            "Rows that the entries of this member's leaderships forgot.",
            value=self._log_clock.forgotten_rows,
        )

    def _follower_lag(self) -> Metric:
        lag = GaugeMetricFamily(
            "raft_follower_lag_entries",
            "Entries that the other member lacks, as the leader knows it; no samples while this member does not lead.",
            labels=["member"],
        )
        role = self._member.leader_role
        for peer, progress in () if role is None else sorted(role.progress.items()):
            lag.add_metric([peer], self._member.log.last_log_index - progress.match_index)
        return lag


_NODE_GAUGES: Final[tuple[tuple[str, str, Callable[[ReconcileReport], int | None]], ...]] = (
    ("missing_chunks", "Chunks that the storage node should hold and does not.", lambda report: report.missing_chunks),
    ("missing_bytes", "Bytes that the storage node should hold and does not.", lambda report: report.missing_bytes),
    ("surplus_chunks", "Chunks of files that it holds and need not.", lambda report: report.surplus_chunks),
    ("orphan_chunks", "Chunks that it holds and no file refers to.", lambda report: report.orphan_chunks),
)


class NodeMetrics(Collector):
    """The storage nodes as the leader sees them: the numbers of `GET /v1/cluster`. No samples while this member does not lead."""

    def __init__(self, member: Member, store: MetadataStore, reports: NodeReports, *, replica_count: int) -> None:
        self._member = member
        self._store = store
        self._reports = reports
        self._replica_count = replica_count
        REGISTRY.register(self)

    def close(self) -> None:
        """Stop being scraped."""
        REGISTRY.unregister(self)

    def collect(self) -> Iterator[Metric]:
        """NaN for what is not known."""
        role = self._member.leader_role
        if role is None:
            return
        node_map = self._store.node_map()
        nodes = list(map(self._reports.of_term(role.term).fill, node_map.nodes))
        summary = summarise(node_map.model_copy(update={"nodes": nodes}), self._replica_count)
        totals = (
            (
                "under_replicated_chunks",
                "Replicas (not chunks) that are missing; NaN until every live node has reported.",
                summary.under_replicated_chunks,
            ),
            ("remaining_bytes", "Bytes that live storage nodes have to fetch.", summary.remaining_bytes),
            (
                "eta_seconds",
                "Until live storage nodes have fetched what they lack; NaN also while nothing is missing.",
                summary.eta_s,
            ),
            ("degradations", "Of how many things the cluster is short.", len(summary.degraded)),
        )
        for name, text, value in totals:
            yield GaugeMetricFamily(f"trivet_cluster_{name}", text, value=_or_nan(value))
        states = GaugeMetricFamily(
            "trivet_cluster_node_state",
            "1 for the state that the storage node is in.",
            labels=["storage_node", "state"],
        )
        for node in nodes:
            for state in NodeState:
                states.add_metric([node.id, state], float(node.state == state))
        yield states
        reports = current_reports(nodes, node_map.epoch)
        for name, text, read in _NODE_GAUGES:
            gauge = GaugeMetricFamily(f"trivet_cluster_node_{name}", text, labels=["storage_node"])
            for node, report in zip(nodes, reports, strict=True):
                gauge.add_metric([node.id], math.nan if report is None else _or_nan(read(report)))
            yield gauge


def _or_nan(value: int | None) -> float:
    return math.nan if value is None else value
