"""S3's application over fake storage nodes and the real state machine, with a root key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.gateway.transfers.admission import Transfer
from shared.contracts.time import ClockState, Stamp
from shared.timekeeping.host_clock import SystemHostClock
from shared.timekeeping.hybrid_logical_clock import hlc_from_ns
from shared.units import NANOSECONDS_PER_SECOND
from tests.unit.gateway.access.scene import Running, Scene
from tests.unit.gateway.fakes import FakeClock
from tests.unit.gateway.s3.asking import S3Client


class HostTime(FakeClock):
    """What signers sign by, `shift_s` later; no stamp is given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shift_s = 0

    def stamp(self) -> Stamp:
        now_ns = SystemHostClock().wall_ns() + self.shift_s * NANOSECONDS_PER_SECOND
        return Stamp(hlc=hlc_from_ns(now_ns) + next(self._ticks), state=ClockState.LOGICAL)


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    """A cluster with a root key."""
    scene = Scene(tmp_path)
    scene.clock = HostTime()
    await scene.open()
    return scene


@pytest.fixture
async def here(scene: Scene) -> AsyncIterator[Running]:
    """A gateway."""
    async with scene.gateway() as running:
        yield running


@pytest.fixture
async def there(scene: Scene) -> AsyncIterator[Running]:
    """Another one."""
    async with scene.gateway() as running:
        yield running


@dataclass
class PacedTransfers:
    """What the client of any transfer was waited for."""

    moved_bytes: int = 0
    turns_bytes: int = 0
    is_small: bool = False


@pytest.fixture
def paced(here: Running, monkeypatch: pytest.MonkeyPatch) -> PacedTransfers:
    """Counts from here on."""
    counted = PacedTransfers()
    small = here.gateway.services.admission.small

    def moved(transfer: Transfer, size_bytes: int) -> None:
        counted.moved_bytes += size_bytes
        counted.is_small = transfer.budget is small

    async def take_turn(_: Transfer, size_bytes: int) -> None:
        counted.turns_bytes += size_bytes

    monkeypatch.setattr(Transfer, "moved", moved)
    monkeypatch.setattr(Transfer, "take_turn", take_turn)
    return counted


@pytest.fixture
async def s3(scene: Scene, here: Running) -> S3Client:
    """Asks with the root key: `await s3("PUT", "bucket", "key", body=b"...")`."""
    return S3Client(here.s3, scene.root)
