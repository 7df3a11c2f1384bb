"""Whether this gateway can serve: consensus answers linearizably, and enough storage nodes have dialled in for a write.

Checked in the background, so that a probe costs nothing and a hung peer cannot hang it. The question is small whatever the
cluster holds: it is asked by every gateway, every few seconds.
"""

from __future__ import annotations

from typing import Final

from services.gateway.ports import Clock
from services.gateway.replicas.node_directory import NodeDirectory
from shared.background_tasks import BackgroundTasks
from shared.contracts.metadata import ClusterAnswer
from shared.errors import SignatureRejectedError, TrivetError
from shared.placement import can_take_chunks

_UNREADY_INTERVAL_S: Final = 0.25
_READY_INTERVAL_S: Final = 2.0


class ReadinessWatch:
    """Invariants: `reasons` is empty exactly while the last check found nothing missing; `is_clock_seeded` never falls.

    A gateway has no disk, so its hybrid clock learns from the leader where the cluster's time stands. Before that it serves
    nothing: a host whose clock was set back would give out timestamps a second time.
    """

    def __init__(self, directory: NodeDirectory, clock: Clock, *, write_quorum: int) -> None:
        self._directory = directory
        self._clock = clock
        self._write_quorum = write_quorum
        self.reasons = ["the cluster has not been checked yet"]
        self.degradations: list[str] = []
        self.is_clock_seeded = False

    def start(self, tasks: BackgroundTasks) -> None:
        """Check at once, and again and again."""
        tasks.every("readiness", _READY_INTERVAL_S, self._step, first_after_s=0)

    async def _step(self) -> float:
        await self.check()
        return _UNREADY_INTERVAL_S if self.reasons else _READY_INTERVAL_S

    async def check(self) -> None:
        """Ask once."""
        try:
            cluster, context = await self._directory.refresh()
        except TrivetError as error:
            # An operator who rotates the secret in the wrong order is told so.
            rejection = f" {error.__cause__.message}" if isinstance(error.__cause__, SignatureRejectedError) else ""
            self.reasons, self.degradations = [f"consensus: {error.message}{rejection}"], []
            return
        if not self.is_clock_seeded:
            self._clock.seed(context.hlc)
            self.is_clock_seeded = True
        self.reasons, self.degradations = self._reasons(cluster), self._shortages(cluster)

    def _reasons(self, cluster: ClusterAnswer) -> list[str]:
        count = sum(map(can_take_chunks, cluster.node_map.nodes))
        if count < self._write_quorum:
            return [f"{count} of the {self._write_quorum} storage nodes that a write needs have dialled in"]
        return []

    def _shortages(self, cluster: ClusterAnswer) -> list[str]:
        """Why every write is 507 now. Reads and deletions go on, so the gateway is ready all the same."""
        if cluster.is_low_on_disk:
            return ["full: the consensus members are short of disk space, so new files are refused"]
        nodes = [node for node in cluster.node_map.nodes if can_take_chunks(node)]
        full_count = sum(node.is_full is True for node in nodes)
        if full_count and len(nodes) - full_count < self._write_quorum:
            return [f"full: {full_count} of {len(nodes)} storage nodes have no room, so new files are refused"]
        return []
