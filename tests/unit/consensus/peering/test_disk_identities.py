"""A member is known by its disk, for good, and also by those who never met it before."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.consensus.peering.disk_identities import DISK_ID_BYTES, DiskIdentities
from services.consensus.raft.ports import LogDamagedError
from tests.synced import Synced

OLD, NEW = b"o" * DISK_ID_BYTES, b"n" * DISK_ID_BYTES


def test_a_folder_keeps_its_own_id(tmp_path: Path) -> None:
    """Two folders differ, one stays the same."""
    assert DiskIdentities(tmp_path / "a").own == DiskIdentities(tmp_path / "a").own
    assert DiskIdentities(tmp_path / "a").own != DiskIdentities(tmp_path / "b").own


def test_the_first_disk_of_a_name_is_the_only_one(tmp_path: Path) -> None:
    """Across restarts too."""
    disks = DiskIdentities(tmp_path)
    assert disks.accept("m2", OLD)
    assert not disks.accept("m2", NEW)
    again = DiskIdentities(tmp_path)
    assert again.accept("m2", OLD)
    assert not again.accept("m2", NEW)


def test_no_power_cut_takes_back_an_id_that_was_told_or_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the member would be another one after it, or would let another disk in."""
    synced = Synced(monkeypatch)
    disks = DiskIdentities(tmp_path)
    assert synced.is_kept(tmp_path / "disk_id")
    disks.accept("m2", OLD)
    assert synced.is_kept(tmp_path / "known_disks.json")
    disks.learn({"m3": NEW.hex()})
    assert synced.is_kept(tmp_path / "known_disks.json")


def test_what_others_know_is_learnt_and_never_overwrites(tmp_path: Path) -> None:
    """A wiped member is refused by one that meets it for the first time, and cannot talk itself back in."""
    disks = DiskIdentities(tmp_path)
    disks.learn({"m3": OLD.hex()})
    disks.learn({"m3": NEW.hex()})
    assert not DiskIdentities(tmp_path).accept("m3", NEW)


@pytest.mark.parametrize("name", ["disk_id", "known_disks.json"])
def test_a_damaged_file_stops_the_member(tmp_path: Path, name: str) -> None:
    """Whom it knew is part of what must not be forgotten."""
    DiskIdentities(tmp_path).accept("m2", OLD)
    (tmp_path / name).write_bytes(b"?")
    with pytest.raises(LogDamagedError):
        DiskIdentities(tmp_path)


@pytest.mark.parametrize("name", ["disk_id", "known_disks.json"])
def test_any_flipped_bit_is_noticed_or_harmless(tmp_path: Path, name: str) -> None:
    """A wrong id would make this member refuse an honest one, and tell others to."""
    disks = DiskIdentities(tmp_path)
    disks.learn({"m2": OLD.hex(), "m3": NEW.hex()})
    whole = (tmp_path / name).read_bytes()
    noticed = 0
    for offset in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[offset] ^= 1 << bit
            (tmp_path / name).write_bytes(damaged)
            try:
                again = DiskIdentities(tmp_path)
            except LogDamagedError:
                noticed += 1
            else:
                assert (again.own, again.known) == (disks.own, disks.known), f"byte {offset}, bit {bit}"
    assert noticed > 0


def test_files_without_a_checksum_are_read(tmp_path: Path) -> None:
    """As an earlier version wrote them."""
    (tmp_path / "disk_id").write_bytes(OLD)
    (tmp_path / "known_disks.json").write_text(f'{{"m2": "{NEW.hex()}"}}')
    disks = DiskIdentities(tmp_path)
    assert (disks.own, disks.known) == (OLD, {"m2": NEW.hex()})
