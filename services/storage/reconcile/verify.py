"""A pass over everything, started by an operator: is all there that should be, and is every byte right?

First all references are listed anew and compared with what is held, which counts what is missing, surplus and orphaned. Then
every expected chunk is read from the medium. The position and the counts are on disk, so a restart goes on in the second part;
one in the first part begins again. What is found is repaired by the loops that repair it anyway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Protocol

import structlog
from pydantic import ValidationError

from services.storage.outcomes import outcomes_of
from services.storage.ports import Body
from services.storage.reconcile.database import DatabaseDamagedError
from services.storage.reconcile.expected_chunks import ExpectedChunks, MissingChunk, Sized
from services.storage.reconcile.pace import Pace
from services.storage.reconcile.signals import Signals
from shared.background_tasks import BackgroundTasks
from shared.byte_budget import ByteBudget
from shared.contracts.base import WireModel
from shared.contracts.reconcile import VerifyReport, VerifyState
from shared.errors import (
    ChunkCorruptError,
    ChunkNotFoundError,
    ConflictError,
    OverloadedError,
    TrivetError,
    UnavailableError,
)
from shared.partitions import PARTITION_COUNT, prefix_of

logger = structlog.get_logger(__name__)

_NOTE: Final = "verify"
_READ_AT_ONCE: Final = 4
_RETRY_S: Final = 1.0


class RereadTier(Protocol):
    """The tier of record; see `scrub.ScrubbedTier`."""

    async def reread(self, digest: str) -> Body:
        """See `scrub.ScrubbedTier`."""


class ReadTier(Protocol):
    """The part of `ports.Tier` that is used here."""

    async def get(self, digest: str) -> Body:
        """See `ports.Tier`."""


class DifferenceCount(WireModel):
    """What the comparison counted."""

    epoch: int
    log_index: int
    expected_chunks: int
    missing_chunks: int
    surplus_chunks: int
    orphaned_chunks: int


class _Note(WireModel):
    """What is kept on disk. `partition`: the next one to be read; None before the differences are counted."""

    report: VerifyReport
    partition: int | None = None


class Verifier:
    """At most one pass at a time. `wants_count` asks the loop for the first part."""

    def __init__(
        self,
        tier: ReadTier,
        record: RereadTier,
        *,
        expected: ExpectedChunks,
        budget: ByteBudget,
        pace: Pace,
        signals: Signals,
    ) -> None:
        self._tier = tier
        self._record = record
        self._expected = expected
        self._budget = budget
        self._pace = pace
        self._note = _Note(report=VerifyReport(state=VerifyState.NEVER))
        self._wanted = asyncio.Event()
        self._began_s: float | None = None
        self._began_bytes = 0
        self._bad: dict[bytes, int] = {}
        """Found in the part that is read now, with sizes: a bad replica is quarantined, so reading it again finds none."""
        self._signals = signals

    @property
    def wants_count(self) -> bool:
        """Whether the first part of a pass is to be done."""
        return self._is_running and self._note.partition is None

    async def load(self) -> None:
        """Go on with what an earlier run of the node left."""
        try:
            kept = await self._expected.get_note(_NOTE)
            if kept is not None:
                self._note = _Note.model_validate_json(kept)
        except ValidationError:
            logger.warning("what was kept of the last verify is of another version, and forgotten")
        if self._is_running:
            self._wanted.set()

    async def start(self) -> VerifyReport:
        """Begin a pass. Raises ConflictError while one is under way, UnavailableError when it cannot be written down."""
        if self._is_running:
            raise ConflictError("A verify pass is under way already; ask for its progress, or end it first.")
        before, self._note = self._note, _Note(report=VerifyReport(state=VerifyState.RUNNING))
        self._began_s, self._bad = None, {}
        await self._keep_or_undo(before)
        self._signals.round_wanted.set()
        return self.report()

    async def cancel(self) -> VerifyReport:
        """End the pass that is under way, if one is. Raises UnavailableError."""
        if self._is_running:
            before = self._note
            self._change(state=VerifyState.CANCELLED)
            await self._keep_or_undo(before)
        return self.report()

    def begin_anew(self) -> None:
        """The set of expected chunks is lost, and with it what a pass under way has found: it begins again."""
        if self._is_running:
            self._note = _Note(report=VerifyReport(state=VerifyState.RUNNING))
            self._began_s, self._bad = None, {}

    def report(self) -> VerifyReport:
        """How far it is."""
        report = self._note.report
        total = self._expected.total
        if report.state == VerifyState.FINISHED:
            return report.model_copy(update={"progress": 1.0})
        progress = (self._note.partition or 0) / PARTITION_COUNT
        left_bytes = max(0, total.used_bytes - report.checked_bytes)
        return report.model_copy(update={"progress": progress, "eta_s": self._eta_s(left_bytes)})

    async def record_count(self, count: DifferenceCount) -> None:
        """The first part is done."""
        if self.wants_count:
            self._change(**count.model_dump())
            self._note = self._note.model_copy(update={"partition": 0})
            # Before it is written down: when that fails, the pass goes on all the same.
            self._wanted.set()
            await self._keep()

    def run(self, tasks: BackgroundTasks) -> None:
        """Take the second part of passes among `tasks`."""
        tasks.every("verify", None, self._step, wake=self._wanted)

    async def _step(self) -> float | None:
        while self._is_running and self._note.partition is not None:
            try:
                await self._read_partition(self._note.partition)
            except (TrivetError, DatabaseDamagedError) as error:
                logger.warning("verify interrupted", error=str(error))
                return _RETRY_S
        return None

    @property
    def _is_running(self) -> bool:
        return self._note.report.state == VerifyState.RUNNING

    def _change(self, **fields: object) -> None:
        self._note = self._note.model_copy(update={"report": self._note.report.model_copy(update=fields)})

    async def _keep_or_undo(self, before: _Note) -> None:
        """Write the note down; what cannot be is as it was `before`. Raises UnavailableError."""
        try:
            await self._keep()
        except DatabaseDamagedError as error:
            self._note = before
            raise UnavailableError("What reconcile knows is damaged and is made anew; try again.") from error
        except TrivetError:
            self._note = before
            raise

    async def _keep(self) -> None:
        await self._expected.set_note(_NOTE, self._note.model_dump_json())

    def _eta_s(self, left_bytes: int) -> int | None:
        if not self._is_running or self._began_s is None:
            return None
        read_bytes = self._note.report.checked_bytes - self._began_bytes
        return int(left_bytes * (time.monotonic() - self._began_s) / read_bytes) if read_bytes else None

    async def _read_partition(self, partition: int) -> None:
        """Read the expected chunks of one partition; then it is done, also for a later run."""
        if self._began_s is None:
            self._began_s, self._began_bytes = time.monotonic(), self._note.report.checked_bytes
        before = self._note
        chunks = await self._expected.list_prefix(prefix_of(partition))
        for start in range(0, len(chunks), _READ_AT_ONCE):
            part = chunks[start : start + _READ_AT_ONCE]
            began_s = time.monotonic()
            await self._read(part)
            await self._pace.rest(sum(size_bytes for _, size_bytes in part), began_s)
        if self._note is not before:
            return  # cancelled, or cancelled and begun anew
        bad, self._bad = list(self._bad.items()), {}
        report = before.report
        self._change(
            checked_chunks=report.checked_chunks + len(chunks),
            checked_bytes=report.checked_bytes + sum(size_bytes for _, size_bytes in chunks),
            bad_chunks=report.bad_chunks + len(bad),
        )
        if partition + 1 == PARTITION_COUNT:
            self._change(state=VerifyState.FINISHED)
            logger.info("verify finished", **self._note.report.model_dump(exclude={"state"}))
        self._note = self._note.model_copy(update={"partition": partition + 1})
        # When that fails, nothing is counted again, and the next comparison finds what was quarantined.
        await self._fetch_again(bad)
        if chunks or not self._is_running:
            await self._keep()

    async def _read(self, chunks: Sequence[Sized]) -> None:
        """Put those that are bad into `_bad`. Raises what reading one of them raised."""
        outcomes = await outcomes_of([self._is_good(digest.hex(), size_bytes) for digest, size_bytes in chunks])
        self._bad.update(chunk for chunk, outcome in zip(chunks, outcomes, strict=True) if outcome is False)
        for outcome in outcomes:
            if isinstance(outcome, TrivetError):
                raise outcome

    async def _is_good(self, digest: str, size_bytes: int) -> bool:
        while True:
            try:
                with await self._budget.acquire(size_bytes):
                    await self._reread(digest)
            except OverloadedError:
                await asyncio.sleep(_RETRY_S)
            except ChunkNotFoundError:
                return True  # it was counted as missing, or it came or went since
            except ChunkCorruptError:
                return False
            else:
                return True

    async def _reread(self, digest: str) -> None:
        try:
            await self._record.reread(digest)
        except ChunkNotFoundError:
            await self._tier.get(digest)  # acknowledged, and not in the tier of record yet

    async def _fetch_again(self, bad: Sequence[Sized]) -> None:
        position = self._expected.position
        if bad and position is not None:
            missing = [MissingChunk(digest, size_bytes, position.log_index) for digest, size_bytes in bad]
            await self._expected.apply(missing=missing)
            self._signals.has_missing.set()
