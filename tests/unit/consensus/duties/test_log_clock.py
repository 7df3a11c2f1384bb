"""What one leadership may tell the log: each moment once, and never more than has passed."""

from __future__ import annotations

import time
from itertools import accumulate
from types import SimpleNamespace

import pytest

from services.consensus.duties.log_clock import ElapsedTime, ForgettingPace, LogClock, Retentions
from shared.contracts.calls import Proposed
from shared.contracts.metadata import PassedTime, PassTime
from tests.unit.consensus.metadata.builders import stamp


def test_a_leadership_begins_with_nothing():
    """What passed before it is not its own to tell."""
    elapsed = ElapsedTime()
    assert elapsed.elapsed_ms(1, 1000.0) == 0
    assert elapsed.elapsed_ms(1, 1060.0) == 60_000


def test_what_was_told_is_not_told_again():
    """From the answer on, not from the question: the entry stands in the log somewhere between the two."""
    elapsed = ElapsedTime()
    elapsed.elapsed_ms(1, 1000.0)
    elapsed.answered(1062.0)
    assert elapsed.elapsed_ms(1, 1070.0) == 8000


def test_another_leadership_begins_anew():
    """Also for the member that led before: somebody else may have told in between."""
    elapsed = ElapsedTime()
    elapsed.elapsed_ms(1, 1000.0)
    assert elapsed.elapsed_ms(3, 1060.0) == 0
    assert elapsed.elapsed_ms(3, 1061.5) == 1500


class Leader:
    """A consensus service that has more to forget, `slices` times; or until it leads no more."""

    def __init__(self, slices: int, *, leads_for: int = 1000, entry_version: int = 3) -> None:
        self.member = SimpleNamespace(leader_role=SimpleNamespace(term=1))
        self.store = SimpleNamespace(summary=lambda: SimpleNamespace(entry_version=entry_version))
        self.told: list[PassTime] = []
        self._slices = slices
        self._leads_for = leads_for

    async def propose_one(self, request_id: str, command: PassTime, *, retain_s: int) -> Proposed[PassedTime]:
        self.told.append(command)
        if len(self.told) == self._leads_for:
            self.member.leader_role = None
        return Proposed(1, 1, PassedTime(forgotten=0, has_more=len(self.told) < self._slices, lived_ms=0, horizon=0))


async def commands_of(leader: Leader, retentions: Retentions, *, passed_s: float = 60) -> list[PassTime]:
    clock = SimpleNamespace(stamp=stamp)
    log_clock = LogClock(leader, clock, retentions)  # type: ignore[arg-type]
    log_clock._elapsed.elapsed_ms(1, time.monotonic() - passed_s)
    await log_clock._pass_time()
    return leader.told


async def told_by(leader: Leader) -> list[int]:
    retentions = Retentions(cursor_s=0, tombstone_s=1, reference_s=2, condemned_s=3, audit_s=4, audit_bytes=5)
    return [command.elapsed_ms for command in await commands_of(leader, retentions)]


async def test_what_is_left_to_forget_is_forgotten_without_telling_the_time_again():
    """An entry forgets a bounded part: the next ones follow at once, each moment being told once."""
    told = await told_by(Leader(4))
    assert len(told) == 4
    assert told[0] >= 60_000
    assert told[1:] == [0, 0, 0]


async def test_who_leads_no_more_forgets_no_more():
    """The next leader goes on."""
    assert len(await told_by(Leader(9, leads_for=2))) == 2


@pytest.mark.parametrize(("entry_version", "told"), [(2, (None, None)), (3, (3, 4))])
async def test_chunks_are_condemned_once_every_member_knows_how(entry_version, told):
    """A member of an older version could not apply an entry that says for how long references are kept."""
    retentions = Retentions(cursor_s=1, tombstone_s=2, reference_s=3, condemned_s=4, audit_s=5, audit_bytes=6)
    [command] = await commands_of(Leader(1, entry_version=entry_version), retentions)
    assert (command.cursor_retention_s, command.tombstone_retention_s) == (1, 2)
    assert (command.reference_retention_s, command.condemned_retention_s) == told


@pytest.mark.parametrize(("entry_version", "told"), [(3, (None, None)), (4, (5, 6))])
async def test_the_audit_trail_is_cut_once_every_member_knows_how(entry_version, told):
    """A member of an older version has none."""
    retentions = Retentions(cursor_s=1, tombstone_s=2, reference_s=3, condemned_s=4, audit_s=5, audit_bytes=6)
    [command] = await commands_of(Leader(1, entry_version=entry_version), retentions)
    assert (command.audit_retention_s, command.audit_limit_bytes) == told


