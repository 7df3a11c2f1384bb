"""The hybrid logical clock never goes back, follows time, and is not dragged along by a peer that is far ahead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.timekeeping.durable_hybrid_clock import BOUND_AHEAD_NS, DurableHybridClock
from shared.timekeeping.hybrid_logical_clock import (
    MAX_AHEAD_NS,
    MAX_CREDIBLE_NS,
    MAX_HLC,
    HybridLogicalClock,
    Reception,
    hlc_from_ns,
    ns_from_hlc,
)
from shared.units import NANOSECONDS_PER_SECOND

NOW_NS = 1_795_000_000 * NANOSECONDS_PER_SECOND
TICK_NS = NANOSECONDS_PER_SECOND // 65_536 + 1

moments = st.integers(min_value=0, max_value=4_000_000_000 * NANOSECONDS_PER_SECOND)
events = st.lists(
    st.one_of(
        st.tuples(st.just("now"), moments, st.just(0)),
        st.tuples(st.just("receive"), moments, st.integers(min_value=0, max_value=MAX_HLC)),
    ),
    max_size=50,
)


@given(moments)
def test_a_moment_survives_the_round_trip_within_one_tick(unix_ns: int) -> None:
    """Converting to a timestamp and back loses less than one tick, and never gains."""
    back_ns = ns_from_hlc(hlc_from_ns(unix_ns))
    assert 0 <= unix_ns - back_ns <= TICK_NS


@given(events)
def test_every_timestamp_is_greater_than_all_given_or_merged_before(steps: list[tuple[str, int, int]]) -> None:
    """Whatever physical time does and peers send, `now` exceeds everything before it and is not before physical time."""
    clock = HybridLogicalClock()
    greatest = -1
    for act, physical_ns, remote in steps:
        if act == "now":
            given_hlc = clock.now(physical_ns)
            assert given_hlc > greatest
            assert given_hlc >= hlc_from_ns(physical_ns)
            greatest = given_hlc
        elif clock.receive(remote, physical_ns, is_verified=True) is not Reception.REJECTED:
            greatest = max(greatest, remote)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 200_000_000)), max_size=60))
def test_what_happened_before_has_the_smaller_timestamp_and_the_lead_stays_below_the_skew(
    messages: list[tuple[int, int, int]],
) -> None:
    """Between nodes whose clocks differ by at most eps, a sent stamp is less than the one after receipt; l - pt <= eps."""
    skews_ns = [0, 50_000_000, 120_000_000, 200_000_000]
    eps_ns = max(skews_ns) - min(skews_ns)
    clocks = [HybridLogicalClock() for _ in skews_ns]
    true_ns = NOW_NS
    for sender, receiver, passed_ns in messages:
        true_ns += passed_ns
        sent = clocks[sender].now(true_ns + skews_ns[sender])
        physical_ns = true_ns + skews_ns[receiver]
        assert clocks[receiver].receive(sent, physical_ns, is_verified=True) is not Reception.REJECTED
        received = clocks[receiver].now(physical_ns)
        assert received > sent
        assert ns_from_hlc(received) - physical_ns <= eps_ns


def test_a_full_counter_carries_into_the_tick() -> None:
    """65,536 stamps within one tick do not wrap around: the next one belongs to the next tick."""
    clock = HybridLogicalClock()
    first = clock.now(NOW_NS)
    for _ in range(65_535):
        last = clock.now(NOW_NS)
    assert last >> 16 == first >> 16
    assert clock.now(NOW_NS) >> 16 == (first >> 16) + 1


def test_a_peer_just_within_the_limit_is_merged_and_one_past_it_is_not() -> None:
    """The limit of `MAX_AHEAD_NS` holds on both sides of its edge while our time is verified."""
    within = hlc_from_ns(NOW_NS + MAX_AHEAD_NS)
    past = hlc_from_ns(NOW_NS + MAX_AHEAD_NS + 2 * TICK_NS)
    clock = HybridLogicalClock()
    clock.now(NOW_NS)
    before = clock.last
    assert clock.receive(past, NOW_NS, is_verified=True) is Reception.REJECTED
    assert clock.last == before
    assert clock.receive(within, NOW_NS, is_verified=True) is Reception.MERGED_FAR
    assert clock.now(NOW_NS) == within + 1


def test_an_announced_restart_lead_is_not_held_against_a_peer() -> None:
    """A peer that restarted above its persisted bound says so, and is merged although it is seconds ahead."""
    clock = HybridLogicalClock()
    ahead = hlc_from_ns(NOW_NS + BOUND_AHEAD_NS)
    assert clock.receive(ahead, NOW_NS, is_verified=True) is Reception.REJECTED
    merged = clock.receive(ahead, NOW_NS, is_verified=True, announced_lead_ns=BOUND_AHEAD_NS)
    assert merged is Reception.MERGED_FAR


def test_an_announced_lead_longer_than_a_restart_explains_is_not_believed(tmp_path) -> None:
    """Nobody can announce its way past the limit by more than a restart's lead."""
    clock = DurableHybridClock(tmp_path / "hlc")
    clock.open(NOW_NS)
    hour_ns = 3600 * NANOSECONDS_PER_SECOND
    reception = clock.receive(hlc_from_ns(NOW_NS + hour_ns), NOW_NS, is_verified=True, announced_lead_ns=hour_ns)
    assert reception is Reception.REJECTED
    assert clock.rejected == 1


