"""By which node map this node decides, one at a time: what it expects to hold, whom it asks, what it confirms."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Final

from shared.contracts.cluster import NodeMap, NodeState, StorageNode
from shared.placement import expected_holder_filter, expected_holders, live_nodes, preference_list
from shared.units import GIB

_WORKING: Final = frozenset({"active", "suspect", "draining"})
"""A node that is believed away, or has not joined yet, must not take that for a decision about its chunks: it lasts a moment."""
_QUIET_S: Final = 60.0
"""What a change of the nodes leaves missing is to be back within this time."""
_RESTLESS_MAX_S: Final = 600.0
"""Nodes that come and go all the time are no reason to wait for ever."""


class PlacementView:
    """Implements `ports.HolderView` by the node map that was read last; before the first one `epoch` is None."""

    def __init__(self, node_id: str, replica_count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._node_id = node_id
        self._clock = clock
        self._changed_s = self._restless_s = -math.inf
        self.replica_count = replica_count
        self._map = NodeMap(epoch=0, nodes=[])
        self._live: list[StorageNode] = []
        self._own: StorageNode | None = None
        self._filter = expected_holder_filter(node_id, [], replica_count)
        self.epoch: int | None = None
        self.log_index = 0
        """Where in the log the map was read."""

    def update(self, node_map: NodeMap, log_index: int) -> None:
        """Decide by `node_map` from now on."""
        before = self.key
        self._map, self._live = node_map, live_nodes(node_map)
        self._own = next((node for node in node_map.nodes if node.id == self._node_id), None)
        self._filter = expected_holder_filter(self._node_id, self._live, self.replica_count)
        self.epoch, self.log_index = node_map.epoch, log_index
        if self.key != before:
            now_s = self._clock()
            if now_s >= self._changed_s + _QUIET_S:
                self._restless_s = now_s
            self._changed_s = now_s

    @property
    def is_settled(self) -> bool:
        """Whether the map says something about this node that can be acted on."""
        return self._own is not None and self._own.state in _WORKING

    @property
    def is_draining(self) -> bool:
        """Whether this node is to hand over all that it holds."""
        return self._own is not None and self._own.state == NodeState.DRAINING

    @property
    def is_live(self) -> bool:
        """Whether this node is a place for replicas at all."""
        return any(node.id == self._node_id for node in self._live)

    @property
    def has_spare_nodes(self) -> bool:
        """Whether anything can be surplus: fewer live nodes than replicas hold everything."""
        return len(self._live) >= self.replica_count

    @property
    def key(self) -> str:
        """Equal for node maps by which this node expects to hold the same chunks."""
        nodes = [f"{node.id}/{node.zone}/{node.capacity_bytes // GIB}" for node in self._live]
        return f"{self.replica_count} {' '.join(sorted(nodes))}" if self.is_live else "none"

    @property
    def quiet_in_s(self) -> float:
        """In how long the nodes that are expected to hold chunks have been the same for a minute, as far as this node heard.

        0: they have, or changed again and again for ten minutes.
        """
        quiet_s = min(self._changed_s + _QUIET_S, self._restless_s + _RESTLESS_MAX_S)
        return max(0.0, quiet_s - self._clock())

    def is_expected(self, digest: bytes) -> bool:
        """Whether this node should hold the chunk."""
        return self._filter(digest)

    def filter(self) -> Callable[[bytes], bool]:
        """`is_expected` by the node map of now, for use in another thread."""
        return self._filter

    def holders(self, digest: bytes) -> list[StorageNode]:
        """The expected holders, this node maybe among them."""
        return expected_holders(digest.hex(), self._live, self.replica_count)

    def sources(self, digest: bytes, avoided: Iterable[str] = ()) -> list[StorageNode]:
        """The other nodes, those that are likely to have the chunk first, those in `avoided` last."""
        last = set(avoided)
        usable = [node for node in self._map.nodes if node.url and node.id != self._node_id]
        live = {node.id for node in self._live}
        ranked = preference_list(digest.hex(), usable)
        return sorted(
            ranked, key=lambda node: (node.id in last, node.id not in live and node.state != NodeState.DRAINING)
        )
