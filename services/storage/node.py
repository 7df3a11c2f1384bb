"""One storage node put together: tier by mode, store, heartbeat; opened and closed in the right order."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from fastapi import FastAPI

from services.storage.body_buffers import make_body_buffers
from services.storage.chunk_store import ChunkStore
from services.storage.disk.free_space import FreeSpace
from services.storage.disk.tier import DiskTier
from services.storage.foreground import Foreground
from services.storage.heartbeat import HeartbeatSender
from services.storage.incarnation import Incarnation
from services.storage.metrics import StorageMetrics
from services.storage.peers import Peers
from services.storage.placement_view import PlacementView
from services.storage.reconcile.comparison import Comparison
from services.storage.reconcile.database import FILE_NAME, ReconcileDatabase
from services.storage.reconcile.expected_chunks import ExpectedChunks
from services.storage.reconcile.extra_chunks import ExtraChunks
from services.storage.reconcile.follower import Follower
from services.storage.reconcile.pace import Pace
from services.storage.reconcile.pulls import Puller
from services.storage.reconcile.reconciler import ReconcileParts, Reconciler
from services.storage.reconcile.references import References
from services.storage.reconcile.signals import Signals
from services.storage.reconcile.verify import Verifier
from services.storage.redis_node.link import RedisAddress, RedisLink
from services.storage.redis_node.tier import RedisTier
from services.storage.refetch import Refetcher, RefetchPace
from services.storage.scrub import Scrubber, ScrubPace
from services.storage.settings import StorageSettings
from services.storage.tiered.tier import TieredTier
from services.storage.verified_chunks import VerifiedChunks
from shared.background_tasks import BackgroundTasks
from shared.byte_budget import ByteBudget
from shared.consensus_calls.client import ConsensusClient
from shared.contracts.chunks import NodeStatus
from shared.contracts.cluster import HealthReport, Heartbeat
from shared.contracts.reconcile import ReconcileReport
from shared.errors import UnavailableError
from shared.peer_calls.http_client import PeerClient
from shared.timekeeping.time_client import TimeClient
from shared.units import MIB

_BUDGET_WAIT_S = 2.0


def redis_address(settings: StorageSettings) -> RedisAddress | None:
    """This node's Redis, or None in mode `disk`."""
    if settings.storage_mode == "disk" or settings.redis_url is None:
        return None
    return RedisAddress(
        url=settings.redis_url,
        password=settings.redis_secret(),
        owner=f"{settings.cluster_id}/{settings.node_id}",
        claim_path=settings.data_dir / "redis-claimed",
        limit_path=settings.data_dir / "redis-limit",
        username=settings.redis_username,
    )


