"""Fetches one chunk from whichever replica answers first with the right bytes.

One node is asked; after the recent p95 a second one races it; a failure brings the next at once. Every byte is checked
against the digest before anybody sees it. All nodes are tried before the chunk is given up.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from services.gateway.ports import ChunkNodes
from services.gateway.replicas.health import NodeHealth
from services.gateway.replicas.latency import RecentLatency
from shared.contracts.cluster import StorageNode
from shared.errors import (
    ChunkCorruptError,
    ChunkNotFoundError,
    DataUnavailableError,
    PeerUnreachableError,
    TrivetError,
)

HEDGE_FLOOR_S: Final = 0.05
HEDGE_LIMIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class FetchedChunk:
    """Verified bytes, the node they came from, and the nodes that turned out to lack the chunk or to have it wrong."""

    data: bytes
    node_id: str
    faulty_nodes: tuple[StorageNode, ...]


class ReplicaReader:
    """Shared by all downloads and repairs of a gateway."""

    def __init__(self, nodes: ChunkNodes, health: NodeHealth, *, timeout_s: float) -> None:
        self._nodes = nodes
        self._health = health
        self._timeout_s = timeout_s
        self._latency = RecentLatency(initial_s=HEDGE_FLOOR_S)

    @property
    def hedge_after_s(self) -> float:
        """How long one replica may take before another is asked."""
        return min(max(HEDGE_FLOOR_S, self._latency.p95_s), HEDGE_LIMIT_S)

    def first_choice(self, order: Sequence[StorageNode]) -> str:
        """The id of the node that `fetch` would ask first; empty when there is none."""
        preferred, avoided = self._health.split(order)
        return next((node.id for node in [*preferred, *avoided]), "")

    async def fetch(self, digest: str, size_bytes: int, order: Sequence[StorageNode]) -> FetchedChunk:
        """The bytes of `digest`, asked for along `order`.

        Raises:
            DataUnavailableError: no node gave the right bytes; `outcomes` says why, node by node.
        """
        preferred, avoided = self._health.split(order)
        race = _Race(digest, size_bytes, deque([*preferred, *avoided]))
        async with asyncio.TaskGroup() as group:
            while race.winner is None:
                node = race.next_node()
                if node is not None:
                    race.attempts[group.create_task(self._attempt(race, node))] = node
                elif not race.attempts:
                    break
                await asyncio.wait(
                    race.attempts,
                    timeout=self.hedge_after_s if race.unasked else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                race.drop_finished()
            for attempt, node in race.attempts.items():
                attempt.cancel()
                self._health.suspect(node)
        if race.winner is None:
            raise race.failure()
        return race.winner

    async def _attempt(self, race: _Race, node: StorageNode) -> None:
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                data = await self._nodes.get_chunk(node, race.digest)
        except TimeoutError:
            self._health.hung(node)
            race.record_failure(node, PeerUnreachableError(f"{node.id} did not answer in time.", peer=node.id))
            return
        except TrivetError as error:
            self._health.failed(node, error)
            race.record_failure(node, error)
            return
        self._health.answered(node)
        self._latency.observe(time.monotonic() - began_s)
        # The last check before the client: wrong bytes are never passed on, wherever they came from.
        if len(data) != race.size_bytes or blake3(data).hexdigest() != race.digest:
            race.record_failure(node, ChunkCorruptError(f"{node.id} sent bytes that do not have the chunk's digest."))
        else:
            race.record_bytes(node, data)


@dataclass(slots=True)
class _Race:
    """One chunk being fetched. `unasked` are the nodes not yet asked."""

    digest: str
    size_bytes: int
    unasked: deque[StorageNode]
    attempts: dict[asyncio.Task[None], StorageNode] = field(default_factory=dict)
    failures: dict[str, TrivetError] = field(default_factory=dict)
    faulty: list[StorageNode] = field(default_factory=list)
    winner: FetchedChunk | None = None

    def next_node(self) -> StorageNode | None:
        return self.unasked.popleft() if self.unasked else None

    def drop_finished(self) -> None:
        for attempt in [attempt for attempt in self.attempts if attempt.done()]:
            del self.attempts[attempt]

    def record_failure(self, node: StorageNode, error: TrivetError) -> None:
        self.failures[node.id] = error
        if isinstance(error, ChunkCorruptError | ChunkNotFoundError):
            self.faulty.append(node)

    def record_bytes(self, node: StorageNode, data: bytes) -> None:
        if self.winner is None:
            self.winner = FetchedChunk(data, node.id, tuple(self.faulty))

    def failure(self) -> DataUnavailableError:
        return DataUnavailableError(
            "No good replica of a part of this file can be reached now.",
            chunk=self.digest,
            outcomes={node_id: error.code for node_id, error in sorted(self.failures.items())},
        )
