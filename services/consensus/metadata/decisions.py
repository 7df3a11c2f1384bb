"""What `apply` decides, as pure functions: may this happen, and which time does it get.

Nothing here looks at a table: the rows come in, the answer or a typed rejection comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from services.consensus.metadata.rows import FileRow, NodeRow, RunRow, TombstoneRow
from shared.contracts.cluster import NodeRun, NodeState
from shared.contracts.files import FileContent
from shared.contracts.metadata import PublishFile, RemovalProof
from shared.contracts.names import DIGEST_BYTES, check_digest
from shared.contracts.time import Stamp
from shared.contracts.uploads import PutPart
from shared.errors import (
    DrainInProgressError,
    InvalidRequestError,
    NodeDrainingError,
    NodeRemovedError,
    NodeReplacedError,
    RemovalNotProvedError,
    TooFewNodesError,
)
from shared.units import NANOSECONDS_PER_SECOND

HLC_MAX: Final = (1 << 64) - 1
STORED_INTEGER_MAX: Final = (1 << 63) - 1
MAX_SUPERSEDED: Final = 64
"""Runs of one node that are refused by name. An older one that comes back is another disk, or one whose counter is too low:
it begins a new incarnation, which is safe."""

StoredContent = PublishFile | PutPart
"""Commands that bring content whose chunks are stored."""

_LIVE: Final = frozenset({NodeState.ACTIVE, NodeState.SUSPECT})


def next_stamp(highest_hlc: int, proposed: Stamp) -> Stamp:
    """The proposer's stamp, moved behind every stamp applied before (docs/promises.md, "What is kept").

    At the very end of the scale it stays where it is: a lying clock can make timestamps useless, never stop the log.
    """
    hlc = min(max(highest_hlc + 1, proposed.hlc), HLC_MAX)
    return proposed if hlc == proposed.hlc else proposed.model_copy(update={"hlc": hlc})


def next_modified_ns(before: FileRow | TombstoneRow | None, stamp: Stamp) -> int:
    """Last-Modified of a new version: the stamp's time, in a later second than the version before it under the same key.

    A later nanosecond would not do: an HTTP date has whole seconds, and If-Modified-Since would hide the change.
    """
    if before is None:
        return stamp.approximate_ns
    next_second_ns = (before.modified_ns // NANOSECONDS_PER_SECOND + 1) * NANOSECONDS_PER_SECOND
    return min(max(next_second_ns, stamp.approximate_ns), STORED_INTEGER_MAX)


def check_acknowledging_nodes(command: StoredContent, nodes: Mapping[str, NodeRow], runs: Mapping[str, RunRow]) -> None:
    """Every node that an upload counts must still have the disk and the Redis that it had when it acknowledged a chunk.

    A node that said none with its acknowledgements must have had them ever since the upload's epoch.

    Raises:
        NodeRemovedError: one was removed, or admitted again with who knows what on its disk; definite.
        NodeReplacedError: one has another disk or Redis since; definite.
    """
    fences = command.fences or {}
    for node_id in command.durability.nodes:
        node, fence = nodes.get(node_id), fences.get(node_id)
        if node is None or (fence is None and node.admitted_epoch > command.epoch):
            raise NodeRemovedError(
                "A node that acknowledged a chunk has left the cluster since; start the upload again.",
                node_id=node_id,
                epoch=command.epoch,
            )
        if fence is not None and fence != (current := fence_of(node.admitted_epoch, runs.get(node_id))):
            raise NodeReplacedError(
                "A node that acknowledged a chunk has another disk or Redis since; start the upload again.",
                node_id=node_id,
                fence=fence,
                current=current,
            )


def check_start_index(command: StoredContent, index: int) -> None:
    """An upload began at an index that was applied: one that lies ahead would be above every condemnation to come.

    Raises:
        InvalidRequestError: it lies ahead.
    """
    if not 0 <= command.start_index < index:
        raise InvalidRequestError("The upload began at an index that does not exist yet.", name="start_index")


def check_no_node_drains(command: StoredContent, nodes: Mapping[str, NodeRow]) -> None:
    """A draining node counts no more: what it holds is proved to be elsewhere at some index, and it must get nothing after it.

    Raises:
        NodeDrainingError: one drains; definite.
    """
    for node_id in command.durability.nodes:
        if nodes[node_id].state == NodeState.DRAINING:
            raise NodeDrainingError(
                "A node that acknowledged a chunk drains by now; start the upload again.", node_id=node_id
            )


def check_may_drain(node: NodeRow, min_left: int, nodes: Iterable[NodeRow]) -> None:
    """One node drains at a time, and enough others are left to hold every replica.

    Raises:
        DrainInProgressError, TooFewNodesError: definite.
    """
    others = [other for other in nodes if other.node_id != node.node_id]
    draining = next((other for other in others if other.state == NodeState.DRAINING), None)
    if draining is not None:
        raise DrainInProgressError("Another storage node drains; one at a time.", node_id=draining.node_id)
    left = sum(bool(other.url) and other.state in _LIVE for other in others)
    if left < min_left:
        raise TooFewNodesError(
            "Too few storage nodes would be left for every chunk's replicas; add one first.", left=left, needed=min_left
        )


def check_removal(node: NodeRow, proof: RemovalProof | None, *, draining_since: int | None, epoch: int) -> None:
    """What was proved must still hold: the drain in force began before, and neither placement nor the node's disk changed.

    Raises:
        RemovalNotProvedError: definite.
    """
    if (
        proof is None
        or draining_since is None
        or draining_since >= proof.log_index
        or (proof.epoch, proof.incarnation) != (epoch, node.admitted_epoch)
    ):
        raise RemovalNotProvedError(
            "Nothing proves as of now that the node holds no chunk that is referenced; let it drain.",
            node_id=node.node_id,
            draining_since=draining_since,
            epoch=epoch,
            incarnation=node.admitted_epoch,
        )


def lease_end_ms(lived_ms: int, lease_s: int) -> int:
    """The age of the log's clock at which a lease runs out that begins now."""
    return min(lived_ms + lease_s * 1000, STORED_INTEGER_MAX)


