"""Follows the heartbeats of storage nodes on the leader: proposes runs, address changes, states, and removal after a drain.

The log decides what a node's state is; this module only observes and proposes. Silence is measured on the leader's monotonic
clock, so that no node's wall clock matters. A node that drains is removed once it reports, in the epoch of the node map, a log
index at which it held nothing any more that a file refers to; the entry carries that proof, and `apply` checks it again (C-121).
"""

from __future__ import annotations

import secrets
import time
from typing import Final

import structlog

from services.consensus.duties.capacity_changes import CapacityChanges
from services.consensus.duties.failure_detector import FailureDetector
from services.consensus.duties.node_reports import NodeReports
from services.consensus.metadata.entries import GARBAGE_VERSION, RUNS_VERSION
from services.consensus.service import ConsensusService
from shared.background_tasks import BackgroundTasks
from shared.contracts.calls import Command, Proposed, ResultT
from shared.contracts.cluster import Heartbeat, HeartbeatResponse, NodeRun, NodeState, StorageNode
from shared.contracts.metadata import (
    RecordRun,
    RemovalProof,
    RemoveNode,
    SetNodeState,
    UpdateNode,
)
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
        self._capacities = CapacityChanges()
        self._clock = clock
        self._cluster_id = cluster_id
        self._unadmitted: dict[str, None] = {}
        self._led_term = 0

    async def heard(self, node_id: str, beat: Heartbeat) -> HeartbeatResponse:
        """One heartbeat. The node has the state in the log that it should have before this returns, if it is admitted.

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
        now_s = time.monotonic()
        term = self._service.member.raft.storage.term
        self._begin_term(term, now_s)
        self._detector.heard(node_id, now_s, beat.health)
        self._reports.heard(term, node_id, beat)
        self._unadmitted.pop(node_id, None)
        await self._follow(known, beat, now_s)
        if (followed := self._find(node_id)) is not None:
            await self._settle(term, followed, now_s)
        return self._response(fence=self._service.store.fence(node_id), is_run_recorded=is_run_recorded)

    def start(self, tasks: BackgroundTasks) -> None:
        """Give nodes the states they should have, and remove those that have drained, while leading."""
        tasks.every("storage node watch", CHECK_INTERVAL_S, self._step, on_ticks=True)

    async def _step(self) -> None:
        role = self._service.member.leader_role
        if role is not None:
            await self._check(role.term)

    async def _check(self, term: int) -> None:
        now_s = time.monotonic()
        node_ids = {node.id for node in self._service.store.node_map().nodes}
        self._begin_term(term, now_s)
        self._detector.watch(now_s, node_ids)
        self._reports.keep(node_ids)
        self._capacities.keep(node_ids)
        for node_id in sorted(node_ids):
            try:
                # Asked for anew each time: an operator may drain a node while another one's entry is waited for.
                if (node := self._find(node_id)) is not None:
                    await self._settle(term, node, now_s)
                    await self._remove_if_drained(term, node)
            except TrivetError as error:
                logger.info("node check put off", storage_node=node_id, reason=error.message)

    def _begin_term(self, term: int, now_s: float) -> None:
        if term != self._led_term:
            self._led_term = term
            self._detector.became_leader(now_s, [node.id for node in self._service.store.node_map().nodes])

    async def _settle(self, term: int, node: StorageNode, now_s: float) -> None:
        """Have the log give the node the state that it should have."""
        verdict = self._detector.judge(node.id, node.state, now_s)
        reason = verdict.reason if node.url else "it has not dialled in yet"
        self._reports.judged(term, node.id, reason)
        state = verdict.state
        seen: NodeState | None = node.state
        if self._entry_version < GARBAGE_VERSION:
            # Members of the version before know neither: such a node stays what it was, active.
            state, seen = NodeState.ACTIVE if state == NodeState.SUSPECT else state, None
        if not node.url or state == node.state:
            return
        log = logger.info if reason is None else logger.warning
        log("state of a storage node changes", storage_node=node.id, state=state, reason=reason)
        # Not over what an operator decided meanwhile: that would end a drain.
        await self._propose(SetNodeState(node_id=node.id, state=state, seen=seen, stamp=self._clock.stamp()))

    async def _remove_if_drained(self, term: int, node: StorageNode) -> None:
        beat = self._reports.of_term(term).beats.get(node.id)
        report = None if beat is None else beat.reconcile
        if (
            report is None
            or report.drained_index is None
            or node.state != NodeState.DRAINING
            or node.draining_since is None
            or not node.draining_since < report.drained_index <= self._service.store.last_applied
            or report.epoch != self._service.store.node_map().epoch
        ):
            return
        proof = RemovalProof(log_index=report.drained_index, epoch=report.epoch, incarnation=node.incarnation)
        await self._propose(RemoveNode(node_id=node.id, proof=proof, stamp=self._clock.stamp()))
        logger.info("a drained storage node was removed", storage_node=node.id, drained_index=report.drained_index)

    @property
    def _entry_version(self) -> int:
        return self._service.store.summary().entry_version

    async def _record_run(self, known: StorageNode, run: NodeRun) -> bool:
        """Have the log decide whose run this is; False while a member does not know such entries. Raises RunSupersededError."""
        store = self._service.store
        if self._entry_version < RUNS_VERSION:
            return False
        before = store.runs().get(known.id)
        if before is not None and before.describes(run):
            return True
        if before is not None and before.has_rival and run.boot_id in before.superseded:
            raise _superseded(known.id)
        outcome = await self._propose(RecordRun(node_id=known.id, run=run, stamp=self._clock.stamp()))
        found = outcome.result
        if found.incarnation != known.incarnation:
            logger.warning(
                "storage node has another disk; what it acknowledged before counts no more",
                storage_node=known.id,
                incarnation=found.incarnation,
                disk_id=run.disk_id,
                counter=run.counter,
                has_rival=found.is_superseded,
            )
        elif before is None or before.boot_id != run.boot_id:
            logger.info(
                "run of a storage node recorded", storage_node=known.id, disk_id=run.disk_id, counter=run.counter
            )
        if found.is_superseded:
            raise _superseded(known.id)
        return True

    async def _follow(self, known: StorageNode, beat: Heartbeat, now_s: float) -> None:
        """Have the log say where the node is and how much it may hold."""
        capacity_bytes = self._capacities.follow(known.id, known.capacity_bytes, beat.capacity_bytes, now_s)
        if (known.url, known.zone, known.capacity_bytes) != (beat.url, beat.zone, capacity_bytes):
            await self._propose(
                UpdateNode(
                    node_id=known.id,
                    url=beat.url,
                    zone=beat.zone,
                    capacity_bytes=capacity_bytes,
                    stamp=self._clock.stamp(),
                )
            )

    def _response(self, *, fence: int | None, is_run_recorded: bool) -> HeartbeatResponse:
        return HeartbeatResponse(
            is_admitted=fence is not None,
            cluster_id=self._cluster_id,
            epoch=self._service.store.node_map().epoch,
            fence=fence,
            is_run_recorded=is_run_recorded,
            takes_reports=True,
        )

    def _find(self, node_id: str) -> StorageNode | None:
        return next((node for node in self._service.store.node_map().nodes if node.id == node_id), None)

    def _log_unadmitted(self, node_id: str) -> None:
        if node_id not in self._unadmitted:
            logger.warning("an unknown storage node sends heartbeats; admit it by id", storage_node=node_id)
            while len(self._unadmitted) >= MAX_UNADMITTED_NODES:
                del self._unadmitted[next(iter(self._unadmitted))]
        self._unadmitted[node_id] = None

    async def _propose(self, command: Command[ResultT]) -> Proposed[ResultT]:
        return await self._service.propose_one(secrets.token_hex(16), command)


def _superseded(node_id: str) -> RunSupersededError:
    return RunSupersededError(
        "Another process runs under this node's name since; this one holds nothing that counts.", node_id=node_id
    )
