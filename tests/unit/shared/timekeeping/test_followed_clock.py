"""A process' copy of the time: what it believes, what it claims in between, and what it does without any service."""

from __future__ import annotations

import random

import pytest

from shared.contracts.time import ClockState, Leap, SourceCounts, TimeReport
from shared.timekeeping.followed_clock import (
    FIRST_REPORT_WITHIN_NS,
    MAX_BOUND_NS,
    MAX_JUMP_NS,
    STALE_AFTER_NS,
    Exchange,
    FollowedClock,
    Reading,
)

SECOND_NS = 1_000_000_000
MS = 1_000_000
TRUE_NS = 1_795_000_000 * SECOND_NS


def report(utc_ns: int, error_ns: int | None, state: ClockState = ClockState.SYNCED, epoch: int = 1) -> TimeReport:
    return TimeReport(
        earliest_ns=None if error_ns is None else utc_ns - error_ns,
        latest_ns=None if error_ns is None else utc_ns + error_ns,
        utc_ns=utc_ns,
        error_ns=error_ns,
        state=state,
        hlc=0,
        hlc_lead_ns=0,
        leap=Leap.NONE,
        epoch=epoch,
        sources=SourceCounts(ok=3, false=0, unreachable=0),
    )


class Node:
    """A host (oscillator `rate_ppb` too fast, wall clock off by `wall_offset_ns`) that follows reports."""

    def __init__(self, *, rate_ppb: int = 0, wall_offset_ns: int = 0) -> None:
        self.true_ns = TRUE_NS
        self.monotonic_ns = 5 * SECOND_NS
        self.rate_ppb = rate_ppb
        self.wall_offset_ns = wall_offset_ns + TRUE_NS - self.monotonic_ns
        self.clock = FollowedClock(self.monotonic_ns, self.wall_ns)

    @property
    def wall_ns(self) -> int:
        return self.monotonic_ns + self.wall_offset_ns

    def advance(self, true_ns: int) -> None:
        self.true_ns += true_ns
        self.monotonic_ns += true_ns * (SECOND_NS + self.rate_ppb) // SECOND_NS

    def follow(
        self, *, error_ns: int | None = MS, there_ns: int = 0, back_ns: int = 0, lie_ns: int = 0, **kind
    ) -> None:
        """One report with a service that tells the truth within its error, plus `lie_ns`."""
        sent_ns = self.monotonic_ns
        self.advance(there_ns)
        answer = report(self.true_ns + lie_ns, error_ns, **kind)
        self.advance(back_ns)
        self.clock.follow(Exchange(answer, sent_ns, self.monotonic_ns, self.wall_ns))

    def read(self) -> Reading:
        return self.clock.read(self.monotonic_ns, self.wall_ns)


def test_before_the_first_report_time_is_init_then_logical_and_follows_the_host() -> None:
    """Nobody waits: the host's clock is used and called unverified."""
    node = Node(wall_offset_ns=-77 * SECOND_NS)
    node.advance(FIRST_REPORT_WITHIN_NS)
    assert node.read() == Reading(ClockState.INIT, node.wall_ns, None)
    node.advance(1)
    assert node.read() == Reading(ClockState.LOGICAL, node.wall_ns, None)


def test_a_service_that_is_logical_makes_a_new_copy_logical_at_once() -> None:
    """In a closed network nothing is gained by waiting."""
    node = Node()
    node.follow(error_ns=None, state=ClockState.LOGICAL)
    assert node.read().state is ClockState.LOGICAL


@pytest.mark.parametrize("seed", range(30))
def test_true_time_is_always_in_the_interval(seed: int) -> None:
    """Random rates, round trips of any asymmetry, lost polls, slews and worse reports: the truth stays inside."""
    chance = random.Random(seed)
    node = Node(rate_ppb=chance.randint(-200_000, 200_000), wall_offset_ns=chance.randint(-300, 300) * SECOND_NS)
    service_error_ns = chance.randint(1, 30) * MS
    service_offset_ns = chance.randint(-service_error_ns, service_error_ns)
    last_ns = 0
    for _ in range(1500):
        node.advance(round(chance.uniform(0.1, 3) * SECOND_NS))
        if chance.random() < 0.8:
            moved_ns = service_offset_ns + chance.randint(-MS, MS)
            service_offset_ns = max(-service_error_ns, min(service_error_ns, moved_ns))
            node.follow(
                error_ns=service_error_ns,
                there_ns=chance.randint(0, 30 * MS),
                back_ns=chance.randint(0, 30 * MS),
                lie_ns=service_offset_ns,
            )
        reading = node.read()
        if reading.error_ns is not None:
            assert abs(reading.physical_ns - node.true_ns) <= reading.error_ns, f"seed {seed}"
            assert reading.physical_ns >= last_ns, f"seed {seed}"
            last_ns = reading.physical_ns
    assert node.clock.epoch == 1


