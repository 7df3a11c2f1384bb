"""Whether this gateway can serve: consensus answers linearizably, and enough storage nodes have dialled in for a write.

Checked in the background, so that a probe costs nothing and a hung peer cannot hang it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from services.gateway.ports import Metadata
from services.gateway.replicas.node_directory import NodeDirectory
from shared.contracts.metadata import ListBuckets
from shared.errors import TrivetError
from shared.placement import can_take_chunks

_UNREADY_INTERVAL_S: Final = 0.25
_READY_INTERVAL_S: Final = 2.0


class ReadinessWatch:
    """Invariant: `reasons` is empty exactly while the last check found nothing missing."""

    def __init__(self, metadata: Metadata, directory: NodeDirectory, *, write_quorum: int) -> None:
        self._metadata = metadata
        self._directory = directory
        self._write_quorum = write_quorum
        self.reasons = ["the cluster has not been checked yet"]

    async def watch(self) -> None:
        """Check until cancelled."""
        while True:
            self.reasons = await self._check()
            await asyncio.sleep(_UNREADY_INTERVAL_S if self.reasons else _READY_INTERVAL_S)

    async def _check(self) -> list[str]:
        try:
            _, context = await self._metadata.read(ListBuckets())
            node_map = await self._directory.at(context.epoch)
        except TrivetError as error:
            return [f"consensus: {error.message}"]
        count = sum(can_take_chunks(node) for node in node_map.nodes)
        if count < self._write_quorum:
            return [f"{count} of the {self._write_quorum} storage nodes that a write needs have dialled in"]
        return []
