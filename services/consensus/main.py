"""The composition root of a consensus member: settings, files, threads, engine, routes. Importing it does nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import structlog
from fastapi import FastAPI

from services.consensus.api import create_router
from services.consensus.callers import ROUTE_CALLERS
from services.consensus.duties.disk_watch import watch_disk
from services.consensus.duties.failure_detector import FailureDetector
from services.consensus.duties.log_clock import LogClock, Retentions
from services.consensus.duties.membership import Membership
from services.consensus.duties.node_reports import NodeReports
from services.consensus.duties.slow_leader import watch_for_slow_leader
from services.consensus.duties.state_comparison import StateComparison
from services.consensus.duties.storage_nodes import StorageNodes
from services.consensus.duties.upgrades import Upgrades
from services.consensus.fast_path import MemberFastPath
from services.consensus.member import Member
from services.consensus.metadata.database import RowDamagedError, UnknownTablesError
from services.consensus.metadata.store import MetadataStore
from services.consensus.metrics import DiskTimes, MemberMetrics, NodeMetrics
from services.consensus.peering.disk_identities import DiskIdentities
from services.consensus.peering.mesh import PeerMesh
from services.consensus.persistence.adapter import StateMachineAdapter
from services.consensus.persistence.backup_source import BackupSource
from services.consensus.persistence.compaction import LogLimits
from services.consensus.persistence.hard_state import FileHardState
from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.persistence.runner import ThreadRunner
from services.consensus.persistence.state_damage import StateScrub, is_damage, mark_damaged, unmark, was_marked
from services.consensus.persistence.state_files import StateFiles
from services.consensus.raft.ports import LogDamagedError, LogUnavailableError
from services.consensus.raft.seam import configure_raftos, verify_raftos
from services.consensus.service import ConsensusService
from services.consensus.settings import ConsensusSettings
from shared.background_tasks import BackgroundTasks
from shared.disk.data_folder import claim_data_dir
from shared.errors import NotReadyError
from shared.peer_calls.http_client import PeerClient
from shared.peer_calls.request_signing import RequestVerifier
from shared.private_process import make_process_private
from shared.settings import EXIT_CONFIGURATION, load_settings
from shared.telemetry import configure_logging
from shared.timekeeping.time_client import TimeClient
from shared.web.listeners import serve
from shared.web.operations import add_operations
from shared.web.request_metrics import observe_requests, request_metrics
from shared.web.service_app import ServiceApp, create_app

logger = structlog.get_logger(__name__)

EXIT_NOT_DURABLE: Final = 70
"""sysexits.h EX_SOFTWARE: durability cannot be promised; a restart may help, a retry may not."""

_HAND_OVER_S: Final = 1.0
_MEND: Final = "nothing was changed; mend the cause (permissions, a lock, the disk) and start it again"


class MemberProcess:
    """What a running member consists of, between start-up and shutdown."""

    def __init__(self, settings: ConsensusSettings) -> None:
        self._settings = settings
        self.member: Member | None = None
        self._service: ConsensusService | None = None
        self._nodes: StorageNodes | None = None
        self._members: Membership | None = None
        self._tasks: BackgroundTasks | None = None
        self._mesh: PeerMesh | None = None
        self._backups: BackupSource | None = None
        self._comparison: StateComparison | None = None

    @property
    def service(self) -> ConsensusService:
        """See `api.RunningMember`."""
        if self._service is None:
            raise NotReadyError("This member is starting or stopping.")
        return self._service

    @property
    def nodes(self) -> StorageNodes:
        """See `api.RunningMember`."""
        if self._nodes is None:
            raise NotReadyError("This member is starting or stopping.")
        return self._nodes

    @property
    def backups(self) -> BackupSource:
        """See `api.RunningMember`."""
        if self._backups is None:
            raise NotReadyError("This member is starting or stopping.")
        return self._backups

    @property
    def members(self) -> Membership:
        """See `api.RunningMember`."""
        if self._members is None:
            raise NotReadyError("This member is starting or stopping.")
        return self._members

    def degradations(self) -> list[str]:
        """What it does without."""
        return [] if self._tasks is None else self._tasks.degradations()

    def readiness(self) -> list[str]:
        """Why it cannot serve now: the first reason, which explains the others."""
        member, mesh, comparison = self.member, self._mesh, self._comparison
        if member is None or mesh is None or comparison is None:
            return ["starting"]
        reasons = (
            (
                mesh.is_disowned,
                "the other members know this id with another disk: remove it and start this member under a new id",
            ),
            (
                member.log.is_behind_base,
                "rebuilding: the state of this member is lost; it waits for a snapshot from the leader",
            ),
            (not member.configuration.members, "not initialised: no cluster has been made yet"),
            (
                member.stopped_applying is not None,
                f"this member cannot apply the log any more, upgrade it: {member.stopped_applying}",
            ),
            (member.leader is None, "no leader is known"),
            (
                comparison.is_outvoted,
                "the other members agree on another state: stop this member and rebuild it",
            ),
        )
        return [reason for is_met, reason in reasons if is_met][:1]

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG002 FastAPI passes it
        """Open everything, serve, hand over leadership, close everything."""
        settings = self._settings
        keys = settings.read_peer_keys()
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(PeerClient(keys))
            clock = await stack.enter_async_context(
                TimeClient(
                    settings.clock_urls, client, node_id=settings.node_id, hlc_path=settings.data_dir / "hlc_bound"
                )
            )
            times = DiskTimes()
            log_store, hard_state, disks = _open_disk(settings, times)
            mesh = PeerMesh(
                settings.node_id,
                settings.cluster_id,
                keys,
                disks,
                host=settings.host,
                port=settings.peer_port,
                handshake_limit=settings.peer_handshake_limit,
            )
            stack.push_async_callback(mesh.aclose)
            stack.callback(log_store.close)
            store, files = _open_state(settings)
            stack.callback(store.close)
            names = ("raft-log", "apply", "compaction", "read")
            log_runner, apply_runner, compaction_runner, reader = (ThreadRunner(name) for name in names)
            for runner in (log_runner, apply_runner, compaction_runner, reader):
                stack.callback(runner.close)
            open_member = partial(
                Member,
                settings.node_id,
                log_store=log_store,
                hard_state=hard_state,
                log_runner=log_runner,
                apply_runner=apply_runner,
                compaction_runner=compaction_runner,
                network=mesh,
                state_machine=StateMachineAdapter(
                    store,
                    files,
                    reserve_bytes=settings.disk_reserve_bytes,
                    observe_apply_s=times.apply_s.observe,
                ),
                on_fatal=partial(_end_process, settings.data_dir),
                limits=LogLimits(
                    checkpoint_entries=settings.checkpoint_entries, keep_entries=settings.log_keep_entries
                ),
            )
            member = _open(open_member)
            mesh.on_message = member.receive
            mesh.on_link_change = member.link_changed
            await mesh.start()
            clock.seed(store.highest_hlc())
            comparison = StateComparison(member, store, client)
            reports = NodeReports()
            service = ConsensusService(
                member,
                store,
                reader,
                clock,
                connected_peers=mesh.connected_peers,
                cluster_id=settings.cluster_id,
                deadline_s=settings.proposal_deadline_s,
                bucket_limit=settings.bucket_limit,
                differing_members=lambda: sorted(comparison.differing),
                fill_nodes=lambda term: reports.of_term(term).fill,
            )
            detector = FailureDetector(
                grace_s=settings.heartbeat_grace_s, heartbeat_interval_s=settings.heartbeat_interval_s
            )
            nodes = StorageNodes(service, detector, reports, clock, cluster_id=settings.cluster_id)
            tasks = await stack.enter_async_context(BackgroundTasks())
            self._tasks = tasks
            nodes.start(tasks)
            members = Membership(member, store, disks, deadline_s=settings.proposal_deadline_s)
            members.start(tasks)
            log_clock = LogClock(
                service,
                clock,
                Retentions(
                    cursor_s=settings.cursor_retention_s,
                    tombstone_s=settings.tombstone_retention_s,
                    reference_s=max(settings.gc_grace_s, settings.max_download_age_s),
                    condemned_s=settings.condemned_retention_s,
                    audit_s=settings.audit_retention_s,
                    audit_bytes=settings.audit_limit_bytes,
                ),
            )
            log_clock.start(tasks)
            for metrics in (
                MemberMetrics(member, mesh, store, comparison, log_clock=log_clock, times=times),
                NodeMetrics(member, store, reports, replica_count=settings.replica_count),
            ):
                stack.callback(metrics.close)
            Upgrades(service, clock, client).start(tasks)
            comparison.start(tasks)
            StateScrub(store, member.fatal).start(tasks)
            watch_disk(tasks, member, settings.data_dir, settings.disk_reserve_bytes)
            watch_for_slow_leader(tasks, member, mesh.round_trip_ms, settings.slow_leader_ms)
            member.start()
            self.member, self._service, self._nodes, self._members, self._mesh = member, service, nodes, members, mesh
            self._comparison, self._backups = comparison, BackupSource(store, settings.data_dir)
            logger.info("member started", last_log_index=member.log.last_log_index, applied=member.log.last_applied)
            yield
            await _hand_over(member)
            self.member = self._service = self._nodes = self._members = self._mesh = self._comparison = (
                self._backups
            ) = None
            member.stop()


def _open_disk(settings: ConsensusSettings, times: DiskTimes) -> tuple[SqliteLogStore, FileHardState, DiskIdentities]:
    folder = settings.data_dir
    try:
        has_id = DiskIdentities.exists(folder)
        log_store = SqliteLogStore(folder, must_exist=has_id, observe_write_s=times.log_write_s.observe)
        hard_state = FileHardState(folder, must_exist=has_id)
        return log_store, hard_state, DiskIdentities(folder)
    except LogDamagedError as error:
        _refuse(error)
    except LogUnavailableError as error:
        _refuse(error, _MEND)


def _open_state(settings: ConsensusSettings) -> tuple[MetadataStore, StateFiles]:
    """The state machine's tables. They are disposable: damaged ones are set aside, and the log or a snapshot makes them anew."""
    folder = settings.data_dir
    try:
        files = StateFiles(folder)
    except LogDamagedError as error:
        _refuse(error)
    if was_marked(folder):
        logger.error("the state machine is made anew", evidence=str(files.set_aside()))
        unmark(folder)
    try:
        return MetadataStore.open(files.current), files
    except (sqlite3.DatabaseError, RowDamagedError, UnknownTablesError) as error:
        if isinstance(error, UnknownTablesError) and error.is_newer:
            _refuse(error, "upgrade this member")
        if not is_damage(error):
            _refuse(error, _MEND)
        evidence = files.set_aside()
        logger.exception(
            "the state machine's file is damaged; it is made anew", reason=str(error), evidence=str(evidence)
        )
        return MetadataStore.open(files.current), files