@pytest.mark.parametrize(
    ("cursor_s", "reference_s", "interval_s"), [(900, 86_400, 60), (40, 86_400, 10), (900, 8, 2), (4, 8, 1)]
)
async def test_what_is_kept_for_a_short_time_is_forgotten_soon_after(cursor_s, reference_s, interval_s):
    """The log is told four times as often as the shortest retention ends, once a minute at least."""
    retentions = Retentions(
        cursor_s=cursor_s, tombstone_s=1, reference_s=reference_s, condemned_s=1, audit_s=1, audit_bytes=1
    )
    assert await commands_of(Leader(1), retentions, passed_s=interval_s - 0.5) == []
    assert len(await commands_of(Leader(1), retentions, passed_s=interval_s)) == 1


def rests_s(
    pace: ForgettingPace, entries: int, *, others: int, worked_s: float = 0.01, now_s: float = 0.0, rows: int = 64
) -> list[float]:
    """So many entries forget, one after the other, and so many other entries a second come meanwhile."""
    rests = []
    for _ in range(entries):
        rests.append(pace.rest_s(rows, round(now_s * others) + len(rests), now_s, now_s + worked_s))
        now_s += worked_s + rests[-1]
    return rests


PATIENT_S = pytest.approx(64 / 1250 - 0.01)


def test_what_is_left_of_a_mass_deletion_has_time():
    """Requests would wait for it, and nobody waits for its space."""
    assert rests_s(ForgettingPace(), 5, others=0) == [PATIENT_S] * 5
    assert rests_s(ForgettingPace(), 5, others=100) == [PATIENT_S] * 5
    assert rests_s(ForgettingPace(), 5, others=0, rows=250) == [pytest.approx(0.19)] * 5


def test_a_mass_deletion_is_kept_up_with():
    """It leaves six rows for each other entry at most."""
    rests = rests_s(ForgettingPace(), 80, others=300)
    assert rests[0] == PATIENT_S
    assert sum(rests[40:]) / 40 + 0.01 == pytest.approx(64 / (6 * 300), rel=0.1)
    assert rests_s(ForgettingPace(), 40, others=1_000_000)[1:] == [pytest.approx(0.02)] * 39


def test_who_cannot_keep_up_forgets_more_at_once():
    """Small entries have a limit of their own: commits and rests. Or minutes of deletions would leave as much as they deleted."""
    pace = ForgettingPace()
    rests_s(pace, 40, others=300)
    assert pace.rows == 64
    rests_s(pace, 40, others=600, now_s=10.0)
    assert pace.rows == 250
    rests_s(pace, 2, others=0, now_s=20.0)
    assert pace.rows == 64


def test_who_is_behind_for_long_hurries_more_and_more():
    """Or a few deletions of very many files would never be caught up with; where commits are slow, with a bounded rest."""
    pace = ForgettingPace()
    rests = rests_s(pace, 4000, others=0)
    began = list(accumulate(rests, lambda now_s, rest_s: now_s + 0.01 + rest_s, initial=0.0))
    assert all(rest_s == PATIENT_S for rest_s, now_s in zip(rests, began, strict=False) if now_s < 29.9)
    [rest_s, *_] = [rest_s for rest_s, now_s in zip(rests, began, strict=False) if now_s > 37.5]
    assert rest_s == pytest.approx(0.75 * 0.0412, rel=0.02)
    assert {round(rest_s, 6) for rest_s, now_s in zip(rests, began, strict=False) if now_s > 57} == {0.02}
    assert pace.rows == 250
    assert rests_s(pace, 3, others=0, worked_s=1.0, now_s=1000.0, rows=250) == [0.05] * 3
    pace.caught_up()
    assert pace.rows == 64
    assert rests_s(pace, 3, others=0, now_s=2000.0) == [PATIENT_S] * 3


def test_who_keeps_up_is_not_behind():
    """Or what is left after minutes of deletions would be forgotten in a hurry."""
    pace = ForgettingPace()
    # Twice a minute's worth.
    rests_s(pace, 4000, others=300)
    assert rests_s(pace, 5, others=0, now_s=150.0)[1:] == [PATIENT_S] * 4
    # Who cannot keep up is behind.
    rests_s(pace, 4000, others=1_000_000, now_s=200.0)
    assert pace.rows == 250


def test_another_leadership_is_not_behind_since_the_one_before():
    """It would hurry for no reason."""
    pace = ForgettingPace()
    pace.begin(1)
    rests_s(pace, 3, others=0)
    pace.begin(1)
    assert rests_s(pace, 3, others=0, now_s=100.0) == [pytest.approx(0.02)] * 3
    pace.begin(2)
    assert pace.rows == 64
    assert rests_s(pace, 3, others=0, now_s=110.0) == [PATIENT_S] * 3


@pytest.mark.parametrize(("entry_version", "told"), [(4, None), (5, 64)])
async def test_an_entry_says_how_much_it_forgets_once_every_member_knows_that(entry_version, told):
    """A member of an older version would forget something else."""
    retentions = Retentions(cursor_s=1, tombstone_s=2, reference_s=3, condemned_s=4, audit_s=5, audit_bytes=6)
    [command] = await commands_of(Leader(1, entry_version=entry_version), retentions)
    assert command.forgotten_max == told