def fence_of(incarnation: int, run: RunRow | None) -> int:
    """The epoch since which the node's acknowledgements count: of its incarnation, or in which its Redis was replaced."""
    return incarnation if run is None else max(incarnation, run.fence)


@dataclass(frozen=True, slots=True)
class RunChange:
    """What a heartbeat changes: the row that is recorded, and what that row begins."""

    run: RunRow
    is_new_incarnation: bool = False
    has_other_redis: bool = False


def next_run(before: RunRow | None, node_id: str, seen: NodeRun) -> RunChange:
    """What is recorded when a node's heartbeat names the run `seen`, where `before` was recorded last.

    The first run of a node that has none recorded keeps its incarnation: its folder is older than disk ids are. Another run
    has the same disk only if its counter has grown: one that has not comes from a copy of the folder, or from one that was
    rolled back, and lacks what was acknowledged since. A superseded run that is heard of lives beside the one that superseded
    it: there are two folders, and the counter may have grown in both. So neither counts for what was acknowledged before.
    """
    check_stored_integer("counter", seen.counter)
    if before is None:
        return RunChange(RunRow(node_id, seen.disk_id, seen.counter, seen.boot_id, seen.redis_id, 0, ()))
    if seen.boot_id in before.superseded:
        return RunChange(replace(before, has_rival=True), is_new_incarnation=not before.has_rival)
    is_same_run = seen.boot_id == before.boot_id
    has_same_disk = seen.disk_id == before.disk_id and (is_same_run or seen.counter > before.counter)
    has_other_redis = seen.redis_id is not None and before.redis_id not in {None, seen.redis_id}
    row = replace(
        before,
        disk_id=seen.disk_id,
        # A heartbeat may come late: within one run the counter does not fall.
        counter=max(seen.counter, before.counter) if is_same_run else seen.counter,
        boot_id=seen.boot_id,
        redis_id=seen.redis_id or before.redis_id,
        superseded=before.superseded if is_same_run else (before.boot_id, *before.superseded)[:MAX_SUPERSEDED],
        has_rival=before.has_rival and is_same_run,
    )
    return RunChange(row, not has_same_disk or (has_other_redis and seen.is_redis_record), has_other_redis)


def check_content(content: FileContent) -> None:
    """The chunks add up to the size: else readers would be promised bytes that do not exist.

    Raises:
        InvalidRequestError: they do not, or a digest has another length.
    """
    if content.digest is None:
        raise InvalidRequestError("Content comes with the digest of its bytes.", name="digest")
    check_digest(content.digest)
    check_stored_integer("size_bytes", content.size_bytes)
    needed = -(-content.size_bytes // content.chunk_size_bytes)
    if len(content.chunk_digests) != needed * DIGEST_BYTES:
        raise InvalidRequestError(
            "The chunk digests do not fit the file's size.",
            size_bytes=content.size_bytes,
            needed_chunks=needed,
            chunk_digests_bytes=len(content.chunk_digests),
        )


def check_stored_integer(name: str, value: int) -> None:
    """`value` fits a column: a number that the table refuses would stop every member at the same entry.

    Raises:
        InvalidRequestError: it is negative or beyond 63 bits.
    """
    if not 0 <= value <= STORED_INTEGER_MAX:
        raise InvalidRequestError(f"{name} is out of range.", name=name)
