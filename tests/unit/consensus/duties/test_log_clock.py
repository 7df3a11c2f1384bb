"""What one leadership may tell the log: each moment once, and never more than has passed."""

from __future__ import annotations

import time
from types import SimpleNamespace

from services.consensus.duties.log_clock import ElapsedTime, LogClock
from shared.contracts.metadata import PassTime, ProposalResult
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

    def __init__(self, slices: int, *, leads_for: int = 1000) -> None:
        self.member = SimpleNamespace(leader_role=SimpleNamespace(term=1))
        self.told_ms: list[int] = []
        self._slices = slices
        self._leads_for = leads_for

    async def propose_one(self, request_id: str, command: PassTime, *, retain_s: int) -> ProposalResult:
        self.told_ms.append(command.elapsed_ms)
        if len(self.told_ms) == self._leads_for:
            self.member.leader_role = None
        return ProposalResult(log_index=1, term=1, result={"has_more": len(self.told_ms) < self._slices})


async def told_by(leader: Leader) -> list[int]:
    clock = SimpleNamespace(stamp=stamp)
    log_clock = LogClock(leader, clock, cursor_retention_s=0, tombstone_retention_s=1)  # type: ignore[arg-type]
    log_clock._elapsed.elapsed_ms(1, time.monotonic() - 60)
    await log_clock._pass_time()
    return leader.told_ms


async def test_what_is_left_to_forget_is_forgotten_without_telling_the_time_again():
    """An entry forgets a bounded part: the next ones follow at once, each moment being told once."""
    told = await told_by(Leader(4))
    assert len(told) == 4
    assert told[0] >= 60_000
    assert told[1:] == [0, 0, 0]


async def test_who_leads_no_more_forgets_no_more():
    """The next leader goes on."""
    assert len(await told_by(Leader(9, leads_for=2))) == 2
