"""What storage nodes last said of themselves: on the leader, in memory. It changes too often to be ordered in the log."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from shared.contracts.cluster import Heartbeat, StorageNode


@dataclass(frozen=True, slots=True)
class TermReports:
    """What was heard and concluded in one term, by node id."""

    beats: Mapping[str, Heartbeat]
    reasons: Mapping[str, str]

    def fill(self, node: StorageNode) -> StorageNode:
        """`node` with what only the leader knows of it."""
        update: dict[str, object] = {"reason": self.reasons.get(node.id)}
        if (beat := self.beats.get(node.id)) is not None:
            update |= {"used_bytes": beat.used_bytes, "is_full": beat.is_full, "reconcile": beat.reconcile}
        return node.model_copy(update=update)


class NodeReports:
    """The last heartbeat of each admitted node, with the term in which this member heard it as the leader."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[int, Heartbeat]] = {}
        self._judged: dict[str, tuple[int, str]] = {}

    def heard(self, term: int, node_id: str, beat: Heartbeat) -> None:
        """A heartbeat arrived."""
        self._heard[node_id] = (term, beat)

    def judged(self, term: int, node_id: str, reason: str | None) -> None:
        """Why the leader does not think well of a node, or that it does."""
        if reason is None:
            self._judged.pop(node_id, None)
        else:
            self._judged[node_id] = (term, reason)

    def keep(self, node_ids: AbstractSet[str]) -> None:
        """Forget the nodes that were removed."""
        self._heard = {node_id: heard for node_id, heard in self._heard.items() if node_id in node_ids}
        self._judged = {node_id: judged for node_id, judged in self._judged.items() if node_id in node_ids}

    def of_term(self, term: int) -> TermReports:
        """What was heard in another term may be any age: others led meanwhile, and were told the news."""
        return TermReports(
            {node_id: beat for node_id, (heard_in, beat) in self._heard.items() if heard_in == term},
            {node_id: reason for node_id, (judged_in, reason) in self._judged.items() if judged_in == term},
        )
