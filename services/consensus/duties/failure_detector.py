"""What state each storage node should have: the leader's view of their heartbeats. Pure; monotonic seconds are given (C-120).

Only the leader hears heartbeats, and it remembers them in memory: what follows from silence is a log entry (`suspect`,
`inactive`), not the silence itself. A new leader has heard nobody yet, so every node gets a full grace period from its
election; otherwise each change of leadership would start a re-replication of everything.

A suspect node is in trouble but holds what it holds: chunks are written to it last, and nothing is copied because of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from shared.contracts.cluster import HealthReport, NodeState

DEFAULT_GRACE_S: Final = 60.0
DEFAULT_HEARTBEAT_INTERVAL_S: Final = 30.0

INTERVALS_UNTIL_SUSPECT: Final = 1.5
"""One late heartbeat is no reason yet, one that is missing is."""

MAX_RETURNS: Final = 3
FLAPPING_WINDOW_S: Final = 600.0
"""A node that came back more often than that within the window is suspect until it has stayed."""

_JUDGED: Final = frozenset({NodeState.ACTIVE, NodeState.SUSPECT, NodeState.INACTIVE})
"""The others end by an act of the operator or of the node itself."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state that a node should have, and in words why it is not `active`; None when it is."""

    state: NodeState
    reason: str | None = None


@dataclass(slots=True)
class _Watched:
    """`spoke`: the silence began with a heartbeat, not with an election. `returned_at_s`: it spoke after the grace period."""

    silent_since_s: float
    spoke: bool = False
    trouble: str | None = None
    troubled_at_s: float = 0.0
    returned_at_s: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_RETURNS + 1))


class FailureDetector:
    """Since when each node has been silent, and what else speaks against it.

    Times never go back: an older `at_s` than the one remembered changes nothing.
    """

    def __init__(
        self, *, grace_s: float = DEFAULT_GRACE_S, heartbeat_interval_s: float = DEFAULT_HEARTBEAT_INTERVAL_S
    ) -> None:
        if grace_s <= 0:
            raise ValueError("the grace period must be longer than nothing")
        self._grace_s = grace_s
        self._interval_s = heartbeat_interval_s
        self._records: dict[str, _Watched] = {}

    def became_leader(self, at_s: float, node_ids: Iterable[str]) -> None:
        """Forget what an earlier leadership heard; every node of the map gets a full grace period from now."""
        self._records = {node_id: _Watched(at_s) for node_id in node_ids}

    def watch(self, at_s: float, node_ids: AbstractSet[str]) -> None:
        """The node map changed: give new nodes a full grace period, forget those that were removed."""
        self._records = {node_id: self._records.get(node_id) or _Watched(at_s) for node_id in node_ids}

    def heard(self, node_id: str, at_s: float, health: HealthReport | None = None) -> None:
        """A heartbeat arrived, with what the node says of its health; None from a node that says nothing."""
        record = self._records.setdefault(node_id, _Watched(at_s))
        if at_s - record.silent_since_s > self._grace_s:
            record.returned_at_s.append(at_s)
        record.silent_since_s = max(at_s, record.silent_since_s)
        record.spoke = True
        trouble = _trouble(health)
        if trouble is not None:
            record.trouble, record.troubled_at_s = trouble, record.silent_since_s

    def judge(self, node_id: str, state: NodeState, at_s: float) -> Verdict:
        """What state a node should have that the log says is in `state`. Never `joining`, `draining` or removed."""
        record = self._records.get(node_id)
        if record is None:
            return Verdict(state)
        silent_s = at_s - record.silent_since_s
        silence = f"silent for {max(0, int(silent_s))} s"
        if state not in _JUDGED:
            return Verdict(state, silence if silent_s > self._suspicion_s else None)
        if silent_s > self._grace_s:
            return Verdict(NodeState.INACTIVE, silence)
        if not record.spoke and state != NodeState.ACTIVE:
            # What an earlier leader knew holds until the node speaks to this one.
            return Verdict(state, "not heard yet by the consensus leader")
        if silent_s > self._suspicion_s:
            return Verdict(NodeState.SUSPECT, silence)
        reason = self._trouble_of(record, at_s)
        return Verdict(NodeState.ACTIVE if reason is None else NodeState.SUSPECT, reason)

    @property
    def _suspicion_s(self) -> float:
        return min(self._grace_s, INTERVALS_UNTIL_SUSPECT * self._interval_s)

    def _trouble_of(self, record: _Watched, at_s: float) -> str | None:
        # For one interval more than it was said: a node that fails at every second heartbeat is not well in between.
        if record.trouble is not None and at_s - record.troubled_at_s < self._interval_s:
            return record.trouble
        record.trouble = None
        returns = sum(at_s - returned_at_s < FLAPPING_WINDOW_S for returned_at_s in record.returned_at_s)
        if returns > MAX_RETURNS:
            return f"it came back {returns} times within {FLAPPING_WINDOW_S:.0f} s"
        return None


def _trouble(health: HealthReport | None) -> str | None:
    if health is None or not (health.is_failing or health.is_slow):
        return None
    return "it refuses writes" if health.is_failing else "its disk is slow"
