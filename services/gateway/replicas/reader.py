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

from services.gateway.ports import ChunkBytes, ChunkNodes, ReadChunk
from services.gateway.replicas.attempts import abandon
from services.gateway.replicas.confirmations import Confirmations
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
    """Verified bytes, the node they came from, and the nodes that turned out to lack the chunk or to have it wrong.

    `node_id` is None where no node was asked.
    """

    data: ChunkBytes
    node_id: str | None
    faulty_nodes: tuple[StorageNode, ...]


@dataclass(slots=True)
class ReadOutcomes:
    """Chunks fetched, chunks that no node gave, and how many nodes beside the first were asked for those fetched."""

    fetched: int = 0
    failed: int = 0
    further_attempts: int = 0


class ReplicaReader:
    """Shared by all downloads and repairs of a gateway."""

    def __init__(
        self, nodes: ChunkNodes, health: NodeHealth, confirmations: Confirmations, *, timeout_s: float
    ) -> None:
        self._nodes = nodes
        self._health = health
        self._confirmations = confirmations
        self._timeout_s = timeout_s
        self._latency = RecentLatency(initial_s=HEDGE_FLOOR_S)
        self.outcomes = ReadOutcomes()

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
        try:
            while race.winner is None:
                self._ask_next(race)
                if not race.attempts:
                    self.outcomes.failed += 1
                    raise race.failure()
                await asyncio.wait(race.attempts, timeout=self._wait_s(race), return_when=asyncio.FIRST_COMPLETED)
                self._record_progress(race)
            for node, _ in race.attempts.values():
                self._health.suspect(node)
        finally:
            if race.attempts:
                await abandon(race.attempts)
        self.outcomes.fetched += 1
        self.outcomes.further_attempts += race.attempt_count - 1
        return race.winner

    def _ask_next(self, race: _Race) -> None:
        if race.unasked:
            node = race.unasked.popleft()
            attempt = asyncio.ensure_future(self._nodes.get_chunk(node, race.digest, race.size_bytes))
            race.attempts[attempt] = node, time.monotonic()
            race.attempt_count += 1

    def _wait_s(self, race: _Race) -> float:
        """Until another node is asked, or the first attempt has taken too long."""
        first_s = min(began_s for _, began_s in race.attempts.values())
        left_s = max(0.0, first_s + self._timeout_s - time.monotonic())
        return min(self.hedge_after_s, left_s) if race.unasked else left_s

    def _record_progress(self, race: _Race) -> None:
        now_s = time.monotonic()
        for attempt, (node, began_s) in list(race.attempts.items()):
            if attempt.done():
                del race.attempts[attempt]
                self._record_end(race, node, attempt, began_s, now_s)
            elif began_s + self._timeout_s <= now_s:
                del race.attempts[attempt]
                attempt.cancel()
                self._health.hung(node)
                self._record_failure(
                    race, node, PeerUnreachableError(f"{node.id} did not answer in time.", peer=node.id)
                )

    def _record_end(
        self, race: _Race, node: StorageNode, attempt: asyncio.Future[ReadChunk], began_s: float, now_s: float
    ) -> None:
        try:
            read = attempt.result()
        except TrivetError as error:
            self._health.failed(node, error)
            self._record_failure(race, node, error)
            return
        self._health.answered(node)
        self._latency.observe(now_s - began_s)
        # The last check before the client: wrong bytes are never passed on, wherever they came from.
        if len(read.data) != race.size_bytes or blake3(read.data).hexdigest() != race.digest:
            self._record_failure(
                race, node, ChunkCorruptError(f"{node.id} sent bytes that do not have the chunk's digest.")
            )
        else:
            self._confirmations.confirm(node.id, (race.digest,), read.fence, began_s)
            race.record_bytes(node, read.data)

    def _record_failure(self, race: _Race, node: StorageNode, error: TrivetError) -> None:
        if race.record_failure(node, error):
            self._confirmations.refute(node.id, race.digest)


@dataclass(slots=True)
class _Race:
    """One chunk being fetched. `unasked` are the nodes not yet asked; `attempts` name their node and when they began."""

    digest: str
    size_bytes: int
    unasked: deque[StorageNode]
    attempts: dict[asyncio.Future[ReadChunk], tuple[StorageNode, float]] = field(default_factory=dict)
    failures: dict[str, TrivetError] = field(default_factory=dict)
    faulty: list[StorageNode] = field(default_factory=list)
    winner: FetchedChunk | None = None
    attempt_count: int = 0

    def record_failure(self, node: StorageNode, error: TrivetError) -> bool:
        """Whether the failure says that the node lacks the chunk or has it wrong."""
        self.failures[node.id] = error
        is_faulty = isinstance(error, ChunkCorruptError | ChunkNotFoundError)
        if is_faulty:
            self.faulty.append(node)
        return is_faulty

    def record_bytes(self, node: StorageNode, data: ChunkBytes) -> None:
        if self.winner is None:
            self.winner = FetchedChunk(data, node.id, tuple(self.faulty))

    def failure(self) -> DataUnavailableError:
        return DataUnavailableError(
            "No good replica of a part of this file can be reached now.",
            chunk=self.digest,
            outcomes={node_id: error.code for node_id, error in sorted(self.failures.items())},
        )
