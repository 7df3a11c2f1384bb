"""Which changes of a storage node's capacity go into the log. Pure; monotonic seconds are given.

Capacity is the weight of a node in placement, in whole GiB: each change of it raises the epoch and moves chunks. So what does
not change the weight is left out, and a node whose capacity changes all the time is followed only now and then.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

from shared.placement import placement_weight

MIN_INTERVAL_S: Final = 600.0
"""Between two changes of one node's capacity."""


class CapacityChanges:
    """When the capacity of each node was last changed by this member."""

    def __init__(self) -> None:
        self._changed_at_s: dict[str, float] = {}

    def follow(self, node_id: str, known_bytes: int, told_bytes: int, at_s: float) -> int:
        """What the log should say: `told_bytes`, or `known_bytes` as long as that is to stay. 0 is of a node not heard yet."""
        if known_bytes == 0:
            return told_bytes
        if placement_weight(known_bytes) == placement_weight(told_bytes):
            return known_bytes
        changed_at_s = self._changed_at_s.get(node_id)
        if changed_at_s is not None and at_s - changed_at_s < MIN_INTERVAL_S:
            return known_bytes
        self._changed_at_s[node_id] = at_s
        return told_bytes

    def keep(self, node_ids: AbstractSet[str]) -> None:
        """Forget the nodes that were removed."""
        self._changed_at_s = {node_id: at_s for node_id, at_s in self._changed_at_s.items() if node_id in node_ids}
