"""What storage nodes last said of themselves: on the leader, in memory. It changes too often to be ordered in the log."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from shared.contracts.cluster import Heartbeat


class NodeReports:
    """The last heartbeat of each admitted node, with the term in which this member heard it as the leader."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[int, Heartbeat]] = {}

    def heard(self, term: int, node_id: str, beat: Heartbeat) -> None:
        """A heartbeat arrived."""
        self._heard[node_id] = (term, beat)

    def keep(self, node_ids: AbstractSet[str]) -> None:
        """Forget the nodes that were removed."""
        self._heard = {node_id: heard for node_id, heard in self._heard.items() if node_id in node_ids}

    def of_term(self, term: int) -> dict[str, Heartbeat]:
        """By node id. What was heard in another term may be any age: others led meanwhile, and were told the news."""
        return {node_id: beat for node_id, (heard_in, beat) in self._heard.items() if heard_in == term}