def test_while_time_is_unverified_a_peer_minutes_ahead_is_followed_and_a_century_is_not() -> None:
    """In a closed network nobody can be blamed for being ahead, but the 64 bits cannot be used up."""
    clock = HybridLogicalClock()
    minutes_ahead = hlc_from_ns(NOW_NS + 600 * NANOSECONDS_PER_SECOND)
    assert clock.receive(minutes_ahead, NOW_NS, is_verified=False) is Reception.MERGED
    assert clock.now(NOW_NS) == minutes_ahead + 1
    assert clock.receive(hlc_from_ns(NOW_NS + MAX_CREDIBLE_NS) + (1 << 20), NOW_NS, is_verified=False) is (
        Reception.REJECTED
    )


def test_a_crash_never_lets_timestamps_go_back(tmp_path) -> None:
    """After a crash at any moment, with the wall clock set back by an hour, the first stamp exceeds the last one before."""
    path = tmp_path / "hlc"
    physical_ns = NOW_NS
    last = 0
    for step in range(50):
        clock = DurableHybridClock(path)
        clock.open(physical_ns)
        for _ in range(step):
            given_hlc = clock.now(physical_ns)
            assert given_hlc > last
            last = given_hlc
            # Far faster than any renewal, so that the bound is met and must be renewed on the spot.
            physical_ns += BOUND_AHEAD_NS // 7
        physical_ns -= 3600 * NANOSECONDS_PER_SECOND


def test_a_peer_that_pulls_the_clock_past_its_bound_does_not_break_the_next_life(tmp_path) -> None:
    """A stamp above the durable bound is given only after a higher bound is durable."""
    clock = DurableHybridClock(tmp_path / "hlc")
    clock.open(NOW_NS)
    clock.receive(hlc_from_ns(NOW_NS + 600 * NANOSECONDS_PER_SECOND), NOW_NS, is_verified=False)
    last = clock.now(NOW_NS)
    assert clock.inline_renewals == 1
    restarted = DurableHybridClock(tmp_path / "hlc")
    restarted.open(NOW_NS)
    assert restarted.now(NOW_NS) > last


async def test_a_renewal_in_the_background_spares_the_stamps_the_disk(tmp_path) -> None:
    """When the bound is renewed in time, no stamp waits for an fsync."""
    clock = DurableHybridClock(tmp_path / "hlc")
    physical_ns = NOW_NS
    clock.open(physical_ns)
    for _ in range(10):
        clock.now(physical_ns)
        physical_ns += BOUND_AHEAD_NS // 3
        await clock.keep_bound_ahead(physical_ns)
        clock.now(physical_ns)
    assert clock.inline_renewals == 0


def test_a_clean_restart_has_no_lead_and_a_crash_has_at_most_the_bound(tmp_path) -> None:
    """Closing leaves the exact last timestamp; a crash leaves a lead that is announced and ends."""
    clock = DurableHybridClock(tmp_path / "hlc")
    clock.open(NOW_NS)
    last = clock.now(NOW_NS)
    crashed = DurableHybridClock(tmp_path / "hlc")
    crashed.open(NOW_NS)
    assert 0 < crashed.restart_lead_ns(NOW_NS) <= BOUND_AHEAD_NS
    assert crashed.restart_lead_ns(NOW_NS + BOUND_AHEAD_NS) == 0
    clock.close()
    restarted = DurableHybridClock(tmp_path / "hlc")
    restarted.open(NOW_NS)
    assert restarted.restart_lead_ns(NOW_NS) == 0
    assert restarted.now(NOW_NS) == last + 1


def test_a_damaged_bound_starts_ahead_of_the_clock(tmp_path) -> None:
    """A flipped bit in the bound is noticed, and the clock starts where an intact bound would at most have been."""
    path = tmp_path / "hlc"
    first = DurableHybridClock(path)
    first.open(NOW_NS)
    last = first.now(NOW_NS)
    path.write_text(path.read_text().replace("0", "1", 1))
    second = DurableHybridClock(path)
    second.open(NOW_NS)
    assert second.now(NOW_NS) > last


def test_a_bound_that_cannot_be_written_is_said_and_does_not_stop_stamps(tmp_path) -> None:
    """Time must not stop a store that does not depend on it; the failure is visible and ends with the next success."""
    folder = tmp_path / "gone"
    clock = DurableHybridClock(folder / "hlc")
    clock.open(NOW_NS)
    assert clock.failure is not None
    first = clock.now(NOW_NS)
    assert clock.now(NOW_NS) > first
    folder.mkdir()
    clock.now(NOW_NS + 2 * BOUND_AHEAD_NS)
    assert clock.failure is None
