"""What chronyc says is read with suspicion: only a synchronised chronyd gives a bound for the wall clock."""

from __future__ import annotations

import pytest

from services.clock.host_chrony import FLOOR_NS, HostChrony, parse_tracking

SYNCED = (
    "A9FEA97B,169.254.169.123,4,1795000000.123456789,-0.000012345,0.000001000,0.000002000,-8.123,0.001,0.020,"
    "0.000300000,0.000150000,16.1,Normal"
)


def test_the_bound_is_offset_plus_dispersion_plus_half_the_delay() -> None:
    """As ClockBound computes it, with the floor for our own reading."""
    tracking = parse_tracking(SYNCED)
    assert tracking is not None
    assert tracking.stratum == 4
    assert tracking.error_ns == 12_345 + 150_000 + 150_000 + FLOOR_NS
    assert tracking.interval(10**18).middle_ns == 10**18


@pytest.mark.parametrize(
    "line",
    [
        "",
        "506 Cannot talk to daemon",
        SYNCED.replace("Normal", "Not synchronised"),
        SYNCED.replace("A9FEA97B", "7F7F0101"),
        SYNCED.replace("A9FEA97B", "00000000"),
        SYNCED.replace(",4,", ",16,"),
        SYNCED.replace("0.000150000", "nan"),
        SYNCED.replace("0.000150000", "1.5"),
        SYNCED.replace("0.000150000", "many"),
        SYNCED + ",more",
    ],
)
def test_anything_less_than_a_synchronised_chronyd_gives_nothing(line: str) -> None:
    """Local reference, no reference, no sync, nonsense: no bound."""
    assert parse_tracking(line) is None


async def test_a_host_without_chronyc_is_not_an_error() -> None:
    """The command is looked for once; without it nothing is started."""
    chrony = HostChrony("no-such-command-anywhere")
    assert not chrony.is_installed
    assert await chrony.tracking() is None


async def test_a_chronyc_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hung command costs one time-out and leaves no process behind."""
    monkeypatch.setattr("services.clock.host_chrony.TIMEOUT_S", 0.05)
    assert await HostChrony("sh -c 'exec sleep 60'").tracking() is None
