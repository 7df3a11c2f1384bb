"""The loops of reconcile: follow the log and compare, fetch what is missing, drop what is extra, verify when asked.

They run side by side because they wait for different things: consensus, other nodes' bytes, other nodes' confirmations. What
one finds it puts on a list on disk (`expected_chunks`), where the other takes it from.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final

import structlog

from services.storage.metrics import StorageMetrics
from services.storage.placement_view import PlacementView
from services.storage.reconcile.comparison import Comparison, FoundDifferences
from services.storage.reconcile.database import DatabaseDamagedError, ReconcileDatabase
from services.storage.reconcile.expected_chunks import ExpectedChunks
from services.storage.reconcile.extra_chunks import ExtraChunks, ExtraOutcome
from services.storage.reconcile.follower import Follower
from services.storage.reconcile.pace import Complaints
from services.storage.reconcile.pulls import Puller
from services.storage.reconcile.references import References
from services.storage.reconcile.signals import Signals
from services.storage.reconcile.verify import DifferenceCount, Verifier
from shared.background_tasks import BackgroundTasks
from shared.backoff import Backoff
from shared.contracts.reconcile import ReconcileReport
from shared.errors import TrivetError

logger = structlog.get_logger(__name__)

_ROUNDS_PER_COMPARISON: Final = 12
_RETRY_BASE_S: Final = 1.0
_RETRY_CAP_S: Final = 60.0
_UNSETTLED_S: Final = 1.0
"""Between looks at the node map while it does not say that this node is here: after a start that is a matter of a heartbeat."""


@dataclass(frozen=True, slots=True)
class ReconcileParts:
    """What the loops work with."""

    database: ReconcileDatabase
    expected: ExpectedChunks
    view: PlacementView
    references: References
    follower: Follower
    comparison: Comparison
    puller: Puller
    extra: ExtraChunks
    verifier: Verifier
    signals: Signals


class Reconciler:
    """Runs the loops; `report` says how far they are."""

    def __init__(self, parts: ReconcileParts, metrics: StorageMetrics, interval_s: float) -> None:
        self._database = parts.database
        self._expected = parts.expected
        self._view = parts.view
        self._references = parts.references
        self._follower = parts.follower
        self._comparison = parts.comparison
        self._puller = parts.puller
        self._extra = parts.extra
        self._verifier = parts.verifier
        self._metrics = metrics
        self._interval_s = interval_s
        self._complaints = Complaints()
        self._signals = parts.signals
        self._pull_retry = Backoff(_RETRY_BASE_S, _RETRY_CAP_S, random.random)
        self._drop_retry = Backoff(interval_s, interval_s * _ROUNDS_PER_COMPARISON, random.random)
        self._is_loaded = False
        self._rounds = 0
        """Since everything was compared, in the circle of `_ROUNDS_PER_COMPARISON`."""
        self._has_compared = False
        self._has_walked = False
        self._compared_epoch: int | None = None
        self._filled = 0
        """How often the lists, which a listing empties, were filled anew."""
        self._counted = asyncio.Event()
        self._found: FoundDifferences | None = None
        """What a comparison of everything found for `verify`, until the walk behind it has counted the rest."""
        self._drained: tuple[int, int] | None = None
        """Epoch and log index at which this node held nothing that a file referred to."""

    def start(self, tasks: BackgroundTasks) -> None:
        """Run the loops among `tasks`; `aclose` comes after those."""
        tasks.every(
            "reconcile: follow", self._interval_s, self._follow_step, first_after_s=0, wake=self._signals.round_wanted
        )
        tasks.every("reconcile: pull", None, self._pull_step, wake=self._signals.has_missing)
        tasks.every("reconcile: drop", None, self._drop_step, wake=self._signals.has_extra)
        # Beside the rounds: nodes that do not answer must not keep this one from following the log.
        tasks.every("reconcile: count", None, self._count_step, wake=self._counted)
        self._verifier.run(tasks)

    async def aclose(self) -> None:
        """Close the file."""
        await self._database.close()

    def report(self) -> ReconcileReport | None:
        """How far this node is; None until everything was listed once, or while the node map is not known."""
        position = self._expected.position
        if position is None or self._view.epoch is None:
            return None
        is_listing, is_known = self._follower.is_listing, self._are_lists_whole
        total, missing = self._expected.total, self._expected.count("missing")
        is_checked = self._has_walked and is_known
        rate = self._puller.throughput.bytes_per_s
        return ReconcileReport(
            epoch=self._view.epoch,
            log_index=position.log_index,
            expected_chunks=None if is_listing else total.chunk_count,
            expected_bytes=None if is_listing else total.used_bytes,
            missing_chunks=missing.chunks if is_known else None,
            missing_bytes=missing.size_bytes if is_known else None,
            surplus_chunks=self._expected.count("surplus").chunks if is_checked else None,
            orphan_chunks=self._expected.count("orphans").chunks if is_checked else None,
            bytes_per_s=rate,
            eta_s=missing.size_bytes // rate if is_known and missing.chunks and rate else None,
            drained_index=self._drained_index(),
            is_listing=is_listing,
        )

    @property
    def _are_lists_whole(self) -> bool:
        """Between a listing and the comparison after it they are empty, and say nothing."""
        return self._has_compared and not self._follower.is_listing and not self._follower.has_listed

    def _publish(self) -> None:
        """Show the report as metrics; what is not known is NaN."""
        report = self.report()
        self._metrics.reconcile_index.set(math.nan if report is None else report.log_index)
        gauges = self._metrics.reconcile_chunks
        for kind in ("expected", "missing", "surplus", "orphan"):
            count = None if report is None else getattr(report, f"{kind}_chunks")
            gauges.labels(kind=kind).set(math.nan if count is None else count)

    def _drained_index(self) -> int | None:
        if self._drained is None or self._drained[0] != self._view.epoch or not self._view.is_draining:
            return None
        return self._drained[1]

    async def _follow_step(self) -> float:
        if not self._is_loaded and not await self._guarded("reconcile cannot begin yet", self._load()):
            return self._interval_s
        if await self._guarded("the log was not followed", self._follow_once(self._rounds)):
            self._rounds = (self._rounds + 1) % _ROUNDS_PER_COMPARISON
        self._publish()
        return self._interval_s if self._view.is_settled else min(_UNSETTLED_S, self._interval_s)

    async def _load(self) -> bool:
        try:
            await self._database.open()
            await self._expected.load()
            await self._verifier.load()
        except BaseException:
            await self._database.close()
            raise
        self._is_loaded = True
        return True

    async def _follow_once(self, rounds: int) -> bool:
        """One round; False when it decided nothing."""
        wants_count = self._verifier.wants_count and self._found is None
        if wants_count:
            self._follower.list_again()
        missing = await self._follower.follow()
        if missing is None:
            return False
        if self._follower.has_listed:
            self._comparison.forget()
        if wants_count:
            self._found = await self._compare()
            self._counted.set()
        elif self._follower.has_listed or not self._has_compared or rounds == 0:
            await self._compare()
        if missing:  # not before they are counted
            self._signals.has_missing.set()
        return True

    async def _compare(self) -> FoundDifferences:
        position = self._expected.position
        assert position is not None, "it was followed"
        epoch = self._view.epoch
        if self._follower.has_listed:
            self._has_walked = False
            self._filled += 1
        found = await self._comparison.run(position.log_index)
        self._has_compared, self._compared_epoch = True, epoch
        self._follower.has_listed = False
        if found.missing:
            logger.info("chunks are missing here", found=found.missing, missing=self._expected.count("missing").chunks)
            self._signals.has_missing.set()
        self._signals.has_extra.set()
        return found

    async def _count_step(self) -> None:
        try:
            await self._guarded("nothing was counted for verify", self._count_differences())
        finally:
            self._found = None
            self._signals.has_extra.set()

    async def _count_differences(self) -> bool:
        """Count everything that differs, for `verify`; False when a later round has to begin again."""
        found = self._found
        async with self._extra.walking:
            outcome = await self._walk(is_patient=True)
        if found is None or found is not self._found or not outcome.is_whole:
            return False
        position = self._expected.position
        assert position is not None, "it was followed"
        await self._verifier.record_count(
            DifferenceCount(
                epoch=self._view.epoch or 0,
                log_index=position.log_index,
                expected_chunks=self._expected.total.chunk_count,
                missing_chunks=found.missing,
                surplus_chunks=outcome.surplus,
                orphaned_chunks=outcome.orphans,
            )
        )
        return True

    async def _pull_step(self) -> float | None:
        if await self._guarded("chunks were not fetched", self._pull()):
            self._pull_retry.succeeded()
            return None
        return self._pull_retry.failed()

    async def _pull(self) -> bool:
        """One walk; False when something is left."""
        outcome = await self._puller.walk()
        if outcome.absent:
            checked = await self._references.check(outcome.absent)
            unreferenced = [digest for digest in outcome.absent if digest not in checked.referenced]
            await self._expected.forget_unreferenced(unreferenced, checked.context.log_index)
            if len(unreferenced) < len(outcome.absent):
                self._complaints.warn("no node holds a chunk that files refer to", "all", chunks=len(outcome.absent))
        return self._expected.count("missing").chunks == 0

    async def _drop_step(self) -> float | None:
        if put_off_s := self._extra.put_off_s():
            return put_off_s
        if await self._guarded("extra chunks were not dropped", self._drop()):
            self._drop_retry.succeeded()
            return None
        return self._interval_s + self._drop_retry.failed()

    async def _drop(self) -> bool:
        """One walk; False when surplus is left that may be dropped later."""
        async with self._extra.walking:
            if not self._view.is_settled or not self._are_lists_whole or self._found is not None:
                return True  # the comparison that follows begins anew, or the count walks
            outcome = await self._walk()
        if outcome.dropped:
            self._drop_retry.succeeded()
        return outcome.is_whole and (outcome.surplus_left == 0 or not self._view.has_spare_nodes)

    async def _walk(self, *, is_patient: bool = False) -> ExtraOutcome:
        epoch, position = self._compared_epoch, self._expected.position
        filled = self._filled
        outcome = await self._extra.walk(is_patient=is_patient)
        if outcome.is_outdated:
            self._signals.round_wanted.set()
        if filled != self._filled or not self._are_lists_whole:
            outcome.is_whole = False  # a listing may have emptied the lists meanwhile
        if not outcome.is_whole:
            return outcome  # it did not see all that is held
        self._has_walked = True
        if epoch is not None and position is not None and epoch == self._view.epoch and self._view.is_draining:
            index = position.log_index if outcome.checked_index is None else outcome.checked_index
            is_drained = outcome.surplus_left == 0 and index >= self._view.log_index
            self._drained = (epoch, index) if is_drained else None
        return outcome

    async def _guarded(self, trouble: str, work: Awaitable[bool]) -> bool:
        """The result of `work`; False when something that it needs failed. A defect is left to `BackgroundTasks.every`."""
        try:
            return await work
        except TrivetError as error:
            self._complaints.warn(trouble, error.code, error=error.message)
        except DatabaseDamagedError as error:
            logger.warning(trouble, error=str(error))
            await self._begin_anew()
        return False

    async def _begin_anew(self) -> None:
        with contextlib.suppress(TrivetError, DatabaseDamagedError):
            await self._database.remake()
            await self._expected.forget()
            self._has_compared = self._has_walked = False
            self._found = None
            self._verifier.begin_anew()
            self._signals.round_wanted.set()
