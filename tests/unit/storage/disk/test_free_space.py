"""When a node is full: the last byte and the last inode that it takes, and the first that it refuses."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from services.storage.disk.free_space import FRESH_S, FreeSpace
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.metrics import StorageMetrics
from shared.errors import DiskFullError
from shared.units import KIB, MIB
from tests.unit.storage.disk.tiers import make_chunk

BLOCK_BYTES = 10


@pytest.fixture
def file_system(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """1,000 bytes, none used; 100 inodes, none used."""
    found = SimpleNamespace(
        f_frsize=BLOCK_BYTES, f_blocks=100, f_bfree=100, f_bavail=100, f_files=100, f_ffree=100, f_favail=100
    )
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    return found


def use_bytes(file_system: SimpleNamespace, size_bytes: int) -> None:
    """So many bytes are taken, whoever took them."""
    file_system.f_bfree = file_system.f_bavail = file_system.f_blocks - size_bytes // BLOCK_BYTES


def is_refused(space: FreeSpace, incoming_bytes: int, used_bytes: int = 0) -> bool:
    """Whether so many bytes more are refused."""
    try:
        space.check(incoming_bytes, used_bytes)
    except DiskFullError:
        return True
    return False


@pytest.mark.parametrize(("incoming_bytes", "refused"), [(150, False), (151, True)])
def test_a_write_may_take_the_last_byte_before_the_reserve(file_system, incoming_bytes, *, refused) -> None:
    """What comes counts with what is there: 950 of 1,000 bytes is full at 95 percent, one byte more is too much."""
    use_bytes(file_system, 800)
    assert is_refused(FreeSpace(Path(), None, 95), incoming_bytes) == refused


def test_what_only_root_may_use_is_no_room(file_system) -> None:
    """The percentage is of what this process can use."""
    file_system.f_bfree, file_system.f_bavail = 20, 10  # 800 bytes used, 100 free to us
    assert not is_refused(FreeSpace(Path(), None, 95), 55)
    assert is_refused(FreeSpace(Path(), None, 95), 56)


@pytest.mark.parametrize(("incoming_bytes", "refused"), [(90, False), (91, True)])
def test_what_an_operator_grants_is_a_limit_of_its_own(file_system, incoming_bytes, *, refused) -> None:
    """Of 200 bytes granted, 100 in use by this node's chunks, 190 may be used: the file system has room for far more."""
    assert is_refused(FreeSpace(Path(), 200, 95), incoming_bytes, used_bytes=100) == refused


@pytest.mark.parametrize(("used_inodes", "refused"), [(95, False), (96, True)])
def test_a_file_system_without_inodes_is_full(file_system, used_inodes, *, refused) -> None:
    """However many bytes are free."""
    file_system.f_ffree = file_system.f_favail = 100 - used_inodes
    assert is_refused(FreeSpace(Path(), None, 95), 1) == refused


def test_a_file_system_that_counts_no_inodes_is_not_full_of_them(file_system) -> None:
    """As btrfs."""
    file_system.f_files = file_system.f_ffree = file_system.f_favail = 0
    assert not is_refused(FreeSpace(Path(), None, 95), 1)


def test_a_node_without_room_for_a_typical_chunk_says_so_before_a_write_is_refused(file_system) -> None:
    """By the last measurement: whoever asks must not wait for a sick disk."""
    space = FreeSpace(Path(), None, 95, typical_chunk_bytes=100)
    use_bytes(file_system, 860)
    assert space.shortage(0) is None, "nothing was measured yet"
    assert not is_refused(space, 1)
    assert space.shortage(0) is not None
    use_bytes(file_system, 850)
    space.measure()
    assert space.shortage(0) is None


def test_room_is_granted_by_a_fresh_measurement_only_and_no_more_than_it_found(file_system) -> None:
    """What was granted since counts; an old measurement, or one without room, sends the caller to the file system."""
    now_s = [100.0]
    space = FreeSpace(Path(), None, 95, now_s=lambda: now_s[0])
    assert not space.grant(1, 0)
    use_bytes(file_system, 800)
    space.measure()
    assert space.grant(100, 0)
    assert space.grant(50, 0)
    assert not space.grant(1, 0)
    space.measure()
    now_s[0] += FRESH_S
    assert space.grant(150, 0)
    now_s[0] += 0.001
    space.measure()
    now_s[0] += FRESH_S + 0.001
    assert not space.grant(1, 0)


