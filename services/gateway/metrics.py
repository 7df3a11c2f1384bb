"""What a gateway shows on /metrics besides its requests: budgets, open circuits, repairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from prometheus_client import REGISTRY, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from services.gateway.access.control import AccessControl
from services.gateway.access.rate_limits import RateLimits
from services.gateway.access_log import AccessLog
from services.gateway.replicas.check import ReplicaChecker
from services.gateway.replicas.confirmations import Confirmations
from services.gateway.replicas.health import NodeHealth
from services.gateway.replicas.reader import ReplicaReader
from services.gateway.replicas.refresh import ConfirmationRefresh
from services.gateway.replicas.repair import ReadRepair
from services.gateway.replicas.writer import ReplicaWriter
from services.gateway.transfers.admission import Admission
from services.gateway.transfers.chunk_cache import ChunkCache
from services.gateway.transfers.quota_checks import QuotaChecks
from services.gateway.transfers.record_cache import RecordCache


class GatewayMetrics(Collector):
    """Reads the services when it is scraped, so that nothing is counted twice and the data path pays nothing."""

    def __init__(
        self,
        *,
        rates: RateLimits,
        quotas: QuotaChecks,
        admission: Admission,
        health: NodeHealth,
        repair: ReadRepair,
        writer: ReplicaWriter,
        reader: ReplicaReader,
        checker: ReplicaChecker,
        confirmations: Confirmations,
        refresh: ConfirmationRefresh,
        chunk_cache: ChunkCache,
        record_cache: RecordCache,
        access_log: AccessLog,
        access: AccessControl,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._rates = rates
        self._quotas = quotas
        self._admission = admission
        self._health = health
        self._repair = repair
        self._writer = writer
        self._reader = reader
        self._checker = checker
        self._confirmations = confirmations
        self._refresh = refresh
        self._chunk_cache = chunk_cache
        self._record_cache = record_cache
        self._access_log = access_log
        self._access = access
        self._registry = registry

    def open(self) -> None:
        """Register for scraping."""
        self._registry.register(self)

    def close(self) -> None:
        """Undo `open`."""
        self._registry.unregister(self)

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield GaugeMetricFamily(
            "trivet_gateway_inflight_bytes", "Chunk bytes reserved now.", value=self._admission.used_bytes
        )
        yield GaugeMetricFamily(
            "trivet_gateway_transfers", "File transfers under way.", value=self._admission.used_slots
        )
        limits = self._admission.limits
        yield GaugeMetricFamily(
            "trivet_gateway_inflight_limit_bytes", "The most that may be reserved.", value=limits.budget_bytes
        )
        yield GaugeMetricFamily(
            "trivet_gateway_transfers_limit", "The most transfers that may be under way.", value=limits.slots
        )
        yield CounterMetricFamily(
            "trivet_gateway_slow_transfers_ended",
            "Transfers whose client was the slowest while others waited.",
            value=self._admission.ended_count,
        )
        yield from self._collect_limits()
        yield from self._collect_quorums()
        circuits = GaugeMetricFamily(
            "trivet_gateway_circuit_open",
            "1 while the circuit of the storage node is open and requests avoid it.",
            labels=["storage_node"],
        )
        for node_id, is_open in self._health.statistics().items():
            circuits.add_metric([node_id], float(is_open))
        yield circuits
        repairs = self._repair.statistics()
        yield CounterMetricFamily(
            "trivet_gateway_replicas_repaired", "Replicas put back by reads.", value=repairs["repaired"]
        )
        yield GaugeMetricFamily("trivet_gateway_repairs_queued", "Repairs that wait.", value=repairs["queued"])
        yield CounterMetricFamily(
            "trivet_gateway_access_lines_dropped",
            "Lines about refusals and reads that were not written to standard output.",
            value=self._access_log.dropped,
        )
        yield from self._collect_confirmations()
        yield from self._collect_chunk_cache()
        yield from _collect_access(self._access)

    def _collect_quorums(self) -> Iterator[Metric]:
        written = CounterMetricFamily(
            "trivet_gateway_chunk_writes",
            "Chunks by how their writes ended: complete with all replicas, short with the write quorum but not all, failed "
            "without it, abandoned with their upload.",
            labels=["outcome"],
        )
        for outcome, count in asdict(self._writer.outcomes).items():
            written.add_metric([outcome], count)
        yield written
        read = self._reader.outcomes
        fetched = CounterMetricFamily(
            "trivet_gateway_chunk_reads",
            "Chunks that were fetched from a storage node, and those that no node gave.",
            labels=["outcome"],
        )
        fetched.add_metric(["fetched"], read.fetched)
        fetched.add_metric(["failed"], read.failed)
        yield fetched
        yield CounterMetricFamily(
            "trivet_gateway_chunk_read_retries",
            "Storage nodes beside the first that were asked for a chunk, because it failed or was slow.",
            value=read.further_attempts,
        )

    def _collect_limits(self) -> Iterator[Metric]:
        rates = self._rates.statistics()
        yield CounterMetricFamily(
            "trivet_gateway_rate_refusals",
            "Requests of principals that asked more often than they may.",
            value=rates["refused"],
        )
        yield CounterMetricFamily(
            "trivet_gateway_paced_seconds",
            "For how long bodies were held back, because their principals may not send or receive faster.",
            value=rates["paced_s"],
        )
        yield GaugeMetricFamily(
            "trivet_gateway_rate_accounts",
            "Identities and addresses whose requests or bytes per second are counted now.",
            value=rates["accounts"],
        )
        yield CounterMetricFamily(
            "trivet_gateway_early_quota_refusals",
            "Bodies that were refused before they were read, because a quota has no room for them.",
            value=self._quotas.refused_count,
        )

    def _collect_chunk_cache(self) -> Iterator[Metric]:
        found = self._chunk_cache.statistics()
        for name, description in (
            ("hits", "Small chunks that reads found in memory."),
            ("misses", "Small chunks that reads took from storage nodes."),
            ("evictions", "Small chunks that made room for others."),
        ):
            yield CounterMetricFamily(f"trivet_gateway_chunk_cache_{name}", description, value=found[name])
        yield GaugeMetricFamily(
            "trivet_gateway_chunk_cache_bytes", "What the small chunks in memory take.", value=found["bytes"]
        )
        records = self._record_cache.statistics()
        yield CounterMetricFamily(
            "trivet_gateway_records_unchanged",
            "Reads whose record was known and still current.",
            value=records["unchanged"],
        )
        yield GaugeMetricFamily("trivet_gateway_record_cache_bytes", "What known records take.", value=records["bytes"])

    def _collect_confirmations(self) -> Iterator[Metric]:
        checks, refreshed = self._checker.statistics(), self._refresh.statistics()
        counted = CounterMetricFamily(
            "trivet_gateway_replicas_checked",
            "Replicas that reads counted as remembered, that they asked nodes about, and that were asked about again.",
            labels=["source"],
        )
        counted.add_metric(["remembered"], checks["remembered"])
        counted.add_metric(["asked"], checks["asked"])
        counted.add_metric(["refreshed"], refreshed["asked"])
        yield counted
        yield GaugeMetricFamily(
            "trivet_gateway_confirmations", "Confirmations of replicas remembered now.", value=len(self._confirmations)
        )


def _collect_access(access: AccessControl) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "trivet_gateway_refused_requests",
        "Requests that the door refused, by the code of the problem.",
        labels=["code"],
    )
    for code, count in access.refusals.statistics().items():
        refused.add_metric([code], count)
    yield refused
    yield GaugeMetricFamily(
        "trivet_gateway_access_keys", "Access keys in this gateway's copy.", value=len(access.table)
    )
    yield GaugeMetricFamily(
        "trivet_gateway_access_index",
        "Log index of the newest change of who may do what in this gateway's copy; -1 while it knows nothing.",
        value=access.table.access_index,
    )
