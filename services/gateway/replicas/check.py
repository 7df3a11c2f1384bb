"""Asks which nodes hold which chunks: one request per node for many chunks, never one per chunk.

This is what R means here. The log has already proved which version is current; a replica check confirms how many
replicas of it exist, and finds those that are missing. Where R is no condition, what the expected holders confirmed lately
counts, and they are not asked (`confirmations`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from services.gateway.ports import ChunkNodes, HeldChunks
from services.gateway.replicas.attempts import abandon
from services.gateway.replicas.confirmations import Confirmation, Confirmations
from services.gateway.replicas.health import NodeHealth
from services.gateway.replicas.latency import RecentLatency
from shared.contracts.cluster import NodeMap, StorageNode
from shared.errors import TrivetError
from shared.placement import expected_holders, live_nodes, read_order

_MAX_ROUNDS: Final = 4
_SHORT_LIST: Final = 64
_TIMEOUT_FLOOR_S: Final = 0.1
_TIMEOUT_LIMIT_S: Final = 1.0
_TIMEOUT_FACTOR: Final = 4.0
_TIMEOUT_PER_DIGEST_S: Final = 0.001
_TIMEOUT_PER_VERIFIED_S: Final = 0.05
"""A chunk of 1 MiB at 20 MiB/s: a node reads from the medium what it has not verified lately."""

_SLICE: Final = 128
"""Chunks planned in one go: a few milliseconds, then other requests run."""


@dataclass(slots=True)
class ReplicaCheck:
    """`holders` by digest; `missing` are (digest, node) pairs where the node answered that it lacks the chunk.

    `remembered` are such pairs where a confirmation of some time ago was counted instead of asking.
    """

    holders: dict[str, set[str]] = field(default_factory=dict)
    missing: list[tuple[str, StorageNode]] = field(default_factory=list)
    remembered: list[tuple[str, Confirmation]] = field(default_factory=list)

    @property
    def age_s(self) -> float:
        """Of the oldest confirmation that was counted; 0 when all nodes were asked."""
        return max((confirmation.age_s for _, confirmation in self.remembered), default=0.0)


class ReplicaChecker:
    """Shared by all downloads of a gateway."""

    def __init__(
        self, nodes: ChunkNodes, health: NodeHealth, confirmations: Confirmations, *, replica_count: int
    ) -> None:
        self._nodes = nodes
        self._health = health
        self._confirmations = confirmations
        self._replica_count = replica_count
        self._latency = RecentLatency(initial_s=_TIMEOUT_FLOOR_S)
        self._remembered_count = 0
        self._asked_count = 0

    def statistics(self) -> dict[str, int]:
        """Replicas of chunks so far: remembered ones that were counted, and those that nodes were asked about."""
        return {"remembered": self._remembered_count, "asked": self._asked_count}

    async def check(
        self,
        digests: Collection[str],
        node_map: NodeMap,
        *,
        wanted: int,
        presumed: dict[str, str],
        is_verified: bool = False,
    ) -> ReplicaCheck:
        """Find `wanted` holders of each chunk, asking the nodes in preference order, those that failed lately last.

        Never raises for a node: one that does not answer in time just confirms nothing.

        Args:
            presumed: by digest, a node that need not be asked because it is about to prove itself by sending the bytes.
            is_verified: count a holder only if it has read the bytes from the medium and found them whole. One that merely
                lists the chunk is neither a holder nor missing it, unless it finds it bad. Nothing that is remembered counts.
        """
        timeout_s = self._timeout_s(len(digests), _TIMEOUT_PER_VERIFIED_S if is_verified else _TIMEOUT_PER_DIGEST_S)
        recall = _recall_nothing if is_verified else partial(self._recall, live_nodes(node_map))
        plan = _Plan(wanted, self._health, node_map, presumed, recall)
        check = plan.check
        await plan.add(digests)
        for _ in range(_MAX_ROUNDS):
            requests = await plan.next_requests()
            if not requests:
                break
            await self._ask_all([_Question(node, asked, is_verified) for node, asked in requests], check, timeout_s)
        self._remembered_count += len(check.remembered)
        return check

    def _recall(self, live: Sequence[StorageNode], digest: str) -> list[Confirmation]:
        """The confirmations that count: of expected holders in the epoch of `live` whose circuit is closed, youngest first."""
        is_choice = len(live) > self._replica_count
        expected = expected_holders(digest, live, self._replica_count) if is_choice else live
        return self._confirmations.holders(
            digest, [node for node in expected if self._health.is_circuit_closed(node.id)]
        )

    def _timeout_s(self, digest_count: int, per_digest_s: float) -> float:
        """How long a node may take: a multiple of the usual, and more for a long list."""
        usual_s = min(max(_TIMEOUT_FLOOR_S, _TIMEOUT_FACTOR * self._latency.p95_s), _TIMEOUT_LIMIT_S)
        return usual_s + digest_count * per_digest_s

    async def _ask_all(self, questions: Sequence[_Question], check: ReplicaCheck, timeout_s: float) -> None:
        began_s = time.monotonic()
        self._asked_count += sum(len(question.digests) for question in questions)
        asked: dict[asyncio.Future[HeldChunks], _Question] = {}
        try:
            for question in questions:
                attempt: asyncio.Future[HeldChunks] = asyncio.ensure_future(
                    self._nodes.has_chunks(question.node, question.digests, verify=question.is_verified)
                )
                attempt.add_done_callback(question.end)
                asked[attempt] = question
            await asyncio.wait(asked, timeout=timeout_s)
            for attempt, question in asked.items():
                if attempt.done():
                    self._record(attempt, question, check, began_s)
                else:
                    self._health.suspect(question.node)
        finally:
            await abandon(asked)

    def _record(
        self, attempt: asyncio.Future[HeldChunks], question: _Question, check: ReplicaCheck, began_s: float
    ) -> None:
        try:
            found = attempt.result()
        except TrivetError as error:
            self._health.failed(question.node, error)
            return
        self._health.answered(question.node)
        if len(question.digests) <= _SHORT_LIST and not question.is_verified:
            self._latency.observe(question.ended_s - began_s)
        self._confirmations.confirm(question.node.id, found.present, found.fence, began_s)
        for digest in question.digests:
            if digest in (found.verified if question.is_verified else found.present):
                check.holders[digest].add(question.node.id)
            elif digest not in found.present:
                self._confirmations.refute(question.node.id, digest)
                check.missing.append((digest, question.node))


@dataclass(slots=True)
class _Question:
    """What one node is asked, and when it answered."""

    node: StorageNode
    digests: Sequence[str]
    is_verified: bool
    ended_s: float = 0.0

    def end(self, _: object) -> None:
        self.ended_s = time.monotonic()


def _recall_nothing(_: str) -> list[Confirmation]:
    return []


class _Plan:
    """Which node to ask about which chunks in the next round."""

    def __init__(
        self,
        wanted: int,
        health: NodeHealth,
        node_map: NodeMap,
        presumed: dict[str, str],
        recall: Callable[[str], list[Confirmation]],
    ) -> None:
        self.check = ReplicaCheck()
        self._recall = recall
        self._wanted = wanted
        self._health = health
        self._node_map = node_map
        self._presumed = presumed
        self._left: dict[str, list[StorageNode]] = {}

    async def add(self, digests: Collection[str]) -> None:
        """Find holders of `digests`, too."""
        for number, digest in enumerate(digests):
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            if digest not in self._left:
                self._add(digest)

    def _add(self, digest: str) -> None:
        presumed = self._presumed.get(digest)
        holders = self.check.holders[digest] = set()
        needed = self._wanted - (presumed is not None)
        for confirmation in self._recall(digest):
            if len(holders) < needed and confirmation.node.id != presumed:
                holders.add(confirmation.node.id)
                self.check.remembered.append((digest, confirmation))
        if len(holders) >= needed:
            self._left[digest] = []
            return
        preferred, avoided = self._health.split(read_order(digest, self._node_map))
        known = {presumed, *holders}
        self._left[digest] = [node for node in [*preferred, *avoided] if node.id not in known]

    async def next_requests(self) -> list[tuple[StorageNode, list[str]]]:
        """As many nodes per chunk as it still lacks holders, grouped by node."""
        by_node: dict[str, tuple[StorageNode, list[str]]] = {}
        for number, (digest, left) in enumerate(self._left.items()):
            if number % (8 * _SLICE) == 8 * _SLICE - 1:
                await asyncio.sleep(0)
            needed = self._wanted - len(self.check.holders[digest]) - (digest in self._presumed)
            for _ in range(min(needed, len(left))):
                node = left.pop(0)
                by_node.setdefault(node.id, (node, []))[1].append(digest)
        return list(by_node.values())
