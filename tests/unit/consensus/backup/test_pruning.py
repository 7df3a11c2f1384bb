"""What is removed, and what stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.consensus.backup.copying import CopyPace, check_chunks, copy_chunks
from services.consensus.backup.pruning import prune
from services.consensus.backup.runs import OtherRunError
from services.consensus.backup.snapshots import fetch, snapshots
from services.consensus.backup.targets import FolderTarget
from services.consensus.rescue.backup_files import BackupDamagedError
from tests.chance import random_bytes
from tests.unit.consensus.backup.fakes import FakeSource, digest_of, write_list

SHARED, OLD, NEW = random_bytes(10), random_bytes(20), random_bytes(30)


async def add(target: FolderTarget, folder: Path, name: str, bodies: list[bytes], *, is_whole: bool = True) -> None:
    """A snapshot that needs these."""
    write_list(folder, bodies)
    await copy_chunks(folder, FakeSource(bodies), target, parallel=2, pace=CopyPace(0))
    for file in ("metadata.sqlite", "manifest.json"):
        (folder / file).write_bytes(b"x")
    for file in ("metadata.sqlite", "chunks.txt", *(["manifest.json"] if is_whole else [])):
        await target.put_file(f"snapshots/{name}/{file}", folder / file)


@pytest.fixture
async def target(tmp_path: Path) -> FolderTarget:
    """Of two snapshots that share a chunk, and one that was broken off before its manifest."""
    made = FolderTarget(tmp_path / "target")
    await add(made, tmp_path / "old", "01-c", [SHARED, OLD])
    await add(made, tmp_path / "new", "02-c", [SHARED, NEW])
    await add(made, tmp_path / "broken", "03-c", [NEW], is_whole=False)
    return made


async def test_a_snapshot_without_a_manifest_is_none(target: FolderTarget, tmp_path: Path) -> None:
    """It is not listed and not fetched; the newest whole one is."""
    assert await snapshots(target) == ["01-c", "02-c"]
    for number, name in enumerate((None, "02-c")):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert await fetch(target, name, folder) == "02-c"
    with pytest.raises(BackupDamagedError):
        await fetch(target, "03-c", tmp_path)


async def test_chunks_that_a_kept_snapshot_needs_stay(target: FolderTarget, tmp_path: Path) -> None:
    """Those that only the removed ones needed go."""
    removed = await prune(target, keep=1)
    assert (removed.snapshots, removed.chunks, removed.size_bytes) == (1, 1, len(OLD))
    assert await snapshots(target) == ["02-c"]
    assert {name.rsplit("/", 1)[1] for name in await target.names("chunks/")} == {digest_of(SHARED), digest_of(NEW)}
    assert await check_chunks(tmp_path / "new", target, parallel=1, reads=True) == []


async def test_there_may_be_nothing_to_remove(target: FolderTarget) -> None:
    """With fewer snapshots than are to be kept."""
    removed = await prune(target, keep=5)
    assert (removed.snapshots, removed.chunks) == (0, 0)
    assert len(await target.names("chunks/")) == 3


async def test_what_a_killed_run_left_half_written_goes(target: FolderTarget, tmp_path: Path) -> None:
    """In every folder; what is whole stays."""
    left = [tmp_path / "target" / name for name in (".new-a.1", "chunks/.new-b.2", "snapshots/02-c/.new-m.3")]
    for path in left:
        path.write_bytes(b"half")
    await prune(target, keep=5)
    assert not any(path.exists() for path in left)
    assert len(await target.names("chunks/")) == 3


async def test_nothing_is_deleted_any_more_when_another_run_may_have_begun(target: FolderTarget) -> None:
    """The chunks of a snapshot that is being made could be among what nobody needs yet."""

    def check() -> None:
        raise OtherRunError("stood still")

    await target.put(f"chunks/{digest_of(b'x')[:2]}/{digest_of(b'x')}", b"x")
    before = await target.names("chunks/")
    with pytest.raises(OtherRunError):
        await prune(target, keep=5, check=check)
    assert await target.names("chunks/") == before
