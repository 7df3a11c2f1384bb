"""Chunks are copied once, whatever interrupts it; what is missing or bad in a target is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.consensus.backup import copying
from services.consensus.backup.copying import CopiedChunks, CopyPace, check_chunks, copy_chunks
from services.consensus.backup.targets import FolderTarget
from tests.chance import random_bytes
from tests.unit.consensus.backup.fakes import FakeSource, FragileTarget, digest_of, write_list

BODIES = [random_bytes(100 + number) for number in range(40)]


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    folder = tmp_path / "snapshot"
    write_list(folder, BODIES)
    return folder


async def copy(snapshot: Path, source: FakeSource, target: FolderTarget) -> CopiedChunks:
    return await copy_chunks(snapshot, source, target, parallel=3, pace=CopyPace(0))


async def test_what_is_there_is_not_copied_again(snapshot: Path, tmp_path: Path) -> None:
    """The second run reads nothing; one with a new chunk reads that one."""
    source, target = FakeSource(BODIES), FolderTarget(tmp_path / "target")
    first = await copy(snapshot, source, target)
    assert (first.chunks, first.size_bytes, first.present_before) == (40, sum(map(len, BODIES)), 0)
    assert sorted(source.given) == sorted(map(digest_of, BODIES))
    second = await copy(snapshot, source, target)
    assert (second.chunks, second.present_before, len(source.given)) == (0, 40, 40)
    new = random_bytes(50)
    write_list(snapshot, [*BODIES[5:], new])
    source.bodies[digest_of(new)] = new
    assert (await copy(snapshot, source, target)).chunks == 1
    assert await check_chunks(snapshot, target, parallel=3, reads=True) == []


async def test_a_run_that_was_broken_off_goes_on(snapshot: Path, tmp_path: Path) -> None:
    """What has a name is whole and not read again."""
    root = tmp_path / "target"
    for puts in (0, 1, 7, 20):
        with pytest.raises(ExceptionGroup):
            await copy(snapshot, FakeSource(BODIES), FragileTarget(root, puts))
    there = await FolderTarget(root).names("chunks/")
    assert len(there) > 7
    assert all(digest_of((root / name).read_bytes()) == name.rsplit("/", 1)[1] for name in there)
    source = FakeSource(BODIES)
    copied = await copy(snapshot, source, FolderTarget(root))
    assert (copied.present_before, copied.chunks) == (len(there), 40 - len(there))
    assert not {name.rsplit("/", 1)[1] for name in there} & set(source.given)


async def test_a_chunk_that_no_node_gives_is_named(snapshot: Path, tmp_path: Path) -> None:
    """All others are copied."""
    source = FakeSource(BODIES[1:])
    copied = await copy(snapshot, source, FolderTarget(tmp_path / "target"))
    assert copied.chunks == 39
    assert copied.unreadable == {digest_of(BODIES[0]): "no node has it"}


async def test_check_finds_what_is_missing_short_or_changed(snapshot: Path, tmp_path: Path) -> None:
    """One byte of one chunk only where it is read."""
    root = tmp_path / "target"
    target = FolderTarget(root)
    await copy(snapshot, FakeSource(BODIES), target)
    missing, short, changed = (root / "chunks" / digest_of(body)[:2] / digest_of(body) for body in BODIES[:3])
    missing.unlink()
    short.write_bytes(BODIES[1][:-1])
    changed.write_bytes(bytes([BODIES[2][0] ^ 1]) + BODIES[2][1:])
    listed = {missing.name, short.name}
    assert set(await check_chunks(snapshot, target, parallel=3, reads=False)) == listed
    assert set(await check_chunks(snapshot, target, parallel=3, reads=True)) == listed | {changed.name}


async def test_the_pace_is_kept_by_all_that_copy_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of one are waited for by the next."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(copying.asyncio, "sleep", sleep)
    monkeypatch.setattr(copying.time, "monotonic", lambda: 100.0)
    pace = CopyPace(1000)
    for size_bytes in (500, 2000, 1):
        await pace.take(size_bytes)
    assert slept == [0.0, 0.5, 2.5]
