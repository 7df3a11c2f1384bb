"""Decides from intervals what time it is: when to believe, slew, step or refuse, and what state to publish (T-42).

The software clock runs on the monotonic clock. A round hands in one interval per source; the majority steers the clock,
and between rounds its bound grows by what the oscillator can do. Pure: the host's clocks are handed in as readings.
docs/time.md, "Discipline"; the step and panic rules are ntpd's, but forward only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from services.clock.intersection import Interval, majority_interval, majority_of
from shared.contracts.time import ClockState
from shared.timekeeping.followed_clock import MAX_BOUND_NS, MAX_JUMP_NS, Reading
from shared.timekeeping.frequency import UNKNOWN_DRIFT_PPB, FrequencyEstimator
from shared.timekeeping.software_clock import SoftwareClock
from shared.units import NANOSECONDS_PER_SECOND

MAX_SYNCED_BOUND_NS: Final = 100_000_000
MAX_SLEWED_NS: Final = 128_000_000
STEP_CONFIRMATIONS: Final = 5
RETURN_ROUNDS: Final = 3
FIRST_SYNC_WITHIN_NS: Final = 30 * NANOSECONDS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator decides.

    Attributes:
        min_sources: fewer usable sources than this are no majority of anything.
        holdover_after_ns: without a valid round for so long, the state is HOLDOVER.
        panic_ns: a majority that is further away than this is refused: somebody has to look.
    """

    min_sources: int
    holdover_after_ns: int
    panic_ns: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One source's interval for true time now. `is_fresh` says that a sample of this very round is in it."""

    source: str
    interval: Interval
    is_fresh: bool


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round came to.

    Attributes:
        reason: why it is not valid.
        offset_ns: true time minus ours, before steering.
        is_local: whether the host's own time daemon decided or narrowed the result.
        falsetickers: the sources outside the majority.
    """

    is_valid: bool
    reason: str = ""
    offset_ns: int = 0
    is_stepped: bool = False
    is_local: bool = False
    falsetickers: frozenset[str] = field(default_factory=frozenset)


class Discipline:
    """The clock of a clock service.

    Invariant: `read` never decreases within one `epoch` while it gives an interval, and true time is in the interval if
    more than half of every valid round's sources were honest and the oscillator stayed within its drift.
    """

    def __init__(self, rules: Rules, monotonic_ns: int, wall_ns: int) -> None:
        self._rules = rules
        self._started_ns = monotonic_ns
        self._wall_minus_monotonic_ns = wall_ns - monotonic_ns
        self._clock: SoftwareClock | None = None
        self._frequency = FrequencyEstimator()
        self._state = ClockState.INIT
        self._valid_round_ns: int | None = None
        self._good_rounds = 0
        self._step_confirmations = 0
        self._was_synced = False
        self._may_step_forward = False
        self.epoch = 0
        self.steps = 0
        self.jumps = 0
        self.refusals = 0
        self.reason = "no round has been made yet"

    @property
    def frequency_ppb(self) -> int:
        """The correction of the monotonic clock's rate that is in use."""
        return 0 if self._clock is None else self._clock.frequency_ppb

    @property
    def drift_ppb(self) -> int:
        """How wrong the rate can still be."""
        return UNKNOWN_DRIFT_PPB if self._clock is None else self._clock.drift_ppb

    def slew_left_ns(self, monotonic_ns: int) -> int:
        """Offset that is still being worked off, signed."""
        return 0 if self._clock is None else self._clock.slew_left_ns(monotonic_ns)

    def sync_age_ns(self, monotonic_ns: int) -> int | None:
        """Time since the last valid round; None before the first."""
        return None if self._valid_round_ns is None else monotonic_ns - self._valid_round_ns

    def estimate_ns(self, monotonic_ns: int, wall_ns: int) -> int:
        """The best guess at the time, in whatever state: the software clock once there is one."""
        return wall_ns if self._clock is None else self._clock.utc_ns(monotonic_ns)

    def read(self, monotonic_ns: int, wall_ns: int) -> Reading:
        """The time now, with the state it is published in."""
        self.notice_jump(monotonic_ns, wall_ns)
        self._age(monotonic_ns)
        if self._clock is None or self._state in (ClockState.INIT, ClockState.LOGICAL):
            return Reading(self._state, wall_ns, None)
        return Reading(self._state, self._clock.utc_ns(monotonic_ns), self._clock.error_bound_ns(monotonic_ns))

    def notice_jump(self, monotonic_ns: int, wall_ns: int) -> bool:
        """Compare the host's clocks; True when they moved apart since the last call, which ends all trust in samples."""
        difference_ns = wall_ns - monotonic_ns
        moved_ns = difference_ns - self._wall_minus_monotonic_ns
        self._wall_minus_monotonic_ns = difference_ns
        if abs(moved_ns) <= MAX_JUMP_NS:
            return False
        self.jumps += 1
        self._frequency = FrequencyEstimator()
        # If the machine slept, the monotonic clock missed it and ours is behind: then it may step, but forward only.
        self._may_step_forward = True
        self._enter(ClockState.LOGICAL, f"the host's clock jumped by {moved_ns / NANOSECONDS_PER_SECOND:+.3f} s")
        return True

    def round(
        self, monotonic_ns: int, wall_ns: int, candidates: list[Candidate], local: Interval | None = None
    ) -> RoundResult:
        """Steer by one round.

        Args:
            monotonic_ns, wall_ns: the host's clocks at the moment that all intervals are for.
            candidates: the usable sources, one interval each.
            local: what the host's own time daemon says. It narrows a majority that it agrees with, and stands in where
                there are too few sources for one; it never outvotes a majority.
        """
        self._age(monotonic_ns)
        if local is not None and len(candidates) < self._rules.min_sources:
            return self._steer(monotonic_ns, wall_ns, local, is_local=True)
        majority = self._find_majority(candidates)
        if isinstance(majority, str):
            return self._reject(majority)
        false = frozenset(each.source for each in candidates if not each.interval.overlaps(majority))
        is_refined = local is not None and local.overlaps(majority) and local.error_ns < majority.error_ns
        truth = majority.intersection(local) if is_refined and local is not None else majority
        return self._steer(monotonic_ns, wall_ns, truth, is_local=is_refined, falsetickers=false)

    def _steer(
        self,
        monotonic_ns: int,
        wall_ns: int,
        truth: Interval,
        *,
        is_local: bool,
        falsetickers: frozenset[str] = frozenset(),
    ) -> RoundResult:
        offset_ns = truth.middle_ns - self.estimate_ns(monotonic_ns, wall_ns)
        reference_ns = wall_ns if self._clock is None or self._may_step_forward else truth.middle_ns - offset_ns
        away_ns = truth.middle_ns - reference_ns
        if abs(away_ns) > self._rules.panic_ns:
            self.refusals += 1
            away_s = away_ns / NANOSECONDS_PER_SECOND
            reason = f"the sources are {away_s:+.0f} s away from this host, which is refused; set the host's clock"
            self._enter(ClockState.LOGICAL, reason)
            return self._reject(reason)
        self._frequency.add(monotonic_ns, truth.middle_ns, truth.error_ns)
        is_stepped = self._apply(monotonic_ns, truth, offset_ns)
        self._valid_round_ns = monotonic_ns
        self._judge_round(monotonic_ns)
        return RoundResult(
            is_valid=True, offset_ns=offset_ns, is_stepped=is_stepped, is_local=is_local, falsetickers=falsetickers
        )

    def _find_majority(self, candidates: list[Candidate]) -> Interval | str:
        if len(candidates) < self._rules.min_sources:
            return f"{len(candidates)} usable sources, {self._rules.min_sources} are needed"
        majority = majority_interval([each.interval for each in candidates])
        if majority is None:
            return f"no {majority_of(len(candidates))} of {len(candidates)} sources agree"
        if not any(each.is_fresh and each.interval.overlaps(majority) for each in candidates):
            return "no source of the majority answered in this round"
        return majority

    def _reject(self, reason: str) -> RoundResult:
        self._good_rounds = 0
        self.reason = reason
        return RoundResult(is_valid=False, reason=reason)

    def _apply(self, monotonic_ns: int, truth: Interval, offset_ns: int) -> bool:
        """Steer the software clock; True when it was stepped (its very first setting is not counted as a step)."""
        if self._clock is None or (not self._was_synced and abs(offset_ns) > MAX_SLEWED_NS):
            self._set(monotonic_ns, truth)
            return False
        self._step_confirmations = self._step_confirmations + 1 if offset_ns > MAX_SLEWED_NS else 0
        if self._step_confirmations >= (1 if self._may_step_forward else STEP_CONFIRMATIONS):
            self._set(monotonic_ns, truth)
            self.epoch += 1
            self.steps += 1
            return True
        # Also while a step waits for its confirmations: the bound then contains what is left, and stays honest.
        self._clock = self._clock.adjusted(
            monotonic_ns,
            offset_ns=offset_ns,
            error_ns=truth.error_ns,
            frequency_ppb=self._frequency.frequency_ppb,
            drift_ppb=self._frequency.drift_ppb,
        )
        return False

    def _set(self, monotonic_ns: int, truth: Interval) -> None:
        self._step_confirmations = 0
        self._clock = SoftwareClock(
            anchor_monotonic_ns=monotonic_ns,
            anchor_utc_ns=truth.middle_ns,
            frequency_ppb=self._frequency.frequency_ppb,
            slew_ns=0,
            error_ns=truth.error_ns,
            drift_ppb=self._frequency.drift_ppb,
        )

    def _judge_round(self, monotonic_ns: int) -> None:
        if self._clock is None or self._clock.error_bound_ns(monotonic_ns) > MAX_SYNCED_BOUND_NS:
            self._good_rounds = 0
            reason = f"the error bound is over {MAX_SYNCED_BOUND_NS // 1_000_000} ms"
            if self._state is ClockState.SYNCED:
                self._enter(ClockState.HOLDOVER, reason)
            self.reason = reason
            return
        self._good_rounds += 1
        if self._state is ClockState.SYNCED:
            self.reason = ""
        elif self._state is ClockState.INIT or self._good_rounds >= RETURN_ROUNDS:
            self._was_synced = True
            self._may_step_forward = False
            self._enter(ClockState.SYNCED, "")
        else:
            self.reason = f"{self._good_rounds} of {RETURN_ROUNDS} good rounds for the return to SYNCED"

    def _age(self, monotonic_ns: int) -> None:
        """The transitions that time alone makes."""
        if self._state is ClockState.INIT and monotonic_ns - self._started_ns > FIRST_SYNC_WITHIN_NS:
            self._enter(ClockState.LOGICAL, self.reason)
        sync_age_ns = self.sync_age_ns(monotonic_ns)
        if self._clock is None or sync_age_ns is None or self._state not in (ClockState.SYNCED, ClockState.HOLDOVER):
            return
        if self._clock.error_bound_ns(monotonic_ns) > MAX_BOUND_NS:
            self._enter(ClockState.LOGICAL, f"the error bound is over {MAX_BOUND_NS // 1_000_000} ms")
        elif self._state is ClockState.SYNCED and sync_age_ns > self._rules.holdover_after_ns:
            self._enter(ClockState.HOLDOVER, self.reason or "no valid round for too long")

    def _enter(self, state: ClockState, reason: str) -> None:
        was_verified = self._state in (ClockState.SYNCED, ClockState.HOLDOVER)
        is_verified = state in (ClockState.SYNCED, ClockState.HOLDOVER)
        if was_verified != is_verified:
            # What is published changes between the software clock and the host's own: utc is not continuous here.
            self.epoch += 1
        if state is not self._state:
            self._good_rounds = 0
        self._state = state
        self.reason = reason
