"""The Prometheus metrics of a node. Made once by the composition root and passed to the parts that count."""

from __future__ import annotations

import math

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram


class StorageMetrics:
    """Prometheus metrics of one storage node."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.puts = Counter(
            "trivet_storage_puts_total", "Chunks stored, by tier and outcome", ["tier", "outcome"], registry=registry
        )
        self.gets = Counter("trivet_storage_gets_total", "Chunks read, by outcome", ["outcome"], registry=registry)
        self.bytes_in = Counter("trivet_storage_received_bytes_total", "Chunk bytes received", registry=registry)
        self.bytes_out = Counter("trivet_storage_sent_bytes_total", "Chunk bytes sent", registry=registry)
        self.corrupt = Counter(
            "trivet_storage_corrupt_total", "Replicas that did not match their digest", ["tier"], registry=registry
        )
        self.redis_failures = Counter(
            "trivet_storage_redis_failures_total", "Calls to Redis that failed", ["reason"], registry=registry
        )
        self.redis_emptied = Counter(
            "trivet_storage_redis_emptied_total", "Times that Redis came back without our name in it", registry=registry
        )
        self.redis_is_usable = Gauge(
            "trivet_storage_redis_usable",
            "1 while Redis is trusted and answers; NaN where there is none",
            registry=registry,
        )
        self.redis_is_usable.set(math.nan)
        self.reads_by_place = Counter(
            "trivet_storage_tiered_reads_total",
            "Reads of the tiered store, by where they hit",
            ["place"],
            registry=registry,
        )
        self.warm_reads = Counter(
            "trivet_storage_warm_reads_total", "Chunk files read from memory, without a thread", registry=registry
        )
        self.write_behind_bytes = Gauge(
            "trivet_storage_write_behind_bytes",
            "Memory of the write-behind buffer: what Redis acknowledged and the disk lacks",
            registry=registry,
        )
        self.flush_lag_s = Gauge(
            "trivet_storage_flush_lag_seconds", "Age of the oldest chunk that is not yet on disk", registry=registry
        )
        self.flushed = Counter("trivet_storage_flushed_total", "Chunks moved from Redis to disk", registry=registry)
        self.lost_in_redis = Counter(
            "trivet_storage_lost_in_redis_total", "Acknowledged chunks that Redis no longer had", registry=registry
        )
        self.in_flight_bytes = Gauge("trivet_storage_in_flight_bytes", "Chunk bodies in memory now", registry=registry)
        self.in_flight_limit_bytes = Gauge(
            "trivet_storage_in_flight_limit_bytes", "The most chunk bodies that may be in memory", registry=registry
        )
        self.scrubbed_bytes = Counter(
            "trivet_storage_scrubbed_bytes_total", "Bytes re-read by scrub", registry=registry
        )
        self.scrub_found = Counter("trivet_storage_scrub_corrupt_total", "Bad chunks found by scrub", registry=registry)
        self.scrub_passes = Counter("trivet_storage_scrub_passes_total", "Finished passes of scrub", registry=registry)
        self.scrub_progress = Gauge(
            "trivet_storage_scrub_progress", "Part of this pass that is done", registry=registry
        )
        self.catalog_salvages = Counter(
            "trivet_storage_catalog_salvages_total",
            "Starts at which the catalog's write-ahead file was found damaged",
            registry=registry,
        )
        self.lost_chunks = Gauge(
            "trivet_storage_lost_chunks", "Found bad or gone here, and not yet fetched from a peer", registry=registry
        )
        self.refetches = Counter(
            "trivet_storage_refetches_total",
            "Attempts to fetch a lost chunk from the peers, by outcome",
            ["outcome"],
            registry=registry,
        )
        self.reconcile_chunks = Gauge(
            "trivet_storage_reconcile_chunks",
            "Chunks that this node should hold and does not, and holds and should not; NaN while that is not known",
            ["kind"],
            registry=registry,
        )
        self.reconcile_index = Gauge(
            "trivet_storage_reconcile_log_index",
            "Up to which log index this node knows what it should hold; NaN while that is not known",
            registry=registry,
        )
        self.pulled_chunks = Counter(
            "trivet_storage_pulled_chunks_total", "Missing chunks fetched from other nodes", registry=registry
        )
        self.pulled_bytes = Counter(
            "trivet_storage_pulled_bytes_total", "Bytes of missing chunks fetched from other nodes", registry=registry
        )
        self.wrong_pulls = Counter(
            "trivet_storage_wrong_pulls_total", "Answers of other nodes that were not the chunk", registry=registry
        )
        self.deleted_chunks = Counter(
            "trivet_storage_deleted_chunks_total",
            "Chunks deleted because the log condemned them, or as surplus",
            ["reason"],
            registry=registry,
        )
        self.commit_duration_s = Histogram(
            "trivet_storage_commit_duration_seconds",
            "One transaction of the catalog, from BEGIN until it is durable",
            registry=registry,
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
        )
        self.disk_is_slow = Gauge(
            "trivet_storage_disk_slow", "1 while commits take longer than the disk should need", registry=registry
        )
        self.capacity_bytes = Gauge(
            "trivet_storage_capacity_bytes", "What this node may hold, as last reported", registry=registry
        )
        self.used_bytes = Gauge("trivet_storage_used_bytes", "Bytes of its chunks, as last reported", registry=registry)
        self.disk_bytes = Gauge(
            "trivet_storage_disk_bytes",
            "The file system of the chunks at the last measurement: used, and free for this process",
            ["part"],
            registry=registry,
        )
        self.disk_inodes = Gauge(
            "trivet_storage_disk_inodes", "Likewise; 0 where it reports none", ["part"], registry=registry
        )
        self.is_full = Gauge(
            "trivet_storage_full", "1 while a typical chunk is refused for lack of room", registry=registry
        )
        self.heartbeat_failures = Counter(
            "trivet_storage_heartbeat_failures_total", "Heartbeats that no leader accepted", registry=registry
        )
