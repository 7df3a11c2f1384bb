"""Binds everything that a gateway remembers to one cluster (G-131).

A cluster that was restored at the same addresses, with the same secret, answers a gateway that was not restarted. Nothing
that was learnt of the cluster before may be used for it: its log, its node map and its replicas are others. So every answer of
consensus carries the id of its cluster, and another id empties all caches before the answer is used.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

logger = structlog.get_logger(__name__)


class ClusterCaches:
    """Invariant: what the caches hold was learnt while consensus answered for the cluster `cluster_id`.

    `cluster_id` is None while that is not known.
    """

    def __init__(self) -> None:
        self.cluster_id: str | None = None
        self._forget: list[Callable[[], None]] = []

    def add(self, forget: Callable[[], None]) -> None:
        """One more cache; `forget` empties it, also of what is on its way into it."""
        self._forget.append(forget)

    def answered(self, cluster_id: str | None) -> None:
        """Consensus answered for this cluster. None, of a member of an older version: no cache can be trusted."""
        if cluster_id is not None and cluster_id == self.cluster_id:
            return
        if None not in {cluster_id, self.cluster_id}:
            logger.warning("consensus answers for another cluster", before=self.cluster_id, now=cluster_id)
        self.cluster_id = cluster_id
        for forget in self._forget:
            forget()
