"""For each alert a situation in which it fires and one, as close as it can be, in which it does not.

In Prometheus' notation of test series: `0+1x5` is 0, 1, 2, 3, 4, 5, one a minute; `1x5` is six times 1; `_` is no sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

Series = Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """`after` is when the alert is looked at, in minutes."""

    alert: str
    after: int
    fires: Series
    rests: Series


def _one(alert: str, series: str, fires: str, rests: str, after: int) -> Case:
    return Case(alert, after, {series: fires}, {series: rests})


_BUCKETS: Final = ("0.05", "0.1", "0.25", "+Inf")


def _histogram(name: str, labels: str, slow_part: float) -> Series:
    """Of 100 observations a minute, of which this part takes longer than 0.1 s."""
    quick = round(100 * (1 - slow_part))
    counts = (quick, quick, 100, 100)
    return {
        f'{name}_bucket{{{labels}le="{bound}"}}': f"0+{count}x60" for bound, count in zip(_BUCKETS, counts, strict=True)
    }


_UP: Final = '{job="trivet", service="storage", instance="s1"}'
_SLOW: Final = {
    f'http_request_duration_seconds_bucket{{service="gateway", method="HEAD", handler="h", le="{bound}"}}': f"0+{count}x60"
    for bound, count in (("1", 90), ("2.5", 100), ("+Inf", 100))
}
_QUICK: Final = {
    f'http_request_duration_seconds_bucket{{service="gateway", method="HEAD", handler="h", le="{bound}"}}': "0+100x60"
    for bound in ("1", "2.5", "+Inf")
}
_UPLOADS: Final = 'http_request_duration_seconds_bucket{service="gateway", method="PUT", handler="h", le="%s"}'

CASES: Final = (
    _one("TrivetServiceDown", f"up{_UP}", "1 0x9", "1 0 1x8", 4),
    _one("TrivetServiceNotReady", "trivet_ready", "1 0x9", "1 0 0 1x8", 7),
    _one(
        "TrivetServiceRestarts",
        f"process_start_time_seconds{_UP}",
        "1 2 3 4 5x9",
        "1 1 1 2 2 3 3 4x9",
        9,
    ),
    _one("TrivetBackgroundWorkFails", 'trivet_background_failures_total{task="x"}', "_ _ _ 4x9", "_ _ _ 3x9", 6),
    _one("TrivetNoLeader", "raft_is_leader", "1 0x9", "1 0 1x9", 4),
    Case("TrivetNoLeader", 4, {}, {"raft_is_leader": "1x9"}),
    Case(
        "TrivetMemberAway",
        8,
        {"raft_connected_peers": "2 1x20", "raft_members": "3x20", "raft_is_leader": "1x20"},
        {"raft_connected_peers": "2 1x20", "raft_members": "3x20", "raft_is_leader": "0x20"},
    ),
    _one("TrivetFrequentElections", "raft_elections_won_total", "0 1 2 3 4 5x20", "0 1 2 2 2x20", 20),
    Case(
        "TrivetCommitStalls",
        6,
        {"raft_last_log_index": "9x20", "raft_commit_index": "5x20", "raft_is_leader": "1x20"},
        {"raft_last_log_index": "9+1x20", "raft_commit_index": "5+1x20", "raft_is_leader": "1x20"},
    ),
    _one("TrivetFollowerLags", 'raft_follower_lag_entries{member="c"}', "10001x20", "10000x20", 12),
    Case(
        "TrivetApplyLags",
        8,
        {"raft_commit_index": "2001x20", "raft_last_applied": "1000x20"},
        {"raft_commit_index": "2000x20", "raft_last_applied": "1000x20"},
    ),
    Case(
        "TrivetLogDiskSlow",
        20,
        _histogram("raft_log_write_seconds", 'instance="c", ', 0.05),
        _histogram("raft_log_write_seconds", 'instance="c", ', 0.005),
    ),
    _one("TrivetStateDiffers", "metadata_differing_members", "0 1x9", "0 1 0x9", 4),
    _one("TrivetForgettingBehind", "metadata_forgetting_behind", "1x90", "1x50 0 1x39", 65),
    _one("TrivetUnderReplicated", "trivet_cluster_under_replicated_chunks", "5x30", "5x10 0x20", 17),
    _one("TrivetReplicationUnknown", "trivet_cluster_under_replicated_chunks", " ".join(["NaN"] * 30), "0x30", 12),
    Case("TrivetReplicationUnknown", 12, {}, {"trivet_cluster_under_replicated_chunks": "1x30"}),
    Case(
        "TrivetNodeAway",
        8,
        {'trivet_cluster_node_state{storage_node="s", state="inactive"}': "1x20"},
        {'trivet_cluster_node_state{storage_node="s", state="suspect"}': "1x20"},
    ),
    Case(
        "TrivetNodeSuspect",
        17,
        {'trivet_cluster_node_state{storage_node="s", state="suspect"}': "1x20"},
        {'trivet_cluster_node_state{storage_node="s", state="active"}': "1x20"},
    ),
    Case(
        "TrivetStorageFills",
        32,
        {"trivet_storage_used_bytes": "86x40", "trivet_storage_capacity_bytes": "100x40"},
        {"trivet_storage_used_bytes": "85x40", "trivet_storage_capacity_bytes": "100x40"},
    ),
    _one("TrivetStorageFull", "trivet_storage_full", "1x9", "0x9", 3),
    _one("TrivetDiskSlow", "trivet_storage_disk_slow", "1x20", "1x5 0x14", 12),
    _one("TrivetCorruptReplica", 'trivet_storage_corrupt_total{tier="disk"}', "_x64 1x20", "1x90", 70),
    Case("TrivetCorruptReplica", 5, {'trivet_storage_corrupt_total{tier="disk"}': "_ _ _ 1x9"}, {}),
    _one("TrivetChunksLost", "trivet_storage_lost_chunks", "1x40", "1x20 0x20", 32),
    _one("TrivetLostInRedis", "trivet_storage_lost_in_redis_total", "0 0 1x9", "1x9", 6),
    _one("TrivetRedisUnusable", "trivet_storage_redis_usable", "0x20", " ".join(["NaN"] * 20), 12),
    _one("TrivetFlushLags", "trivet_storage_flush_lag_seconds", "61x20", "60x20", 7),
    Case(
        "TrivetScrubStands",
        1600,
        {
            f"trivet_storage_scrubbed_bytes_total{_UP}": "7x1700",
            f"trivet_storage_used_bytes{_UP}": "9x1700",
            f"process_start_time_seconds{_UP}": "0x1700",
        },
        {
            f"trivet_storage_scrubbed_bytes_total{_UP}": "7x1300 8x399",
            f"trivet_storage_used_bytes{_UP}": "9x1700",
            f"process_start_time_seconds{_UP}": "0x1700",
        },
    ),
    Case(
        "TrivetReconcileStands",
        60,
        {f"trivet_storage_reconcile_log_index{_UP}": "7x90", f"process_start_time_seconds{_UP}": "0x90"},
        {f"trivet_storage_reconcile_log_index{_UP}": "7+1x90", f"process_start_time_seconds{_UP}": "0x90"},
    ),
    Case(
        "TrivetGarbageGrows",
        1500,
        {
            'trivet_storage_reconcile_chunks{kind="orphan"}': "12600x1600",
            'trivet_storage_reconcile_chunks{kind="expected"}': "10000x1600",
        },
        {
            'trivet_storage_reconcile_chunks{kind="orphan"}': "12600x1400 0 12600x199",
            'trivet_storage_reconcile_chunks{kind="expected"}': "10000x1600",
        },
    ),
    Case(
        "TrivetServerErrors",
        20,
        {
            'http_requests_total{service="gateway", status="5xx"}': "0+2x30",
            'http_requests_total{service="gateway", status="2xx"}': "0+98x30",
        },
        {
            'http_requests_total{service="gateway", status="5xx"}': "0+1x30",
            'http_requests_total{service="gateway", status="2xx"}': "0+99x30",
            'http_requests_total{service="storage", status="5xx"}': "0+99x30",
        },
    ),
    Case("TrivetSlowRequests", 20, _SLOW, _QUICK),
    Case("TrivetSlowRequests", 20, _SLOW, {_UPLOADS % "1": "0+1x60", _UPLOADS % "+Inf": "0+100x60"}),
    _one(
        "TrivetWritesMissQuorum",
        'trivet_gateway_chunk_writes_total{outcome="failed"}',
        "0+1x20",
        "7x20",
        10,
    ),
    Case(
        "TrivetWritesShort",
        30,
        {
            'trivet_gateway_chunk_writes_total{outcome="short"}': "0+2x40",
            'trivet_gateway_chunk_writes_total{outcome="complete"}': "0+8x40",
        },
        {
            'trivet_gateway_chunk_writes_total{outcome="short"}': "0+1x40",
            'trivet_gateway_chunk_writes_total{outcome="complete"}': "0+9x40",
        },
    ),
    _one("TrivetReadsFail", 'trivet_gateway_chunk_reads_total{outcome="failed"}', "0+1x20", "7x20", 10),
    _one(
        "TrivetOverloaded",
        'trivet_problems_total{service="gateway", code="overloaded"}',
        "0+10x20",
        "0+5x20",
        15,
    ),
    Case(
        "TrivetBudgetExhausted",
        14,
        {"trivet_gateway_transfers": "91x20", "trivet_gateway_transfers_limit": "100x20"},
        {"trivet_gateway_inflight_bytes": "90x20", "trivet_gateway_inflight_limit_bytes": "100x20"},
    ),
    _one("TrivetCircuitOpen", 'trivet_gateway_circuit_open{storage_node="s"}', "1x20", "1 0 1x18", 11),
    _one(
        "TrivetCredentialsRefused",
        'trivet_gateway_refused_requests_total{code="credential_invalid"}',
        "0+90x30",
        "0+30x30",
        20,
    ),
    _one("TrivetAccessLinesDropped", "trivet_gateway_access_lines_dropped_total", "0 0 1x9", "1x9", 6),
    Case(
        "TrivetClockNotSynced",
        17,
        {'clock_state{service="clock", state="SYNCED"}': "0x30"},
        {'clock_state{service="clock", state="SYNCED"}': "0x10 1x20"},
    ),
    _one("TrivetClockBoundLarge", "clock_error_bound_seconds", "0.11x30", "0.1x30", 17),
    _one("TrivetClockJumps", "clock_jumps_total", "0 0 1x9", "1x9", 6),
    _one("TrivetTimestampsRefused", "hlc_rejected_total", "0 0 1x9", "1x9", 6),
)
