"""The folders of large chunks: names that survive a power cut, and what a start makes of what it finds there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.storage.disk import chunk_files
from services.storage.disk.chunk_files import ChunkFiles

DIGEST = "ab" + "0" * 62


@pytest.fixture
def files(tmp_path: Path) -> ChunkFiles:
    made = ChunkFiles(tmp_path)
    made.prepare()
    return made


def test_the_folders_are_on_disk_before_a_chunk_is_put_into_one(tmp_path, monkeypatch) -> None:
    """A chunk whose bytes and name are synced is gone all the same if its folder is not."""
    synced: list[tuple[Path, int]] = []
    right = os.fsync

    def fsync(descriptor: int) -> None:
        right(descriptor)
        folder = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((folder, len(list(folder.iterdir()))))

    monkeypatch.setattr(os, "fsync", fsync)
    ChunkFiles(tmp_path).prepare()
    assert (tmp_path / "chunks", 256) in synced
    assert (tmp_path, 3) in synced


def test_what_was_half_written_is_removed_at_start(tmp_path, files) -> None:
    """Nothing refers to it, and nobody else would."""
    (tmp_path / "tmp" / f"{DIGEST}.0").write_bytes(b"half")
    ChunkFiles(tmp_path).prepare()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_only_chunks_of_its_own_prefix_are_found_in_a_folder(tmp_path, files) -> None:
    """A foreign file is left where it is, and never becomes a chunk."""
    folder = tmp_path / "chunks" / "ab"
    strangers = ["holiday.jpg", DIGEST.upper(), DIGEST[:-1], DIGEST + "0", "cd" + DIGEST[2:], f"{DIGEST}.0"]
    for name in [DIGEST, *strangers]:
        (folder / name).write_bytes(b"x")
    assert files.files_under(0xAB) == {DIGEST}
    assert all((folder / name).exists() for name in strangers)


def test_the_quarantine_keeps_the_newest_files_only(tmp_path, files, monkeypatch) -> None:
    """Damage must not fill the disk."""
    monkeypatch.setattr(chunk_files, "_MAX_QUARANTINED", 3)
    for number in range(5):
        path = files.path_of(DIGEST)
        path.write_bytes(b"bad")
        os.utime(path, ns=(number, number))
        files.move_to_quarantine(DIGEST)
        assert len(list((tmp_path / "quarantine").iterdir())) <= 3
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "quarantine").iterdir()) == [2, 3, 4]
