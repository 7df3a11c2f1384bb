"""Puts a replica back where a read found it missing or corrupt, in the background and bounded (G-26).

It heals what is being read, at once. Everything else is the storage nodes' own reconcile loop; so a repair that cannot
be queued, or fails, is dropped and not retried here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from services.gateway.ports import ChunkNodes
from services.gateway.replicas.reader import ReplicaReader
from shared.background_tasks import BackgroundTasks
from shared.byte_budget import ByteBudget
from shared.contracts.cluster import NodeMap, NodeState, StorageNode
from shared.errors import OverloadedError, TrivetError
from shared.placement import preference_list, read_order

logger = structlog.get_logger(__name__)

MAX_QUEUED_REPAIRS: Final = 1024
_WORKERS: Final = 2
MAX_REPAIR_TASKS: Final = 2 * _WORKERS
"""What its tasks must admit: a worker that has just ended is one of them for a moment more."""


@dataclass(frozen=True, slots=True)
class Repair:
    """A replica to put back. `start_index` keeps it from being collected as garbage in the meantime."""

    digest: str
    size_bytes: int
    node: StorageNode
    node_map: NodeMap
    start_index: int


class ReadRepair:
    """Invariant: a (digest, node) pair is queued or under way at most once.

    Invariant: `_workers` counts the workers from the moment they are started, not from their first step: one request may
    ask for a thousand repairs before any of them runs.

    Its `tasks` are its own, so that repairs never take the place of an upload's background work.
    """

    def __init__(
        self,
        nodes: ChunkNodes,
        reader: ReplicaReader,
        budget: ByteBudget,
        tasks: BackgroundTasks,
        *,
        replica_count: int,
        timeout_s: float,
    ) -> None:
        self._nodes = nodes
        self._reader = reader
        self._budget = budget
        self._tasks = tasks
        self._replica_count = replica_count
        self._timeout_s = timeout_s
        self._queue: dict[tuple[str, str], Repair] = {}
        self._under_way: set[tuple[str, str]] = set()
        self._workers = 0
        self._repaired_count = 0

    def statistics(self) -> dict[str, int]:
        """Replicas put back so far, and repairs that wait."""
        return {"repaired": self._repaired_count, "queued": len(self._queue)}

    def ask(self, repair: Repair) -> None:
        """Queue `repair` if its node is an expected holder of the chunk; drop it when the queue is full."""
        key = (repair.digest, repair.node.id)
        if key in self._queue or key in self._under_way or len(self._queue) >= MAX_QUEUED_REPAIRS:
            return
        if not self._is_at_expected_holder(repair):
            return
        self._queue[key] = repair
        if self._workers < _WORKERS:
            self._start_worker(key)

    def _is_at_expected_holder(self, repair: Repair) -> bool:
        expected_holders = preference_list(repair.digest, repair.node_map.nodes)[: self._replica_count]
        return any(node.id == repair.node.id and node.state == NodeState.ACTIVE for node in expected_holders)

    def _start_worker(self, key: tuple[str, str]) -> None:
        self._workers += 1
        try:
            self._tasks.start("read repair", self._work())
        except OverloadedError:
            self._workers -= 1
            del self._queue[key]

    async def _work(self) -> None:
        try:
            while self._queue:
                key = next(iter(self._queue))
                repair = self._queue.pop(key)
                self._under_way.add(key)
                try:
                    await self._repair(repair)
                finally:
                    self._under_way.discard(key)
        finally:
            self._workers -= 1

    async def _repair(self, repair: Repair) -> None:
        with self._budget.lease() as lease:
            try:
                await lease.grow(repair.size_bytes, wait_s=self._timeout_s)
                order = [node for node in read_order(repair.digest, repair.node_map) if node.id != repair.node.id]
                good = await self._reader.fetch(repair.digest, repair.size_bytes, order)
                async with asyncio.timeout(self._timeout_s):
                    await self._nodes.put_chunk(repair.node, repair.digest, good.data, start_index=repair.start_index)
            except (TrivetError, TimeoutError) as error:
                logger.warning(
                    "read repair failed", chunk=repair.digest, storage_node=repair.node.id, reason=str(error)
                )
                return
        self._repaired_count += 1
        logger.info("replica repaired", chunk=repair.digest, storage_node=repair.node.id)
