"""Requests and bytes per second of a principal, with a clock that the test moves."""

from __future__ import annotations

import pytest

from services.gateway.access import rate_limits
from services.gateway.access.principal import ITSELF, NOBODY, Principal
from services.gateway.access.rate_limits import BACKLOG_MAX_S, BURST_S, PIECE_BYTES, BodyPace, RateLimits, network_of
from shared.contracts.access import IdentityLimits
from shared.errors import TooManyRequestsError
from shared.units import KIB, MIB

ADDRESS = "192.0.2.1"


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def of(name: str, **limits: int) -> Principal:
    return Principal(name * 64, name, limits=IdentityLimits(**limits))


def admitted(rates: RateLimits, principal: Principal, address: str = ADDRESS, *, tries: int = 100) -> int:
    """How many of so many requests at one moment pass."""
    passed = 0
    for _ in range(tries):
        try:
            rates.admit(principal, address)
        except TooManyRequestsError:
            continue
        passed += 1
    return passed


# --- requests -------------------------------------------------------------------------------------------------------


def test_whoever_has_no_limits_is_never_refused_nor_remembered(clock) -> None:
    """Nor is Trivet itself, which has no limits by any means."""
    rates = RateLimits(IdentityLimits(requests_per_s=1), clock)
    assert admitted(rates, of("a")) == 100
    assert admitted(rates, ITSELF) == 100
    assert rates.statistics()["accounts"] == 0


def test_as_many_requests_pass_as_a_second_has_and_then_one_by_one(clock) -> None:
    """At the limit and one past it, at once and later; what is not used is kept for a second at most."""
    rates, anna = RateLimits(IdentityLimits(), clock), of("a", requests_per_s=4)
    assert admitted(rates, anna) == 4
    clock.now_s += 0.249
    assert admitted(rates, anna) == 0
    clock.now_s += 0.002
    assert admitted(rates, anna) == 1
    clock.now_s += 3600
    assert admitted(rates, anna) == 4


def test_over_a_long_time_exactly_the_limit_passes(clock) -> None:
    """And what the first second had: refused requests cost nothing."""
    rates, anna = RateLimits(IdentityLimits(), clock), of("a", requests_per_s=8)
    passed = 0
    for _ in range(100 * 64):
        passed += admitted(rates, anna, tries=2)
        clock.now_s += 1 / 64
    assert passed == 8 * 100 + 8 - 1


def test_a_refusal_says_when_to_come_again_and_then_it_heals(clock) -> None:
    """In whole seconds, none of them too early."""
    rates, anna = RateLimits(IdentityLimits(), clock), of("a", requests_per_s=1)
    rates.admit(anna, ADDRESS)
    clock.now_s += 0.5
    with pytest.raises(TooManyRequestsError) as refusal:
        rates.admit(anna, ADDRESS)
    problem = refusal.value.to_problem()
    assert (problem["status"], problem["code"], problem["definite"]) == (429, "too_many_requests", True)
    assert (problem["unit"], problem["limit"], problem["retry_after_s"]) == ("requests", 1, 1)
    clock.now_s += problem["retry_after_s"]
    rates.admit(anna, ADDRESS)
    assert rates.statistics()["refused"] == 1


def test_one_principal_takes_nothing_from_another(clock) -> None:
    """Nor do two keys of one identity have two limits."""
    rates, anna, bert = RateLimits(IdentityLimits(), clock), of("a", requests_per_s=2), of("b", requests_per_s=2)
    assert admitted(rates, anna) == 2
    assert admitted(rates, bert) == 2
    other_key = Principal(anna.id, "a", limits=anna.limits, key="TV" + "2" * 18)
    assert admitted(rates, other_key, "192.0.2.99") == 0


def test_a_limit_that_is_raised_or_lowered_counts_at_once(clock) -> None:
    """As soon as the gateway knows the identity's new limits."""
    rates = RateLimits(IdentityLimits(), clock)
    assert admitted(rates, of("a", requests_per_s=4)) == 4
    clock.now_s += 1
    assert admitted(rates, of("a", requests_per_s=2)) == 2
    assert admitted(rates, of("a")) == 100
    pace = rates.admit(of("a", bytes_per_s=MIB), ADDRESS)
    assert rates.admit(of("a", bytes_per_s=2 * MIB), ADDRESS) is pace
    assert pace is not None
    assert pace.bytes_per_s == 2 * MIB