def _open(open_member: Callable[[], Member]) -> Member:
    """The member over what is on disk; a member whose disk does not tell one story must not take part."""
    try:
        return open_member()
    except LogDamagedError as error:
        _refuse(error)
    except LogUnavailableError as error:
        _refuse(error, _MEND)


def _refuse(error: Exception, advice: str = "replace this member, do not repair its files") -> NoReturn:
    # Not SystemExit: raised during start-up, the server would report it as a defect of the application.
    sys.stderr.write(f"trivet: refusing to start: {error}; {advice}\n")
    sys.stderr.flush()
    os._exit(EXIT_CONFIGURATION)


async def _hand_over(member: Member) -> None:
    """Before a planned stop: let another member lead, so that nobody waits for an election timeout."""
    role = member.leader_role
    target = None if role is None else role.transfer()
    if target is None:
        return
    handed_over = asyncio.Event()
    member.on_role_change(handed_over.set)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_HAND_OVER_S):
            while member.leader_role is not None:
                handed_over.clear()
                await handed_over.wait()
    logger.info("leadership handed over", to=target, done=member.leader_role is None)


def _end_process(folder: Path, error: BaseException) -> None:
    """At once, without clean-up: nothing that follows a failed fsync or a damaged row may be acknowledged."""
    if is_damage(error):
        if mark_damaged(folder, error):
            logger.critical(
                "the state machine is damaged; ending this process, the next one makes it anew", exc_info=error
            )
        else:
            logger.critical(
                "tables that were made anew refuse the same entry: a defect of this version, not of the disk; ending "
                "this process, and so will the next one until it is upgraded",
                exc_info=error,
            )
    else:
        logger.critical("durability cannot be promised; ending this process", exc_info=error)
    os._exit(EXIT_NOT_DURABLE)