class StorageService:
    """The parts of a node. `lifespan` opens them; before, only `readiness` may be called."""

    def __init__(self, settings: StorageSettings, metrics: StorageMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._buffers = make_body_buffers()
        self._space = FreeSpace(
            settings.data_dir, settings.capacity_bytes, settings.full_percent, settings.typical_chunk_bytes
        )
        self._link = self._make_link()
        self._tier, self._weight = self._make_tiers()
        self._incarnation = Incarnation(
            settings.data_dir,
            lambda: None if self._link is None else self._link.redis_id,
            is_redis_record=settings.storage_mode == "redis",
        )
        self._client = PeerClient(settings.read_peer_keys(), max_connections=16)
        self._time = TimeClient(
            list(settings.clock_urls),
            self._client,
            node_id=settings.node_id,
            hlc_path=settings.data_dir / "hlc",
        )
        self._heartbeat = HeartbeatSender(
            settings.node_id,
            list(settings.consensus_urls),
            self._client,
            self._describe_for_heartbeat,
            metrics,
            news=self._news,
            incarnation=self._incarnation,
            interval_s=settings.heartbeat_interval_s,
            retry_base_s=settings.heartbeat_retry_base_s,
        )
        budget = ByteBudget(settings.max_inflight_bytes, max_wait_s=_BUDGET_WAIT_S)
        self._consensus = ConsensusClient(list(settings.consensus_urls), self._client)
        self._view = PlacementView(settings.node_id, settings.replica_count)
        self._peers = Peers(self._view, self._client)
        self._refetcher = Refetcher(
            self._tier,
            self._peers,
            RefetchPace(
                settings.refetch_interval_s,
                settings.refetch_retry_base_s,
                settings.refetch_retry_cap_s,
                settings.refetch_max_bytes_per_s,
            ),
            budget,
            metrics,
            typical_chunk_bytes=settings.typical_chunk_bytes,
        )
        pace = ScrubPace(settings.scrub_period_s, settings.scrub_max_bytes_per_s, settings.scrub_start_delay_s)
        self._scrubber = Scrubber(self._weight, pace, metrics)
        self.store = ChunkStore(
            self._tier,
            budget,
            metrics,
            incarnation=self._incarnation,
            max_chunk_bytes=settings.max_chunk_bytes,
            typical_chunk_bytes=settings.typical_chunk_bytes,
            max_verify_bytes=settings.max_verify_bytes,
            holders=self._view,
            buffers=self._buffers,
        )
        self.foreground = Foreground()
        self._tasks: BackgroundTasks | None = None
        self.verifier, self._reconciler = self._make_reconcile(budget)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Open everything, serve, close in the opposite order."""
        await self._incarnation.start()
        async with (
            self._client,
            self._consensus,
            self._time,
            self._tier,
            aclosing(self._reconciler),
            BackgroundTasks() as tasks,
        ):
            self._tasks = tasks
            self._incarnation.keep_raising(tasks)
            self._heartbeat.start(tasks)
            self._scrubber.start(tasks)
            self._refetcher.start(tasks)
            self._reconciler.start(tasks)
            yield

    def degradations(self) -> list[str]:
        """What it does without."""
        return self.store.degradations() + ([] if self._tasks is None else self._tasks.degradations())

    def readiness(self) -> list[str]:
        """Why this node cannot do its work now; asked by /readyz once the lifespan has begun."""
        reasons = self.store.reasons_against_writes()
        if self._heartbeat.refusal is not None:
            reasons.append(f"consensus refuses this node: {self._heartbeat.refusal}")
        elif not self._heartbeat.was_accepted:
            reasons.append("no consensus leader has taken a heartbeat of this node yet")
        return reasons

    def rollout_readiness(self) -> list[str]:
        """`readiness`, and with `ready_when_in_sync` why the next node should not be taken away yet."""
        reasons = self.readiness()
        if self._settings.ready_when_in_sync and not reasons:
            reasons = reasons_out_of_sync(self._reconciler.report())
        return reasons

    async def describe(self) -> NodeStatus:
        """The node about itself."""
        tiers = await self.store.statuses()  # measures the file system, too
        self._metrics.capacity_bytes.set(_or_unknown(tiers[0].capacity_bytes))
        self._metrics.used_bytes.set(_or_unknown(tiers[0].used_bytes))
        return NodeStatus(
            node_id=self._settings.node_id,
            cluster_id=self._settings.cluster_id,
            mode=self._settings.storage_mode,
            is_accepting_writes=self.store.is_accepting_writes(),
            capacity_bytes=tiers[0].capacity_bytes,
            used_bytes=tiers[0].used_bytes,
            chunk_count=_total([tier.sole_chunk_count for tier in tiers]),
            tiers=tiers,
            scrub=self._scrubber.status(),
            refetch=self._refetcher.status(tiers[0].lost_chunk_count),
            reconcile=self._reconciler.report(),
        )

    async def _describe_for_heartbeat(self) -> Heartbeat:
        status = await self.describe()
        if status.capacity_bytes is None:
            # 0 would be believed: the node would lose its weight in placement, and its chunks would move.
            raise UnavailableError("Redis has not told its capacity yet.")
        return Heartbeat(
            cluster_id=status.cluster_id,
            run=self._incarnation.run(),
            url=self._settings.advertised_url,
            zone=self._settings.zone,
            capacity_bytes=status.capacity_bytes,
            used_bytes=status.used_bytes,
            chunk_count=status.chunk_count,
            is_full=self.store.is_full(),
            health=self._health(),
            reconcile=status.reconcile,
        )

    def _health(self) -> HealthReport:
        is_slow = isinstance(self._weight, DiskTier) and self._weight.is_slow()
        return HealthReport(is_failing=bool(self.store.reasons_against_writes()), is_slow=is_slow)

    def _news(self) -> object:
        """What consensus is told at once, and not with the next heartbeat."""
        report = self._reconciler.report()
        reconcile = None
        if report is not None:
            is_complete = report.missing_chunks == 0
            reconcile = (report.epoch, report.is_listing, is_complete, report.drained_index is not None)
        return self.store.is_full(), self._health(), reconcile

    def _make_reconcile(self, budget: ByteBudget) -> tuple[Verifier, Reconciler]:
        settings, metrics, tier, view = self._settings, self._metrics, self._tier, self._view
        database = ReconcileDatabase(settings.data_dir / FILE_NAME)
        expected = ExpectedChunks(database, settings.cluster_id)
        pace = Pace(settings.reconcile_max_bytes_per_s, self.foreground)
        references = References(self._consensus, self._time, settings.gc_grace_s)
        extra = ExtraChunks(
            tier, self._peers, view=view, references=references, expected=expected, pace=pace, metrics=metrics
        )
        signals = Signals()
        verifier = Verifier(tier, self._weight, expected=expected, budget=budget, pace=pace, signals=signals)
        parts = ReconcileParts(
            database=database,
            expected=expected,
            view=view,
            follower=Follower(tier, references, view=view, expected=expected, extra=extra, pace=pace, metrics=metrics),
            references=references,
            comparison=Comparison(tier, expected, pace),
            puller=Puller(
                tier,
                self._peers,
                view=view,
                log=references,
                expected=expected,
                budget=budget,
                pace=pace,
                metrics=metrics,
            ),
            extra=extra,
            verifier=verifier,
            signals=signals,
        )
        return verifier, Reconciler(parts, metrics, settings.reconcile_interval_s)

    def _make_link(self) -> RedisLink | None:
        """To this node's Redis; None in mode `disk`."""
        settings, address = self._settings, redis_address(self._settings)
        if address is None:
            return None
        is_record = settings.storage_mode == "redis"
        deadline_ms = settings.redis_record_deadline_ms if is_record else settings.redis_deadline_ms
        return RedisLink(address, deadline_s=deadline_ms / 1000, metrics=self._metrics)

    def _make_tiers(self) -> tuple[DiskTier | RedisTier | TieredTier, DiskTier | RedisTier]:
        """What answers for the node, and the tier of record, which the scrub reads."""
        settings, link = self._settings, self._link
        if link is not None and settings.storage_mode == "redis":
            redis = RedisTier(
                link,
                metrics=self._metrics,
                unlimited_bytes=settings.redis_limit_bytes,
                verified=self._make_verified(),
            )
            return redis, redis
        disk = self._make_disk()
        if link is None:
            return disk, disk
        tiered = TieredTier(
            disk,
            link,
            metrics=self._metrics,
            read_cache_bytes=max(MIB, settings.redis_limit_bytes - settings.write_behind_bytes),
            write_behind_bytes=settings.write_behind_bytes,
            flush_interval_s=settings.flush_interval_s,
        )
        return tiered, disk

    def _make_disk(self) -> DiskTier:
        return DiskTier(
            self._settings.data_dir,
            space=self._space,
            metrics=self._metrics,
            verified=self._make_verified(),
            small_limit_bytes=self._settings.small_chunk_bytes,
            slow_commit_s=self._settings.slow_commit_ms / 1000,
            max_warm_files=self._settings.max_warm_files,
            buffers=self._buffers,
        )

    def _make_verified(self) -> VerifiedChunks:
        return VerifiedChunks(self._settings.verified_max_age_s, self._settings.max_verified_chunks)


def reasons_out_of_sync(report: ReconcileReport | None) -> list[str]:
    """Why a node with that report does not hold yet, as far as it knows, everything that it should."""
    if report is None or report.missing_chunks is None:
        return ["what this node should hold was not compared yet with what it holds"]
    return [f"{report.missing_chunks} chunks are still to be fetched"] if report.missing_chunks else []


def _or_unknown(value: int | None) -> float:
    """For a metric, whose 0 would be believed."""
    return math.nan if value is None else value


def _total(counts: list[int | None]) -> int | None:
    """The sum; None when one is unknown."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
