"""Follows the heartbeats of storage nodes on the leader: proposes runs, address changes, `inactive` and `active`.

The log decides what a node's state is; this module only observes and proposes. Silence is measured on the leader's monotonic
clock, so that no node's wall clock matters.
"""

from __future__ import annotations

import secrets
import time
from typing import Final

import structlog

from services.consensus.duties.failure_detector import FailureDetector
from services.consensus.duties.node_reports import NodeReports
from services.consensus.metadata.entries import RUNS_VERSION
from services.consensus.service import ConsensusService
from shared.background_tasks import sleep_to_tick
from shared.contracts.cluster import Heartbeat, HeartbeatResponse, NodeRun, NodeState, StorageNode
from shared.contracts.metadata import Command, ProposalResult, RecordRun, SetNodeState, UpdateNode
from shared.contracts.time import TimeSource
from shared.errors import ClusterMismatchError, RunSupersededError, TrivetError

logger = structlog.get_logger(__name__)

CHECK_INTERVAL_S: Final = 1.0
MAX_UNADMITTED_NODES: Final = 64
"""Node ids remembered so that each is logged once; the oldest is forgotten."""


class StorageNodes:
    """Heartbeats in, state changes proposed. Acts only while this member leads."""

    def __init__(
        self,
        service: ConsensusService,
        detector: FailureDetector,
        reports: NodeReports,
        clock: TimeSource,
        *,
        cluster_id: str,
    ) -> None:
        self._service = service
        self._reports = reports
        self._detector = detector
        self._clock = clock
        self._cluster_id = cluster_id
        self._unadmitted: dict[str, None] = {}
        self._led_term = 0

    async def heard(self, node_id: str, beat: Heartbeat) -> HeartbeatResponse:
        """One heartbeat. The node is `active` in the log before this returns, if it is admitted.

        Raises:
            ClusterMismatchError: it belongs to another cluster; definite.
            RunSupersededError: another process runs under its name since; definite.
            NotLeaderError: definite.
        """
        if beat.cluster_id != self._cluster_id:
            raise ClusterMismatchError("The node belongs to another cluster.", cluster_id=self._cluster_id)
        await self._service.member.read_barrier()
        known = self._find(node_id)
        if known is None:
            self._log_unadmitted(node_id)
            return self._response(fence=None, is_run_recorded=False)
        # First: what a superseded run says of itself must not count.
        is_run_recorded = await self._record_run(known, beat.run)
        self._detector.heard(node_id, time.monotonic())
        self._reports.heard(self._service.member.raft.storage.term, node_id, beat)
        self._unadmitted.pop(node_id, None)
        await self._follow(known, beat)
        return self._response(fence=self._service.store.fence(node_id), is_run_recorded=is_run_recorded)

    async def watch(self) -> None:
        """Run for ever: mark silent nodes inactive, while leading."""
        while True:
            await sleep_to_tick(CHECK_INTERVAL_S)
            role = self._service.member.leader_role
            if role is None:
                continue
            try:
                await self._check(role.term)
            except TrivetError as error:
                logger.info("node check put off", reason=error.message)

    async def _check(self, term: int) -> None:
        now_s = time.monotonic()
        nodes = {node.id: node for node in self._service.store.node_map().nodes}
        if term != self._led_term:
            self._led_term = term
            self._detector.became_leader(now_s, nodes)
        self._detector.watch(now_s, nodes.keys())
        self._reports.keep(nodes.keys())
        for node_id in self._detector.overdue(now_s):
            node = nodes.get(node_id)
            if node is not None and node.state == NodeState.ACTIVE:
                logger.warning("storage node is silent", storage_node=node_id)
                await self._propose(SetNodeState(node_id=node_id, state=NodeState.INACTIVE, stamp=self._clock.stamp()))

    async def _record_run(self, known: StorageNode, run: NodeRun) -> bool:
        """Have the log decide whose run this is; False while a member does not know such entries. Raises RunSupersededError."""
        store = self._service.store
        if store.summary().entry_version < RUNS_VERSION:
            return False
        before = store.runs().get(known.id)
        if before is not None and before.describes(run):
            return True
        if before is not None and before.has_rival and run.boot_id in before.superseded:
            raise _superseded(known.id)
        outcome = await self._propose(RecordRun(node_id=known.id, run=run, stamp=self._clock.stamp()))
        found = outcome.result or {}
        if found.get("incarnation") != known.incarnation:
            logger.warning(
                "storage node has another disk; what it acknowledged before counts no more",
                storage_node=known.id,
                incarnation=found.get("incarnation"),
                disk_id=run.disk_id,
                counter=run.counter,
                has_rival=found.get("is_superseded"),
            )
        elif before is None or before.boot_id != run.boot_id:
            logger.info(
                "run of a storage node recorded", storage_node=known.id, disk_id=run.disk_id, counter=run.counter
            )
        if found.get("is_superseded"):
            raise _superseded(known.id)
        return True

    async def _follow(self, known: StorageNode, beat: Heartbeat) -> None:
        if (known.url, known.zone, known.capacity_bytes) != (beat.url, beat.zone, beat.capacity_bytes):
            await self._propose(
                UpdateNode(
                    node_id=known.id,
                    url=beat.url,
                    zone=beat.zone,
                    capacity_bytes=beat.capacity_bytes,
                    stamp=self._clock.stamp(),
                )
            )
        if known.state == NodeState.INACTIVE:
            await self._propose(SetNodeState(node_id=known.id, state=NodeState.ACTIVE, stamp=self._clock.stamp()))

    def _response(self, *, fence: int | None, is_run_recorded: bool) -> HeartbeatResponse:
        return HeartbeatResponse(
            is_admitted=fence is not None,
            cluster_id=self._cluster_id,
            epoch=self._service.store.node_map().epoch,
            fence=fence,
            is_run_recorded=is_run_recorded,
        )

    def _find(self, node_id: str) -> StorageNode | None:
        return next((node for node in self._service.store.node_map().nodes if node.id == node_id), None)

    def _log_unadmitted(self, node_id: str) -> None:
        if node_id not in self._unadmitted:
            logger.warning("an unknown storage node sends heartbeats; admit it by id", storage_node=node_id)
            while len(self._unadmitted) >= MAX_UNADMITTED_NODES:
                del self._unadmitted[next(iter(self._unadmitted))]
        self._unadmitted[node_id] = None

    async def _propose(self, command: Command) -> ProposalResult:
        return await self._service.propose_one(secrets.token_hex(16), command)


def _superseded(node_id: str) -> RunSupersededError:
    return RunSupersededError(
        "Another process runs under this node's name since; this one holds nothing that counts.", node_id=node_id
    )
