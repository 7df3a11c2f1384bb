"""Random logs for the tests of the whole store."""

import random

from services.consensus.metadata.entries import CommittedEntry
from shared.contracts.access import Requester
from shared.contracts.cluster import NodeState
from shared.contracts.metadata import (
    AdmitNode,
    AnnounceMember,
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    InitCluster,
    PassTime,
    RemoveNode,
    SetNodeState,
    UpdateNode,
)
from tests.unit.consensus.metadata.builders import content, entry, publish, stamp


def history(count: int, seed: int) -> list[CommittedEntry]:
    """A log with every kind of command, for somebody or for nobody, rejections, repeated ids and Raft's own entries; the same
    for the same seed."""
    chance = random.Random(seed)
    nodes = ["storage-1", "storage-2", "storage-3"]
    entries = [entry(1, InitCluster(cluster_id="trivet-test", admitted_nodes=nodes, stamp=stamp()))]
    for index in range(2, count + 1):
        at = stamp(chance.randrange(1, 50))
        key, node_id = f"k{chance.randrange(8)}", f"storage-{chance.randrange(1, 6)}"
        command = chance.choice(
            [
                publish(key, stamp=at, content=content(chance.randrange(3000), fill=chance.randrange(1, 9))),
                publish(key, stamp=at, if_none_match=["*"]),
                publish(key, stamp=at, bucket="photos", incarnation=chance.randrange(1, index)),
                DeleteFile(bucket="default", key=key, stamp=at),
                CreateBucket(bucket=chance.choice(["photos", "music"]), stamp=at),
                DeleteBucket(bucket=chance.choice(["photos", "music"]), stamp=at),
                AdmitNode(node_id=node_id, stamp=at),
                UpdateNode(node_id=node_id, url="http://x", zone=key, capacity_bytes=index, stamp=at),
                SetNodeState(node_id=node_id, state=chance.choice(list(NodeState)), stamp=at),
                RemoveNode(node_id=node_id, stamp=at) if index % 10 == 0 else AdmitNode(node_id=node_id, stamp=at),
                PassTime(
                    elapsed_ms=chance.randrange(400_000),
                    cursor_retention_s=chance.randrange(900),
                    tombstone_retention_s=chance.randrange(3600),
                    audit_retention_s=chance.choice([None, 60, 3600]),
                    audit_limit_bytes=chance.choice([1000, 20_000]),
                    stamp=at,
                ),
                AnnounceMember(member_id="consensus-1", entry_version=chance.choice([None, 1, 2]), stamp=at),
                None,
            ]
        )
        if command is None:
            entries.append(CommittedEntry(index, 1, None))
        else:
            request_id = f"request-{chance.randrange(1, index + 1)}"
            requester = chance.choice([None, Requester(principal="anonymous", request=request_id, address="192.0.2.7")])
            entries.append(
                entry(index, command, request_id=request_id, retain_s=chance.randrange(20), requester=requester)
            )
    return entries
