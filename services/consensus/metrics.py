"""What a member shows Prometheus about the engine and the state machine; read when scraped, nothing is counted twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.consensus.duties.state_comparison import StateComparison
from services.consensus.member import Member
from services.consensus.metadata.store import MetadataStore, StateMark
from services.consensus.peering.mesh import PeerMesh

_MARK_DIGITS: Final = 12
"""Of the hash in hex: as many as a float, which is all that Prometheus knows, holds exactly."""

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
    ("metadata_state_mark_index", "Log index of the last state hash that all members record."),
    ("metadata_state_mark", "The first 48 bits of that hash: equal on all members with an equal index."),
    ("metadata_differing_members", "Members found to have another state than this one at the same index."),
)


class MemberMetrics(Collector):
    """Registers itself; `close` takes it out again."""

    def __init__(self, member: Member, mesh: PeerMesh, store: MetadataStore, comparison: StateComparison) -> None:
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
            mark.index,
            int(mark.state_hash[:_MARK_DIGITS], 16),
            len(self._comparison.differing),
        )
        for (name, text), value in zip(_GAUGES, values, strict=True):
            yield GaugeMetricFamily(name, text, value=value)