def build_app(settings: ConsensusSettings) -> ServiceApp:
    """The application of one member; it opens its files when it starts."""
    process = MemberProcess(settings)
    app = create_app(
        title="Trivet consensus",
        description="Orders all metadata in one replicated log. Internal: every call is signed.",
        lifespan=process.running,
        readiness=process.readiness,
        verifier=RequestVerifier(settings.read_peer_keys(), settings.node_id),
        callers=ROUTE_CALLERS.check,
        fast_path=partial(MemberFastPath, service=lambda: process.service, metrics=request_metrics()),
    )
    app.add_routes(create_router(process))
    add_operations(
        app,
        readiness=process.readiness,
        degradations=process.degradations,
        metrics_token=settings.read_metrics_token(),
    )
    return app


def main() -> None:
    """Entry point: `python -m services.consensus.main`."""
    make_process_private()
    settings = load_settings(ConsensusSettings)
    configure_logging(settings.node_id, settings.log_level, settings.log_file)
    observe_requests(settings, "consensus")
    verify_raftos()
    configure_raftos(
        heartbeat_interval_ms=settings.raft_heartbeat_interval_ms,
        election_timeout_min_ms=settings.election_timeout_min_ms,
        election_timeout_max_ms=settings.election_timeout_max_ms,
    )
    claim_data_dir(settings.data_dir, settings.cluster_id, settings.node_id)
    serve(build_app(settings), settings)


if __name__ == "__main__":
    main()