def test_clients_without_a_credential_count_by_their_address(clock) -> None:
    """An IPv6 client has a whole network of addresses."""
    rates = RateLimits(IdentityLimits(requests_per_s=3), clock)
    assert admitted(rates, NOBODY, "192.0.2.1") == 3
    assert admitted(rates, NOBODY, "192.0.2.2") == 3
    assert admitted(rates, NOBODY, "2001:db8::1") == 3
    assert admitted(rates, NOBODY, "2001:db8::2") == 0
    assert admitted(rates, NOBODY, "2001:db8:0:1::1") == 3
    assert admitted(rates, NOBODY, "::ffff:192.0.2.1") == 0


@pytest.mark.parametrize("address", ["", "testclient", "fe80::1%eth0", "not:an:address"])
def test_every_address_is_something(address) -> None:
    """However strange it is, it does not fail."""
    assert network_of(address) == network_of(address)


def test_the_table_is_bounded_and_addresses_push_out_no_identity(clock, monkeypatch) -> None:
    """Those that asked last are remembered."""
    monkeypatch.setattr(rate_limits, "ACCOUNTS_MAX", 3)
    rates, anna = RateLimits(IdentityLimits(requests_per_s=1), clock), of("a", requests_per_s=1)
    assert admitted(rates, anna) == 1
    for number in range(100):
        assert admitted(rates, NOBODY, f"192.0.2.{number}", tries=2) == 1
        assert admitted(rates, NOBODY, "198.51.100.1", tries=1) == (number == 0)
    assert rates.statistics()["accounts"] == 4
    assert admitted(rates, anna) == 0


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_bytes_come_at_the_rate_after_a_second_of_it(clock) -> None:
    """Piece by piece; the first goes at once, and each waits for those before it."""
    pace = BodyPace(64 * KIB, clock)
    waits = [pace.turn(16 * KIB) for _ in range(8)]
    assert waits == [0, 0, 0, 0, 0, 0.25, 0.5, 0.75]
    assert pace.waited_s == 1.5


def test_two_transfers_of_one_principal_share_its_rate_in_turns(clock) -> None:
    """Whoever waits gets what it waited for, whatever the other sends meanwhile."""
    pace = BodyPace(MIB, clock)
    moved = {"large": 0, "small": 0}
    due = {"large": 0.0, "small": 0.0}
    sizes = {"large": 256 * KIB, "small": 16 * KIB}
    begin_s = clock.now_s
    while clock.now_s < begin_s + 100:
        name = min(due, key=lambda each: due[each])
        clock.now_s = max(clock.now_s, due[name])
        due[name] = clock.now_s + pace.turn(sizes[name])
        moved[name] += sizes[name]
    # Each has a piece that waits, and took one more in its last turn.
    assert sum(moved.values()) <= MIB * (100 + BURST_S) + 2 * sum(sizes.values())
    assert sum(moved.values()) >= MIB * 100
    assert abs(moved["large"] / sizes["large"] - moved["small"] / sizes["small"]) <= 6


def test_what_was_not_used_is_kept_for_a_second_only(clock) -> None:
    """Whoever sleeps for an hour does not get an hour's bytes at once."""
    pace = BodyPace(1024, clock)
    clock.now_s += 3600
    assert pace.turn(1024) == 0
    assert pace.turn(1024) == 0
    assert pace.turn(1024) == 1


@pytest.mark.parametrize("bytes_per_s", [1024, MIB])
def test_no_transfer_begins_behind_a_long_line(clock, bytes_per_s) -> None:
    """It is told when the line is short again; one piece of a slow one is no long line."""
    pace = BodyPace(bytes_per_s, clock)
    pace.turn(PIECE_BYTES)
    pace.check_backlog()
    limit_s = max(BACKLOG_MAX_S, 2 * PIECE_BYTES / bytes_per_s)
    pace.turn(int(bytes_per_s * (limit_s + 2)))
    with pytest.raises(TooManyRequestsError) as refusal:
        pace.check_backlog()
    clock.now_s += refusal.value.retry_after_s or 0
    pace.check_backlog()


@pytest.mark.parametrize(("bytes_per_s", "piece_bytes"), [(1024, 4 * KIB), (100_000, 100_000), (2**40, 2**40)])
def test_pieces_are_as_long_as_a_second_takes(clock, bytes_per_s, piece_bytes) -> None:
    """But none is tiny."""
    assert BodyPace(bytes_per_s, clock).piece_bytes == piece_bytes