def test_a_slow_round_trip_does_not_widen_what_is_known() -> None:
    """A report that agrees and is worse is left alone."""
    node = Node()
    node.follow(error_ns=MS)
    node.advance(2 * SECOND_NS)
    node.follow(error_ns=MS, there_ns=400 * MS, back_ns=400 * MS)
    assert node.read().error_ns < 4 * MS


def test_without_reports_it_is_holdover_and_then_logical() -> None:
    """Stale after 30 s; the bound grows until it passes its limit, and then the host's clock is all there is."""
    node = Node()
    node.follow(error_ns=MS)
    node.advance(STALE_AFTER_NS)
    assert node.read().state is ClockState.SYNCED
    node.advance(1)
    assert node.read().state is ClockState.HOLDOVER
    node.advance((MAX_BOUND_NS - MS) * 2000 - STALE_AFTER_NS - 10_000)
    assert node.read().state is ClockState.HOLDOVER
    node.advance(20_000)
    assert node.read() == Reading(ClockState.LOGICAL, node.wall_ns, None)


def test_a_learnt_rate_keeps_the_interval_far_longer() -> None:
    """After half an hour of reports the bound grows ten times more slowly than an unknown oscillator's."""
    node = Node(rate_ppb=80_000)
    for _ in range(900):
        node.follow(error_ns=2 * MS, there_ns=MS, back_ns=MS)
        node.advance(2 * SECOND_NS)
    assert node.clock.frequency_ppb == pytest.approx(-80_000, abs=5_000)
    node.advance(1200 * SECOND_NS)
    reading = node.read()
    assert reading.state is ClockState.HOLDOVER
    assert abs(reading.physical_ns - node.true_ns) <= reading.error_ns <= 70 * MS


def test_a_report_without_an_interval_does_not_cost_the_copy() -> None:
    """A clock service that has just restarted knows less than we do."""
    node = Node()
    node.follow(error_ns=MS)
    node.follow(error_ns=None, state=ClockState.INIT, epoch=0)
    node.follow(error_ns=None, state=ClockState.LOGICAL, epoch=0)
    assert node.read().state is ClockState.SYNCED


def test_the_services_holdover_is_passed_on() -> None:
    """What the service calls HOLDOVER is not SYNCED here."""
    node = Node()
    node.follow(state=ClockState.HOLDOVER)
    assert node.read().state is ClockState.HOLDOVER


@pytest.mark.parametrize("jump_ns", [MAX_JUMP_NS + 1, -MAX_JUMP_NS - 1])
def test_a_jump_of_the_hosts_clock_is_logical_until_the_next_report(jump_ns: int) -> None:
    """The machine may have slept: no interval is claimed until a service was heard again. A smaller jump is nothing."""
    node = Node()
    node.follow()
    node.wall_offset_ns += MAX_JUMP_NS
    assert node.read().state is ClockState.SYNCED
    node.wall_offset_ns += jump_ns
    assert node.read().state is ClockState.LOGICAL
    assert node.clock.jumps == 1
    node.follow()
    assert node.read().state is ClockState.SYNCED


def test_a_small_disagreement_is_slewed_and_a_large_one_taken_over() -> None:
    """Within 128 ms the copy is steered without a jump; beyond it a new epoch begins."""
    node = Node()
    node.follow(error_ns=MS)
    node.follow(error_ns=MS, lie_ns=100 * MS)
    assert node.clock.epoch == 1
    assert node.clock.slew_left_ns(node.monotonic_ns) == 100 * MS
    assert node.read().physical_ns == node.true_ns
    node.follow(error_ns=MS, lie_ns=200 * MS)
    assert node.clock.epoch == 2
    assert node.read().physical_ns == node.true_ns + 200 * MS


def test_two_copies_of_one_service_agree_within_a_millisecond() -> None:
    """On one machine, while the service slews and round trips vary, two copies stay within 1 ms of each other."""
    chance = random.Random(7)
    nodes = [Node(rate_ppb=0), Node(rate_ppb=0)]
    offset_ns = 0
    for step in range(600):
        offset_ns += 500_000 if step < 20 else 0
        for node in nodes:
            node.advance(TRUE_NS + (step + 1) * SECOND_NS - node.true_ns)
            if (step + nodes.index(node)) % 2:
                there_ns, back_ns = chance.randint(200_000, MS), chance.randint(200_000, MS)
                node.follow(error_ns=12 * MS, there_ns=there_ns, back_ns=back_ns, lie_ns=offset_ns)
        first, second = (node.read().physical_ns - node.true_ns for node in nodes)
        assert abs(first - second) <= MS, step
