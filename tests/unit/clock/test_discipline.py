"""The discipline's rules at their edges, round by round."""

from __future__ import annotations

import pytest

from services.clock.discipline import Candidate, Discipline, Rules
from services.clock.intersection import Interval
from services.clock.ntp_answer import Sample
from services.clock.sample_filter import DELAY_TOLERANCE_NS, SampleFilter
from shared.contracts.time import ClockState

MS = 1_000_000
SECOND_NS = 1_000_000_000
WALL_NS = 1_795_000_000 * SECOND_NS
RULES = Rules(min_sources=3, holdover_after_ns=192 * SECOND_NS, panic_ns=1000 * SECOND_NS)


class Bench:
    """A discipline whose host clocks are right, and rounds with sources of a chosen offset."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.discipline = Discipline(RULES, 0, WALL_NS)

    def round(self, *offsets_ns: int, error_ns: int = MS, after_s: int = 64, fresh: bool = True, local=None):
        self.now_ns += after_s * SECOND_NS
        truth_ns = WALL_NS + self.now_ns
        candidates = [
            Candidate(f"s{index}", Interval.around(truth_ns + offset_ns, error_ns), fresh)
            for index, offset_ns in enumerate(offsets_ns)
        ]
        if local is not None:
            local = Interval.around(truth_ns + local[0], local[1])
        return self.discipline.round(self.now_ns, truth_ns, candidates, local)

    def read(self):
        return self.discipline.read(self.now_ns, WALL_NS + self.now_ns)

    def estimate_offset_ns(self) -> int:
        return self.discipline.estimate_ns(self.now_ns, WALL_NS + self.now_ns) - WALL_NS - self.now_ns


def synced() -> Bench:
    bench = Bench()
    bench.round(0, 0, 0, after_s=1)
    assert bench.read().state is ClockState.SYNCED
    return bench


def test_a_step_takes_five_confirmations_in_a_row() -> None:
    """Four rounds past 128 ms and one within it start the count again; the fifth in a row steps."""
    bench = synced()
    big = 500 * MS
    for _ in range(4):
        assert not bench.round(big, big, big).is_stepped
    offset = bench.estimate_offset_ns()
    assert not bench.round(offset, offset, offset).is_stepped
    outcomes = [bench.round(big, big, big).is_stepped for _ in range(5)]
    assert outcomes == [False, False, False, False, True]
    assert bench.discipline.steps == 1
    assert bench.estimate_offset_ns() == big


def test_a_step_begins_an_epoch_and_an_offset_backward_is_never_stepped() -> None:
    """Readers compare times within an epoch only; a clock that is ahead is slewed, however long that takes."""
    bench = synced()
    before = bench.discipline.epoch
    for _ in range(5):
        bench.round(150 * MS, 150 * MS, 150 * MS, after_s=2)
    assert (bench.discipline.steps, bench.discipline.epoch) == (1, before + 1)
    for _ in range(10):
        assert not bench.round(0, 0, 0, after_s=2).is_stepped
    assert bench.discipline.steps == 1


@pytest.mark.parametrize("sign", [-1, 1], ids=["behind", "ahead"])
def test_a_majority_beyond_the_panic_limit_is_refused_on_either_side(sign: int) -> None:
    """A thousand seconds away, somebody has to look; at the limit it is followed."""
    bench = synced()
    at_limit = sign * 1000 * SECOND_NS
    assert bench.round(at_limit, at_limit, at_limit).is_valid
    bench = synced()
    beyond = at_limit + sign * SECOND_NS
    assert not bench.round(beyond, beyond, beyond).is_valid
    assert bench.discipline.refusals == 1
    assert bench.read().state is ClockState.LOGICAL


def test_while_a_step_waits_the_interval_contains_both_times() -> None:
    """Between the first sign of an offset and the step, what is left to slew is in the bound, or time is LOGICAL."""
    bench = synced()
    big = 150 * MS
    bench.round(big, big, big)
    reading = bench.read()
    assert reading.error_ns is not None
    assert reading.physical_ns + reading.error_ns >= WALL_NS + bench.now_ns + big


def test_a_majority_needs_enough_usable_sources() -> None:
    """Two agreeing sources of two are too few for a minimum of three; three are enough."""
    bench = Bench()
    assert bench.round(0, 0, after_s=1).reason == "2 usable sources, 3 are needed"
    assert bench.read().state is ClockState.INIT
    assert bench.round(0, 0, 0, after_s=1).is_valid


def test_old_samples_alone_are_no_valid_round() -> None:
    """A majority none of which answered now does not keep the state SYNCED."""
    bench = synced()
    result = bench.round(0, 0, 0, fresh=False)
    assert (result.is_valid, result.reason) == (False, "no source of the majority answered in this round")


def test_a_bound_over_100_ms_is_not_synced_and_one_at_the_limit_is() -> None:
    """SYNCED promises at most 100 ms."""
    bench = Bench()
    bench.round(0, 0, 0, error_ns=100 * MS + 1, after_s=1)
    assert bench.read().state is ClockState.INIT
    bench.round(0, 0, 0, error_ns=100 * MS - 10, after_s=1)
    assert bench.read().state is ClockState.SYNCED
    bench.round(0, 0, 0, error_ns=110 * MS)
    assert bench.read().state is ClockState.HOLDOVER


def test_return_from_holdover_takes_three_good_rounds_in_a_row() -> None:
    """Two good rounds and a bad one start the count again."""
    bench = synced()
    bench.now_ns += 193 * SECOND_NS
    assert bench.read().state is ClockState.HOLDOVER
    states = []
    for offsets in ((0, 0, 0), (0, 0, 0), (), (0, 0, 0), (0, 0, 0), (0, 0, 0)):
        bench.round(*offsets, after_s=2)
        states.append(bench.read().state)
    assert states == [ClockState.HOLDOVER] * 5 + [ClockState.SYNCED]


def test_holdover_begins_after_three_polls_and_not_before() -> None:
    """192 s after the last valid round are still SYNCED, a nanosecond more is not."""
    bench = synced()
    bench.now_ns += 192 * SECOND_NS
    assert bench.read().state is ClockState.SYNCED
    bench.now_ns += 1
    assert bench.read().state is ClockState.HOLDOVER


def test_the_hosts_chrony_narrows_a_majority_that_it_agrees_with() -> None:
    """The published bound becomes chronyd's, which knows better."""
    bench = Bench()
    result = bench.round(0, 0, 0, error_ns=20 * MS, after_s=1, local=(3 * MS, MS))
    assert result.is_local
    reading = bench.read()
    assert reading.error_ns is not None
    assert reading.error_ns <= MS + 10
    assert bench.estimate_offset_ns() == 3 * MS


