"""Caches the node map of the current epoch, so that it is read once per epoch and not once per request."""

from __future__ import annotations

from services.gateway.access.context import as_system
from services.gateway.ports import Metadata
from services.gateway.replicas.health import NodeHealth
from shared.consensus_calls.client import ReadContext
from shared.contracts.cluster import NodeMap
from shared.contracts.metadata import ClusterAnswer, GetCluster


class NodeDirectory:
    """Invariant: the cached map's epoch never falls. Every linearizable read names the epoch that is current then."""

    def __init__(self, metadata: Metadata, health: NodeHealth) -> None:
        self._metadata = metadata
        self._health = health
        self._cached: NodeMap | None = None

    @property
    def latest(self) -> NodeMap | None:
        """The node map of the last epoch that was heard of."""
        return self._cached

    async def at(self, epoch: int) -> NodeMap:
        """The node map at `epoch`, or at a later one when it has moved on.

        Raises what a metadata read raises.
        """
        if (known := self.known(epoch)) is not None:
            return known
        # No lock: concurrent misses share one batch of the consensus client, and a slow one holds up nobody else.
        cluster, _ = await self.refresh()
        return cluster.node_map if self._cached is None else self._cached

    def known(self, epoch: int) -> NodeMap | None:
        """As `at`, where nothing has to be read for it."""
        return self._cached if self._cached is not None and self._cached.epoch >= epoch else None

    def forget(self) -> None:
        """Begin anew: for another cluster, whose epochs are others."""
        self._cached = None

    async def refresh(self) -> tuple[ClusterAnswer, ReadContext]:
        """The cluster as it is now; later calls of `at` know it.

        Raises what a metadata read raises.
        """
        # For all requests, whoever makes the first one of an epoch.
        with as_system():
            answer, context = await self._metadata.read(GetCluster())
        # Of the same epoch, too: which nodes are full is not part of it.
        if self._cached is None or answer.node_map.epoch >= self._cached.epoch:
            self._cached = answer.node_map
            self._health.node_map_changed(answer.node_map)
        return answer, context
