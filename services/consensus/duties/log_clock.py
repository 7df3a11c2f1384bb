"""The log clock: the leader logs how much time has passed, so that every member expires old state at the same entry (C-56).

Only what passed on this process' monotonic clock between two answers of one leadership is told: intervals of two leaders
cannot overlap, because an entry of the older one that commits was appended before the newer one was elected.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Final

import structlog

from services.consensus.metadata.entries import GARBAGE_VERSION, OBJECTS_VERSION, PACED_VERSION
from services.consensus.service import ConsensusService
from shared.background_tasks import BackgroundTasks
from shared.contracts.metadata import PassTime
from shared.contracts.time import TimeSource
from shared.errors import TrivetError

logger = structlog.get_logger(__name__)

CHECK_INTERVAL_S: Final = 1.0
TELL_INTERVAL_MAX_S: Final = 60.0
ROWS_AT_ONCE: Final = 64
"""That one entry forgets: 1.3 ms of CPU of each member on an idle machine, 3 to 5 on a busy one, for which a request waits."""
HURRIED_ROWS: Final = 250
"""The same of who hurries, or could not keep up otherwise: each entry has costs of its own."""
ROWS_PER_DELETION: Final = 6
"""What the deletion of a small file leaves to forget, rather more than less."""
PATIENT_ROWS_PER_S: Final = 1250
"""That are forgotten while few other entries come: some 250 small files."""
REST_FACTOR: Final = 2
REST_MAX_S: Final = 0.05
"""Between two entries, at least: twice as long as one took; but where commits are slow, a mass deletion must still end."""
PATIENCE_S: Final = 30.0
"""Who is behind for longer than this rests less and less; after twice as long, only for the work itself."""


class ElapsedTime:
    """What one leadership may tell the log: time since its last answer, each moment once."""

    def __init__(self) -> None:
        self._term = 0
        self._since_s = 0.0

    def elapsed_ms(self, term: int, now_s: float) -> int:
        """Since the last `answered` of this leadership; 0 at its beginning."""
        if term != self._term:
            self._term, self._since_s = term, now_s
        return int((now_s - self._since_s) * 1000)

    def answered(self, now_s: float) -> None:
        """What was told is in the log, or may be: it is not told again."""
        self._since_s = now_s


class ForgettingPace:
    """How much an entry forgets, and how long to rest after it. Every member applies it before what a request waits for.

    While files are deleted it keeps up with that: one follows when other entries came that leave about so much to forget. What
    is left when that has ended takes its time, and must come to an end, too.
    """

    def __init__(self) -> None:
        self._term = 0
        self._last: tuple[int, float] | None = None
        self._behind_since_s: float | None = None
        self._patience = 1.0
        self._is_pressed = False

    def begin(self, term: int) -> None:
        """To forget, in a leadership: another one knows nothing of how it was in between."""
        if term != self._term:
            self._term = term
            self.caught_up()

    def caught_up(self) -> None:
        """An entry left nothing."""
        self._last = self._behind_since_s = None
        self._patience = 1.0
        self._is_pressed = False

    @property
    def rows(self) -> int:
        """What the next entry forgets at most."""
        return HURRIED_ROWS if self._is_pressed or self._patience <= 0 else ROWS_AT_ONCE

    def rest_s(self, rows: int, log_index: int, began_s: float, now_s: float) -> float:
        """After the entry at `log_index`, which forgot so many rows, took from `began_s` until now and left more."""
        worked_s = now_s - began_s
        least_s = min(REST_MAX_S, REST_FACTOR * worked_s)
        if self._behind_since_s is None:
            self._behind_since_s = began_s
        self._patience = max(0.0, min(1.0, 2.0 - (now_s - self._behind_since_s) / PATIENCE_S))
        patient_s = self._patience * (rows / PATIENT_ROWS_PER_S - worked_s)
        self._is_pressed = False
        last, self._last = self._last, (log_index, now_s)
        # The entry itself is none that leaves something.
        if last is not None and (others := log_index - last[0] - 1) > 0:
            kept_up_s = rows * (now_s - last[1]) / (ROWS_PER_DELETION * others) - worked_s
            self._is_pressed = kept_up_s < least_s
            if not self._is_pressed and kept_up_s < patient_s:
                self._behind_since_s = now_s
            patient_s = min(patient_s, kept_up_s)
        return max(least_s, patient_s)


@dataclass(frozen=True, slots=True)
class Retentions:
    """For how long what is kept, and how much of the audit trail; see `PassTime`."""

    cursor_s: int
    tombstone_s: int
    reference_s: int
    condemned_s: int
    audit_s: int
    audit_bytes: int


class LogClock:
    """Proposes `PassTime` while this member leads.

    Attributes:
        forgotten_rows: that entries of this process' leaderships forgot.
        is_behind: the last of them left more to forget.
    """

    def __init__(self, service: ConsensusService, clock: TimeSource, retentions: Retentions) -> None:
        self._service = service
        self._clock = clock
        self._retentions = retentions
        # What is kept for a short time is also forgotten soon after.
        shortest_s = min(retentions.cursor_s, retentions.reference_s)
        self._interval_ms = int(min(TELL_INTERVAL_MAX_S, shortest_s / 4) * 1000)
        self._elapsed = ElapsedTime()
        self._pace = ForgettingPace()
        self.forgotten_rows = 0
        self.is_behind = False

    def start(self, tasks: BackgroundTasks) -> None:
        """Tell the log again and again."""
        tasks.every("log clock", min(CHECK_INTERVAL_S, self._interval_ms / 1000), self._step, on_ticks=True)

    async def _step(self) -> None:
        try:
            await self._pass_time()
        except TrivetError as error:
            logger.info("log clock put off", reason=error.message)

    async def _pass_time(self) -> None:
        role = self._service.member.leader_role
        if role is None:
            return
        elapsed_ms = self._elapsed.elapsed_ms(role.term, time.monotonic())
        if elapsed_ms < self._interval_ms:
            return
        self._pace.begin(role.term)
        began_s = time.monotonic()
        while (left := await self._forget(elapsed_ms)) and self._service.member.leader_role is role:
            await asyncio.sleep(self._pace.rest_s(*left, began_s, time.monotonic()))
            began_s = time.monotonic()
            passed_ms = self._elapsed.elapsed_ms(role.term, began_s)
            elapsed_ms = passed_ms if passed_ms >= max(self._interval_ms, CHECK_INTERVAL_S * 1000) else 0

    async def _forget(self, elapsed_ms: int) -> tuple[int, int] | None:
        """What an entry forgot that left more, and its index; None of one that did not."""
        retentions = self._retentions
        entry_version = self._service.store.summary().entry_version
        condemns, is_audited = entry_version >= GARBAGE_VERSION, entry_version >= OBJECTS_VERSION
        command = PassTime(
            elapsed_ms=elapsed_ms,
            cursor_retention_s=retentions.cursor_s,
            tombstone_retention_s=retentions.tombstone_s,
            reference_retention_s=retentions.reference_s if condemns else None,
            condemned_retention_s=retentions.condemned_s if condemns else None,
            audit_retention_s=retentions.audit_s if is_audited else None,
            audit_limit_bytes=retentions.audit_bytes if is_audited else None,
            forgotten_max=self._pace.rows if entry_version >= PACED_VERSION else None,
            stamp=self._clock.stamp(),
        )
        try:
            answer = await self._service.propose_one(secrets.token_hex(16), command, retain_s=0)
        finally:
            if elapsed_ms:
                self._elapsed.answered(time.monotonic())
        self.forgotten_rows += answer.result.forgotten
        self.is_behind = answer.result.has_more
        if not self.is_behind:
            self._pace.caught_up()
            return None
        return answer.result.forgotten, answer.log_index
