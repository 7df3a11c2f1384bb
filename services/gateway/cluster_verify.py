"""Verify, over all storage nodes: each reads everything that it holds and compares it with what the log says it should hold.

The nodes do the work and keep the result; this starts them, asks them and adds up. A node that does not answer is named, and
nothing is said to be clean without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.gateway.ports import ChunkNodes, Metadata
from shared.contracts.cluster import StorageNode
from shared.contracts.metadata import GetCluster
from shared.contracts.objects import CountObjects, ObjectCounts
from shared.contracts.reconcile import VerifyReport, VerifyState
from shared.errors import (
    InvalidRequestError,
    NotReadyError,
    TrivetError,
    UpgradeUnfinishedError,
    VerifyInProgressError,
)


@dataclass(frozen=True, slots=True)
class ObjectTotals:
    """What all buckets hold by the log; exact while nothing changes. Parts are those of uploads under way."""

    versions: int = 0
    markers: int = 0
    uploads: int = 0
    parts: int = 0
    manifests: int = 0

    def plus(self, page: ObjectCounts) -> ObjectTotals:
        """With one page more."""
        return ObjectTotals(
            self.versions + page.versions,
            self.markers + page.markers,
            self.uploads + page.uploads,
            self.parts + page.parts,
            self.manifests + page.manifests,
        )


@dataclass(frozen=True, slots=True)
class VerifiedNode:
    """What one node says, or why it says nothing."""

    node_id: str
    report: VerifyReport | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """Of all nodes, by id. `objects`: what their chunks belong to; None while a pass is under way, or unknown."""

    nodes: list[VerifiedNode]
    objects: ObjectTotals | None = None

    @property
    def reports(self) -> list[VerifyReport]:
        """Of the nodes that answered."""
        return [node.report for node in self.nodes if node.report is not None]

    @property
    def state(self) -> VerifyState:
        """Running while any node is at it; finished when all that answered are."""
        states = {report.state for report in self.reports}
        for state in (VerifyState.RUNNING, VerifyState.CANCELLED, VerifyState.NEVER):
            if state in states:
                return state
        return VerifyState.FINISHED if states else VerifyState.NEVER

    @property
    def is_clean(self) -> bool | None:
        """Whether nothing is missing or bad anywhere; None until every node has finished."""
        if any(report.missing_chunks or report.bad_chunks for report in self.reports):
            return False
        is_complete = len(self.reports) == len(self.nodes) and self.state == VerifyState.FINISHED
        return True if is_complete else None

    @property
    def progress(self) -> float:
        """0 to 1, by chunks; by nodes until all of them know how many they have."""
        reports = self.reports
        expected = [report.expected_chunks for report in reports if report.expected_chunks is not None]
        if not reports:
            return 0.0
        if len(expected) < len(reports) or not sum(expected):
            return sum(report.progress for report in reports) / len(reports)
        return sum(report.progress * count for report, count in zip(reports, expected, strict=True)) / sum(expected)

    @property
    def eta_s(self) -> int | None:
        """Until the slowest is done; None when one cannot tell, or nothing runs."""
        running = [report.eta_s for report in self.reports if report.state == VerifyState.RUNNING]
        known = [eta_s for eta_s in running if eta_s is not None]
        return max(known) if known and len(known) == len(running) else None


class ClusterVerify:
    """Fan-out over the storage nodes of the node map, those that are away included."""

    def __init__(self, metadata: Metadata, nodes: ChunkNodes) -> None:
        self._metadata = metadata
        self._nodes = nodes

    async def start(self) -> Verification:
        """Begin a pass on every node.

        Raises:
            VerifyInProgressError: a node is at it already; definite, no other one was started.
            NotReadyError: no node could be asked; none was started, as far as is known.
        """
        nodes = await self._storage_nodes()
        _refuse_running(await self._ask(nodes, self._nodes.verify_report))
        started = await self._ask(nodes, self._nodes.start_verify)
        if not started.reports:
            # Somebody else was quicker.
            _refuse_running(await self._ask(nodes, self._nodes.verify_report))
            problems = {node.node_id: node.problem for node in started.nodes}
            raise NotReadyError("No storage node could be asked; try again.", definite=False, nodes=problems)
        return started

    async def report(self) -> Verification:
        """How far the pass under way is, or what the last one found."""
        found = await self._ask(await self._storage_nodes(), self._nodes.verify_report)
        # Whoever waits for the end asks often, and to count takes a read per some thousands of versions.
        return found if found.state == VerifyState.RUNNING else replace(found, objects=await self._count())

    async def cancel(self) -> Verification:
        """End the pass under way; without one nothing happens."""
        return await self._ask(await self._storage_nodes(), self._nodes.cancel_verify)

    async def _count(self) -> ObjectTotals | None:
        totals, position = ObjectTotals(), None
        while True:
            try:
                page, _ = await self._metadata.read(CountObjects(position=position))
            except (InvalidRequestError, UpgradeUnfinishedError):
                return None  # a member of an older version leads
            totals, position = totals.plus(page), page.next_position
            if position is None:
                return totals

    async def _storage_nodes(self) -> list[StorageNode]:
        answer, _ = await self._metadata.read(GetCluster())
        return [node for node in answer.node_map.nodes if node.url]

    async def _ask(
        self, nodes: Sequence[StorageNode], call: Callable[[StorageNode], Coroutine[Any, Any, VerifyReport]]
    ) -> Verification:
        async def ask(node: StorageNode) -> VerifiedNode:
            try:
                return VerifiedNode(node.id, await call(node))
            except TrivetError as error:
                return VerifiedNode(node.id, None, error.message)

        return Verification(list(await asyncio.gather(*map(ask, nodes))))


def _refuse_running(found: Verification) -> None:
    running = [node.node_id for node in found.nodes if node.report and node.report.state == VerifyState.RUNNING]
    if running:
        raise VerifyInProgressError("A verify is under way; wait for it, or cancel it.", nodes=running)
