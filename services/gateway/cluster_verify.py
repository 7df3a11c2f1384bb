"""Verify, over all storage nodes: each reads everything that it holds and compares it with what the log says it should hold.

The nodes do the work and keep the result; this starts them, asks them and adds up. A node that does not answer is named, and
nothing is said to be clean without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from services.gateway.ports import ChunkNodes, Metadata
from shared.contracts.cluster import StorageNode
from shared.contracts.metadata import GetCluster
from shared.contracts.reconcile import VerifyReport, VerifyState
from shared.errors import NotReadyError, TrivetError, VerifyInProgressError


@dataclass(frozen=True, slots=True)
class VerifiedNode:
    """What one node says, or why it says nothing."""

    node_id: str
    report: VerifyReport | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """Of all nodes, by id."""

    nodes: list[VerifiedNode]

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
        return await self._ask(await self._storage_nodes(), self._nodes.verify_report)

    async def cancel(self) -> Verification:
        """End the pass under way; without one nothing happens."""
        return await self._ask(await self._storage_nodes(), self._nodes.cancel_verify)

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
