"""Asks again, in the background, about replicas whose confirmation was counted and will soon be too old to count.

So a chunk that is read often is asked about twice per `max_age_s` and node, whatever the number of its readers, and a
replica that has gone missing is found and put back although reads no longer ask.
"""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from typing import Final

from services.gateway.ports import ChunkNodes
from services.gateway.replicas.confirmations import Confirmations
from services.gateway.replicas.health import NodeHealth
from services.gateway.replicas.repair import ReadRepair, Repair
from shared.background_tasks import BackgroundTasks
from shared.contracts.cluster import StorageNode
from shared.errors import OverloadedError, PeerUnreachableError, TrivetError

MAX_QUEUED: Final = 4096
MAX_BATCH: Final = 256
_GATHER_S: Final = 0.5
"""How long a first one waits for others: there is half of the age limit left."""


class ConfirmationRefresh:
    """Invariant: a (digest, node) pair is queued or under way at most once. One request is under way at a time."""

    def __init__(
        self,
        nodes: ChunkNodes,
        health: NodeHealth,
        confirmations: Confirmations,
        repair: ReadRepair,
        tasks: BackgroundTasks,
        *,
        timeout_s: float,
        gather_s: float = _GATHER_S,
    ) -> None:
        self._nodes = nodes
        self._health = health
        self._confirmations = confirmations
        self._repair = repair
        self._tasks = tasks
        self._timeout_s = timeout_s
        self._gather_s = gather_s
        self._queues: dict[str, dict[str, Repair]] = {}
        self._is_working = False
        self._asked_count = 0

    def statistics(self) -> dict[str, int]:
        """Replicas asked about again so far, and those that wait for it or are being asked about."""
        return {"asked": self._asked_count, "queued": sum(map(len, self._queues.values()))}

    def ask(self, replica: Repair) -> None:
        """Ask about `replica` soon, and have it put back if it is missing; dropped when too many wait."""
        queue = self._queues.setdefault(replica.node.id, {})
        if replica.digest in queue or self.statistics()["queued"] >= MAX_QUEUED:
            return
        queue[replica.digest] = replica
        if self._is_working:
            return
        self._is_working = True
        try:
            self._tasks.start("refresh of confirmations", self._work())
        except OverloadedError:
            self._is_working = False
            del queue[replica.digest]

    async def _work(self) -> None:
        try:
            await asyncio.sleep(self._gather_s)
            while (queue := next((queue for queue in self._queues.values() if queue), None)) is not None:
                batch = list(islice(queue.values(), MAX_BATCH))
                try:
                    await self._ask(batch[-1].node, batch)
                finally:
                    for replica in batch:
                        del queue[replica.digest]
        finally:
            self._is_working = False
            self._queues = {node_id: queue for node_id, queue in self._queues.items() if queue}

    async def _ask(self, node: StorageNode, batch: list[Repair]) -> None:
        """Whatever the node answers is remembered; one that does not answer lets its confirmations grow too old."""
        asked_s = time.monotonic()
        self._asked_count += len(batch)
        try:
            async with asyncio.timeout(self._timeout_s):
                held = await self._nodes.has_chunks(node, [replica.digest for replica in batch])
        except TimeoutError:
            self._health.failed(node, PeerUnreachableError(f"{node.id} did not answer in time.", peer=node.id))
            return
        except TrivetError as error:
            self._health.failed(node, error)
            return
        self._health.answered(node)
        self._confirmations.confirm(node.id, held.present, held.fence, asked_s)
        for replica in batch:
            if replica.digest not in held.present:
                self._confirmations.refute(node.id, replica.digest)
                self._repair.ask(replica)