def test_the_hosts_chrony_stands_in_where_no_server_can_be_reached() -> None:
    """One trusted local source is enough when there are too few others for any majority."""
    bench = Bench()
    assert bench.round(after_s=1, local=(0, MS)).is_valid
    assert bench.read().state is ClockState.SYNCED


def test_the_hosts_chrony_never_outvotes_a_majority() -> None:
    """A chronyd that contradicts three servers is ignored, and one that is wider than they are adds nothing."""
    bench = Bench()
    assert not bench.round(0, 0, 0, after_s=1, local=(300 * MS, MS)).is_local
    assert bench.estimate_offset_ns() == 0
    assert not bench.round(0, 0, 0, after_s=1, local=(0, 2 * MS)).is_local


def test_every_way_in_and_out_of_verified_time_is_a_new_epoch() -> None:
    """Whoever follows the published time learns from the epoch that it may have jumped."""
    bench = Bench()
    epochs = [bench.discipline.epoch]
    bench.round(0, 0, 0, after_s=1)
    epochs.append(bench.discipline.epoch)
    bench.round(0, 0, 0)
    assert bench.discipline.epoch == epochs[-1]
    bench.discipline.read(bench.now_ns, WALL_NS + bench.now_ns + 200 * MS)
    epochs.append(bench.discipline.epoch)
    assert epochs == sorted(set(epochs))


def sample_at(monotonic_ns: int, *, delay_ns: int, error_ns: int = MS) -> Sample:
    return Sample(monotonic_ns, WALL_NS + monotonic_ns, error_ns, delay_ns, stratum=2, leap=0)


def test_a_delay_far_above_the_usual_is_left_out_until_it_is_the_usual() -> None:
    """Three times the least of the last eight is the limit; a route that stays longer is accepted in the end."""
    samples = SampleFilter()
    usual_ns = 4 * DELAY_TOLERANCE_NS
    assert samples.add(sample_at(0, delay_ns=usual_ns))
    assert samples.add(sample_at(1, delay_ns=3 * usual_ns))
    assert not samples.add(sample_at(2, delay_ns=3 * usual_ns + 1))
    accepted = [samples.add(sample_at(3 + step, delay_ns=4 * usual_ns)) for step in range(8)]
    assert not accepted[0]
    assert accepted[-1]


def test_small_delays_are_not_compared() -> None:
    """On a LAN a delay of microseconds is no measure for scheduling noise of milliseconds."""
    samples = SampleFilter()
    assert samples.add(sample_at(0, delay_ns=40_000))
    assert samples.add(sample_at(1, delay_ns=DELAY_TOLERANCE_NS))
    assert not samples.add(sample_at(2, delay_ns=DELAY_TOLERANCE_NS + 1))


def test_a_quick_old_sample_beats_a_slow_new_one_until_its_age_outweighs_it() -> None:
    """The bound decides: half the delay and the root distance, plus the drift times the age."""
    samples = SampleFilter()
    samples.add(sample_at(0, delay_ns=MS, error_ns=MS))
    samples.add(sample_at(64 * SECOND_NS, delay_ns=MS, error_ns=3 * MS))
    at_64 = samples.best(64 * SECOND_NS, frequency_ppb=0, drift_ppb=15_000, floor_ns=0)
    at_200 = samples.best(64 * SECOND_NS, frequency_ppb=0, drift_ppb=50_000, floor_ns=0)
    assert at_64 is not None
    assert at_200 is not None
    assert at_64.error_ns == MS + 64 * 15_000 + 1
    assert at_200.error_ns == 3 * MS + 1
