"""The pin of a backup: taken before the copy, renewed while it is made, kept after it, and ended when it fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.consensus.rescue import backup_pin
from services.consensus.rescue.backup_pin import end, pinned, renew
from shared.consensus_calls.client import ReadContext
from shared.contracts.backups import BeginBackup, EndBackup, EndedBackup, LeasedBackup, RenewBackup
from shared.contracts.calls import Proposed
from shared.contracts.cluster import NodeMap
from shared.contracts.metadata import Answer, AnyCommand, AnyQuery, ClusterAnswer, GetCluster
from shared.errors import BackupNotFoundError, LeaderUnavailableError, TrivetError
from tests.waiting import wait_until

HLC = 99 << 32
LEASE_S = 3600


class FakeLog:
    """Keeps pins by id; `refusals` are raised by the next proposals."""

    def __init__(self) -> None:
        self.pins: dict[str, int] = {}
        self.proposed: list[AnyCommand] = []
        self.refusals: list[TrivetError] = []

    async def propose(self, command: AnyCommand) -> Proposed[Any]:
        self.proposed.append(command)
        assert command.stamp.hlc == HLC, "not the time of this machine"
        if self.refusals:
            raise self.refusals.pop(0)
        match command:
            case BeginBackup():
                self.pins[command.backup_id] = 7
                return Proposed(7, 1, LeasedBackup(log_index=7, expires_ms=1))
            case RenewBackup():
                if command.backup_id not in self.pins:
                    raise BackupNotFoundError("gone", backup_id=command.backup_id)
                return Proposed(9, 1, LeasedBackup(log_index=7, expires_ms=1))
            case EndBackup():
                ended = self.pins.pop(command.backup_id, None) is not None
                return Proposed(9, 1, EndedBackup(ended=ended))
        raise AssertionError(command)

    async def read(self, query: AnyQuery) -> tuple[Answer, ReadContext]:
        assert isinstance(query, GetCluster)
        answer = ClusterAnswer(cluster_id="c", leader_id="m", members=[], node_map=NodeMap(epoch=1, nodes=[]))
        return answer, ReadContext(9, 1, 1, HLC)

    def count(self, kind: type) -> int:
        return sum(isinstance(command, kind) for command in self.proposed)


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


async def test_a_pin_outlasts_the_copy_by_a_whole_lease(log: FakeLog) -> None:
    """The chunks are copied afterwards: it is renewed once more at the end, and not ended."""
    async with pinned(log, "to tape", LEASE_S) as pin:
        assert log.pins == {pin.backup_id: 7}
        assert (pin.log_index, pin.lease_s) == (7, LEASE_S)
        assert log.count(RenewBackup) == 0
    assert log.count(RenewBackup) == 1
    assert log.pins.keys() == {pin.backup_id}
    assert (await renew(log, pin.backup_id, LEASE_S)).log_index == 7
    assert await end(log, pin.backup_id)
    assert not await end(log, pin.backup_id)


async def test_it_is_renewed_while_the_copy_takes_long(log: FakeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after renewals that failed."""
    pauses: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real_sleep(0)

    async with pinned(log, "to tape", LEASE_S):
        log.refusals = [LeaderUnavailableError("an election")] * 3
        monkeypatch.setattr(asyncio, "sleep", sleep)
        await wait_until(lambda: log.count(RenewBackup) >= 6, "renewals")
        monkeypatch.undo()
    assert LEASE_S / backup_pin.RENEWALS_PER_LEASE in pauses


async def test_a_copy_that_fails_keeps_nothing(log: FakeLog) -> None:
    """Nobody could use what was kept for it."""
    with pytest.raises(OSError, match="no space"):
        async with pinned(log, "to tape", LEASE_S):
            raise OSError("no space")
    assert log.pins == {}


async def test_a_copy_whose_pin_ran_out_ends_in_an_error(log: FakeLog) -> None:
    """Chunks that it needs may have been deleted."""
    with pytest.raises(BackupNotFoundError):
        async with pinned(log, "to tape", LEASE_S) as pin:
            del log.pins[pin.backup_id]