def test_what_comes_together_finds_room_one_behind_the_other(file_system) -> None:
    """A large one that finds none takes none from those behind it."""
    use_bytes(file_system, 800)
    found = FreeSpace(Path(), None, 95).refusals([100, 51, 50, 1], 0)
    assert [refusal is None for refusal in found] == [True, False, True, False]


def test_what_is_promised_has_its_room_however_often_the_file_system_is_asked(file_system) -> None:
    """What Redis has acknowledged lies in no file yet: a measurement does not see it, nor does the sum of what is held."""
    use_bytes(file_system, 800)
    space = FreeSpace(Path(), None, 95)
    space.measure()
    assert space.grant(50, 0, promised_bytes=100)
    assert not space.grant(1, 0, promised_bytes=100)
    assert [refusal is None for refusal in space.refusals([51, 50], 0, promised_bytes=100)] == [False, True]
    granted = FreeSpace(Path(), 200, 95)
    assert [refusal is None for refusal in granted.refusals([41, 40], 100, promised_bytes=50)] == [False, True]


def test_the_reserve_counts_granted_bytes_and_the_file_system(tmp_path, monkeypatch):
    """A write is refused one byte beyond the percentage, for granted bytes, for the file system, and for inodes."""
    blocks = {"f_frsize": MIB, "f_blocks": 9, "f_bfree": 9, "f_bavail": 9, "f_files": 0, "f_ffree": 0, "f_favail": 0}
    # Not that of the machine, which may be anything.
    monkeypatch.setattr(os, "statvfs", lambda _: statvfs(blocks))
    granted = FreeSpace(tmp_path, MIB, 50)
    granted.check(100, MIB // 2 - 100)
    with pytest.raises(DiskFullError):
        granted.check(101, MIB // 2 - 100)
    assert granted.capacity_bytes() == MIB
    whole = FreeSpace(tmp_path, None, 95)
    blocks |= {"f_frsize": 100, "f_blocks": 110, "f_bfree": 20, "f_bavail": 10}
    blocks |= {"f_files": 100, "f_ffree": 50, "f_favail": 50}
    whole.check(500, 0)
    with pytest.raises(DiskFullError):
        whole.check(501, 0)
    blocks |= {"f_ffree": 4, "f_favail": 4}
    with pytest.raises(DiskFullError):
        whole.check(0, 0)
    blocks |= {"f_files": 0}
    whole.check(0, 0)


async def test_a_full_disk_is_known_without_asking_it_and_forgotten_when_there_is_room(tmp_path, monkeypatch):
    """By the last put, or by the last question for the status, which the heartbeat asks too; a hung disk hangs neither."""
    registry = CollectorRegistry()
    prepare_folder(tmp_path)
    space = FreeSpace(tmp_path, None, 95, typical_chunk_bytes=1000)
    disk = DiskTier(tmp_path, space=space, metrics=StorageMetrics(registry), small_limit_bytes=64 * KIB)
    blocks = dict.fromkeys(("f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail"), 1000) | {
        "f_frsize": 100
    }
    asked_in: list[threading.Thread] = []

    def answer(_: Path):
        asked_in.append(threading.current_thread())
        return statvfs(blocks)

    monkeypatch.setattr(os, "statvfs", answer)
    async with disk:
        assert disk.shortage() is None
        held = make_chunk(100)
        await disk.put(held, 0)
        blocks |= {"f_bfree": 55, "f_bavail": 55}  # 94.5 %: a small chunk fits, a typical one does not
        assert disk.shortage() is None, "it was not asked since"
        await disk.put(make_chunk(100), 0)
        assert disk.shortage() == "The file system has reached its reserve."
        assert disk.reasons_against_writes() == []
        assert registry.get_sample_value("trivet_storage_disk_bytes", {"part": "used"}) == 94_500
        assert registry.get_sample_value("trivet_storage_disk_bytes", {"part": "free"}) == 5500
        assert registry.get_sample_value("trivet_storage_disk_inodes", {"part": "free"}) == 1000
        assert await disk.get(held.digest) == held.body()
        assert await disk.delete(held.digest)
        blocks |= {"f_bfree": 500, "f_bavail": 500}
        await disk.statuses()
        assert disk.shortage() is None
        blocks |= {"f_ffree": 10, "f_favail": 10}
        with pytest.raises(DiskFullError, match="inodes"):
            await disk.put(make_chunk(100), 0)
        assert disk.shortage() == "The file system has hardly any inodes left."
        assert threading.main_thread() not in asked_in


def statvfs(values: dict[str, int]):
    return type("Found", (), values)()
