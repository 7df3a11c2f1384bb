"""Puts the chunks of a snapshot on the nodes of a running cluster, and has the nodes prove that they are there.

The metadata comes before: `services.consensus.rescue.new_cluster` makes the cluster that they are for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from services.consensus.backup.cluster import ClusterChunks
from services.consensus.backup.copying import in_parallel
from services.consensus.backup.snapshots import ListedChunk, chunks_of
from services.consensus.backup.targets import Target
from shared.errors import TrivetError


@dataclass(slots=True)
class Restored:
    """What a restore did.

    Attributes:
        chunks, replicas: in the snapshot; of them, put on nodes now.
        unproved: digests that some expected holder has not proved, with the reason.
    """

    chunks: int = 0
    replicas: int = 0
    unproved: dict[str, str] = field(default_factory=dict)


async def restore_chunks(folder: Path, target: Target, cluster: ClusterChunks, *, parallel: int) -> Restored:
    """Bring every chunk to all nodes that are to hold it. What is there already stays; it can be done again.

    Raises TrivetError: the cluster does not answer.
    """
    restored = Restored()
    held: dict[str, set[str]] = {}

    async def put(chunk: ListedChunk) -> None:
        lacking = [node for node in cluster.holders(chunk.digest) if node.id not in held[chunk.digest]]
        if not lacking:
            return
        try:
            body = await target.get(chunk.name)
            if blake3(body).hexdigest() != chunk.digest:
                restored.unproved[chunk.digest] = "the backup has other bytes under its name"
                return
            for node in lacking:
                await cluster.put(node, chunk.digest, body)
                restored.replicas += 1
        except (TrivetError, OSError) as error:
            restored.unproved[chunk.digest] = str(error)

    for group in chunks_of(folder):
        await cluster.look()
        restored.chunks += len(group)
        digests = [chunk.digest for chunk in group]
        held = await cluster.held(digests, verify=False)
        await in_parallel(group, put, parallel)
        proved = await cluster.held(digests, verify=True)
        for digest in digests:
            lacking = [node.id for node in cluster.holders(digest) if node.id not in proved[digest]]
            if lacking or not proved[digest]:
                restored.unproved.setdefault(digest, f"not proved by {', '.join(lacking) or 'any node'}")
    return restored
