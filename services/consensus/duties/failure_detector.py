"""Which storage nodes are silent: the leader's view of their heartbeats. Pure; monotonic seconds are given.

Only the leader hears heartbeats, and it remembers them in memory: what follows from silence is a log entry (`inactive`),
not the silence itself. A new leader has heard nobody yet, so every node gets a full grace period from its election;
otherwise each change of leadership would start a re-replication of everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

DEFAULT_GRACE_S: Final = 60.0


class FailureDetector:
    """Since when each node has been silent.

    Times never go back: an older `at_s` than the one remembered changes nothing.

    Invariant: `_spoke` are the nodes of `_silent_since_s` whose silence began with a heartbeat, not with an election.
    """

    def __init__(self, *, grace_s: float = DEFAULT_GRACE_S) -> None:
        if grace_s <= 0:
            raise ValueError("the grace period must be longer than nothing")
        self._grace_s = grace_s
        self._silent_since_s: dict[str, float] = {}
        self._spoke: set[str] = set()

    def became_leader(self, at_s: float, node_ids: Iterable[str]) -> None:
        """Forget what an earlier leadership heard; every node of the map gets a full grace period from now."""
        self._silent_since_s = dict.fromkeys(node_ids, at_s)
        self._spoke = set()

    def watch(self, at_s: float, node_ids: AbstractSet[str]) -> None:
        """The node map changed: give new nodes a full grace period, forget those that were removed."""
        self._silent_since_s = {node_id: self._silent_since_s.get(node_id, at_s) for node_id in node_ids}
        self._spoke &= node_ids

    def heard(self, node_id: str, at_s: float) -> None:
        """A heartbeat arrived."""
        self._silent_since_s[node_id] = max(at_s, self._silent_since_s.get(node_id, at_s))
        self._spoke.add(node_id)

    def overdue(self, at_s: float) -> list[str]:
        """The nodes that have been silent for longer than the grace period, by id."""
        return sorted(node_id for node_id in self._silent_since_s if self._is_overdue(node_id, at_s))

    def returned(self, at_s: float, inactive_ids: Iterable[str]) -> list[str]:
        """Of the nodes that the log calls inactive, those that sent a heartbeat within the grace period, by id."""
        return sorted(
            node_id for node_id in inactive_ids if node_id in self._spoke and not self._is_overdue(node_id, at_s)
        )

    def _is_overdue(self, node_id: str, at_s: float) -> bool:
        return at_s - self._silent_since_s[node_id] > self._grace_s
