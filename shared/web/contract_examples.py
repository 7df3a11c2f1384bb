"""One example of every document that services exchange, for their descriptions; by the name of the model.

They stand here and not in the models, whose modules are read for what the fields mean. A test reads each as its model.
"""

from __future__ import annotations

from typing import Any, Final

_DIGEST: Final = "53b63a6fc8605d0c0ce559317a00177d72adb24d669235e4c914f443a8831ca1"
_CLUSTER_ID: Final = "c-5d41402abc4b2a76"
_MEMBERS: Final = [
    {
        "id": f"consensus-{number}",
        "url": f"http://127.0.0.1:820{number}",
        "peer_address": f"127.0.0.1:825{number}",
        "is_voter": True,
    }
    for number in (1, 2, 3)
]
_STAMP: Final = {
    "earliest_ns": 1_795_624_512_104_417_000,
    "latest_ns": 1_795_624_512_109_003_000,
    "hlc": 7_711_435_623_001_456_640,
    "state": "SYNCED",
}
_PROPOSAL: Final = {
    "request_id": "0f1c9a52-upload-1",
    "retain_s": 600,
    "command": {"kind": "create_bucket", "bucket": "photos", "stamp": _STAMP},
}

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "HasRequest": {"digests": [_DIGEST], "start_index": 17},
    "HasResponse": {"present": [_DIGEST], "verified": [_DIGEST]},
    "ConfirmRequest": {"epoch": 7, "chunks": [{"digest": _DIGEST, "start_index": 17}]},
    "ConfirmResponse": {"epoch": 7, "confirmed": [_DIGEST]},
    "ChunkStored": {"digest": _DIGEST, "size_bytes": 10, "tier": "redis", "created": True},
    "InventoryPage": {"chunks": [{"digest": _DIGEST, "size_bytes": 10, "start_index": 17}], "next_after": None},
    "PartitionSums": {
        "partitions": [{"prefix": "53b", "chunk_count": 1, "used_bytes": 10, "checksum": _DIGEST}],
    },
    "NodeStatus": {
        "node_id": "storage-1",
        "cluster_id": _CLUSTER_ID,
        "mode": "tiered",
        "is_accepting_writes": True,
        "capacity_bytes": 1 << 40,
        "used_bytes": 10,
        "chunk_count": 1,
        "tiers": [
            {
                "name": "disk",
                "is_available": True,
                "chunk_count": 1,
                "sole_chunk_count": 1,
                "used_bytes": 10,
                "capacity_bytes": 1 << 40,
                "lost_chunk_count": 0,
            }
        ],
    },
    "VerifyReport": {
        "state": "running",
        "epoch": 7,
        "log_index": 1734,
        "expected_chunks": 1000,
        "checked_chunks": 250,
        "checked_bytes": 250 << 20,
        "missing_chunks": 0,
        "bad_chunks": 1,
        "surplus_chunks": 0,
        "orphaned_chunks": 2,
        "progress": 0.25,
        "eta_s": 12,
    },
    "InitRequest": {"cluster_id": _CLUSTER_ID, "members": _MEMBERS, "admitted_nodes": ["storage-1", "storage-2"]},
    "InitResponse": {"cluster_id": _CLUSTER_ID, "created": True},
    "AddMemberRequest": {
        "id": "consensus-4",
        "url": "http://127.0.0.1:8204",
        "peer_address": "127.0.0.1:8254",
    },
    "MembersResponse": {"members": _MEMBERS, "log_index": 18},
    "MemberStatus": {
        "id": "consensus-1",
        "cluster_id": _CLUSTER_ID,
        "role": "follower",
        "term": 2,
        "leader_id": "consensus-2",
        "leader_url": "http://127.0.0.1:8202",
        "commit_index": 18,
        "last_applied": 18,
        "last_log_index": 18,
        "first_log_index": 1,
        "is_rebuilding": False,
        "state_hash": "5d41402abc4b2a76b9719d911017c592",
        "state_marks": {},
        "differs_from": [],
        "entry_version": 1,
        "known_entry_version": 1,
        "reaches_majority": True,
        "members": _MEMBERS,
    },
    "Heartbeat": {
        "cluster_id": _CLUSTER_ID,
        "run": {"disk_id": "5d" * 16, "counter": 3, "boot_id": "b0" * 16, "redis_id": "4e" * 16},
        "url": "http://127.0.0.1:8101",
        "zone": "zone-1",
        "capacity_bytes": 1 << 40,
        "used_bytes": 10,
        "chunk_count": 1,
        "is_full": False,
    },
    "HeartbeatResponse": {
        "is_admitted": True,
        "cluster_id": _CLUSTER_ID,
        "epoch": 7,
        "fence": 2,
        "is_run_recorded": True,
    },
    "ProposalBatch": {"proposals": [_PROPOSAL]},
    "ProposalResults": {
        "results": [{"log_index": 19, "term": 2, "result": {"created": True, "incarnation": 19}, "problem": None}],
    },
    "ReadBatch": {"queries": [{"kind": "get_bucket", "bucket": "photos"}]},
    "ReadResults": {
        "log_index": 19,
        "term": 2,
        "epoch": 7,
        "hlc": 7_711_435_623_001_456_640,
        "cluster_id": "c-5d41402abc4b2a76",
        "results": [
            {
                "answer": {
                    "kind": "bucket",
                    "bucket": {"name": "photos", "incarnation": 19, "created_ns": 1_795_624_512_104_417_000},
                },
                "problem": None,
            }
        ],
    },
    "TimeReport": {
        "earliest_ns": 1_795_624_512_104_417_000,
        "latest_ns": 1_795_624_512_109_003_000,
        "utc_ns": 1_795_624_512_106_710_000,
        "error_ns": 2_293_000,
        "state": "SYNCED",
        "hlc": 7_711_435_623_001_456_640,
        "hlc_lead_ns": 0,
        "leap": "none",
        "epoch": 1,
        "sources": {"ok": 3, "false": 0, "unreachable": 0},
        "source_reports": [
            {
                "name": "pool.ntp.org",
                "address": "192.0.2.1:123",
                "verdict": "ok",
                "offset_ns": 12_000,
                "error_ns": 9_000_000,
            }
        ],
    },
    "HlcReport": {"hlc": 7_711_435_623_001_456_640, "text": "6b0485d7994b8000"},
}
