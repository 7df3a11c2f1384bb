"""Damage in what SQLite has not checkpointed yet never takes an acknowledged chunk away without a word."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3
from prometheus_client import CollectorRegistry

from services.storage.disk.free_space import FreeSpace
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.disk.wal_salvage import find_unchecked, mark_checked, salvage
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk
from shared.errors import ChunkCorruptError
from shared.units import KIB
from tests.chance import draw_seed, random_bytes
from tests.synced import Synced

HEADER_BYTES = 32
FRAME_BYTES = 24 + 4 * KIB
FLIPS = 16
FRAMES_OF_ONE_CHUNK = 5
"""Written by one commit: the schema's page, a map of pages, two leaves and the body's own."""


@dataclass
class Crashed:
    """What a killed node left: its folder, and the chunks that it had acknowledged, oldest first."""

    folder: Path
    chunks: list[str]
    a_body: bytes

    @property
    def wal(self) -> Path:
        return self.folder / "catalog.sqlite-wal"

    def frames(self) -> int:
        return (self.wal.stat().st_size - HEADER_BYTES) // FRAME_BYTES

    def forget_mark(self) -> None:
        """As after a power cut: the mark is written without fsync."""
        (self.folder / "catalog.acknowledged").unlink()

    def flip(self, offset: int) -> None:
        with self.wal.open("r+b") as file:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 0x10]))


def open_tier(folder: Path) -> DiskTier:
    folder.mkdir(exist_ok=True)
    prepare_folder(folder)
    metrics = StorageMetrics(CollectorRegistry())
    return DiskTier(folder, space=FreeSpace(folder, None, 99), metrics=metrics, small_limit_bytes=64 * KIB)


@pytest.fixture
async def crashed(tmp_path: Path) -> AsyncIterator[Crashed]:
    """Copied while the tier lives, which is what SIGKILL leaves; made once more for every damage."""
    chunks, a_body = [], b""
    async with open_tier(tmp_path / "living") as tier:
        for _ in range(20):
            body = random_bytes(3000)
            chunks.append(blake3(body).hexdigest())
            await tier.put(Chunk(chunks[-1], len(body), (body,)), 4)
            a_body = body if len(chunks) == 5 else a_body
        yield Crashed(tmp_path / "living", chunks, a_body)


def copy_of(crashed: Crashed, name: str) -> Crashed:
    folder = crashed.folder.with_name(name)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(crashed.folder, folder)
    return Crashed(folder, crashed.chunks, crashed.a_body)


async def reopen(crashed: Crashed) -> tuple[set[str], set[str]]:
    """The chunks that are whole after a start, and those that are known to be lost."""
    async with open_tier(crashed.folder) as tier:
        whole = set()
        for digest in await tier.has(crashed.chunks, None):
            try:
                await tier.get(digest)
            except ChunkCorruptError:
                continue
            whole.add(digest)
        return whole, {lost.digest for lost in await tier.list_lost("", 1000)}


async def test_without_damage_nothing_is_said(crashed):
    """A killed node starts with everything, and nothing is put aside."""
    again = copy_of(crashed, "again")
    assert await reopen(again) == (set(crashed.chunks), set())
    assert list((again.folder / "quarantine").iterdir()) == []
    # After a clean end there is no write-ahead file, which is no alarm either.
    assert await reopen(again) == (set(crashed.chunks), set())


@pytest.mark.parametrize("has_mark", [True, False])
async def test_a_changed_bit_loses_nothing_silently(has_mark, crashed):
    """Anywhere in the file, header and frame headers included: each chunk is whole, known as lost, or the start is refused.

    Without the mark the last transaction cannot be told from a torn write, so bits are changed before it.
    """
    seed = draw_seed()
    print(f"seed {seed}")
    source = random.Random(seed)
    end = crashed.wal.stat().st_size if has_mark else HEADER_BYTES + (crashed.frames() - 8) * FRAME_BYTES
    begin = 0 if has_mark else HEADER_BYTES
    outcomes = {"whole": 0, "lost": 0, "refused": 0}
    for number in range(FLIPS):
        damaged = copy_of(crashed, "damaged")
        if not has_mark:
            damaged.forget_mark()
        # Some in the few bytes of the headers, which chance alone would hardly hit.
        frame = source.randrange((end - HEADER_BYTES) // FRAME_BYTES) * FRAME_BYTES + HEADER_BYTES
        offset = source.randrange(begin, end) if number % 3 else frame + source.randrange(24)
        if number == 0:
            # One body at least: its last copy in the file is the one that counts.
            offset = damaged.wal.read_bytes().rfind(crashed.a_body[100:140])
        damaged.flip(offset)
        try:
            whole, lost = await reopen(damaged)
        except SystemExit:
            outcomes["refused"] += 1
            continue
        assert whole | lost >= set(crashed.chunks), f"offset {offset}"
        assert len(set(crashed.chunks) - whole) <= 2, f"offset {offset}"
        outcomes["whole" if len(whole) == len(crashed.chunks) else "lost"] += 1
        assert find_unchecked(damaged.folder / "catalog.sqlite") is None
        assert await reopen(damaged) == (whole, lost)
    print(outcomes)
    assert outcomes["lost"] > 0  # the body, at least
    assert outcomes["refused"] < FLIPS // 2


async def test_every_word_of_the_last_transactions_headers_may_be_hit(crashed):
    """Pages, sizes, salts and checksums: it was acknowledged, and no frame comes after it that would tell."""
    outcomes = {"whole": 0, "lost": 0, "refused": 0}
    for frame in range(crashed.frames() - FRAMES_OF_ONE_CHUNK, crashed.frames()):
        for word in range(0, 24, 4):
            damaged = copy_of(crashed, "damaged")
            damaged.flip(HEADER_BYTES + frame * FRAME_BYTES + word)
            try:
                whole, lost = await reopen(damaged)
            except SystemExit:
                outcomes["refused"] += 1
                continue
            assert whole | lost == set(crashed.chunks), f"frame {frame}, byte {word}"
            outcomes["lost" if lost else "whole"] += 1
    print(outcomes)
    # Neither a salt nor a checksum takes anything away; a page number may be one that is needed.
    assert outcomes["whole"] >= 4 * FRAMES_OF_ONE_CHUNK


async def test_a_torn_tail_is_cut_off_as_ever(crashed):
    """What was being written when the power went was not acknowledged: no alarm, and what came before is there."""
    torn = copy_of(crashed, "torn")
    torn.forget_mark()
    os.truncate(torn.wal, torn.wal.stat().st_size - 100)
    whole, lost = await reopen(torn)
    assert whole == set(crashed.chunks[:-1])
    assert lost == set()
    assert list((torn.folder / "quarantine").iterdir()) == []


async def test_acknowledged_frames_that_are_gone_are_noticed(crashed):
    """A shortened file, or none at all, is told as what it is; what is left is served."""
    short = copy_of(crashed, "short")
    os.truncate(short.wal, short.wal.stat().st_size - 3 * FRAME_BYTES)
    prepare_folder(short.folder)
    found = find_unchecked(short.folder / "catalog.sqlite")
    assert found is not None
    assert found.missing_frames == 3
    whole, _ = await reopen(short)
    assert set(crashed.chunks[:-3]) <= whole
    gone = copy_of(crashed, "gone")
    gone.wal.unlink()
    prepare_folder(gone.folder)
    found = find_unchecked(gone.folder / "catalog.sqlite")
    assert found is not None
    assert found.missing_frames > 0


async def test_no_power_cut_takes_back_a_repair_or_what_is_left_to_be_checked(crashed, monkeypatch):
    """Findings, repaired file and emptied mark; then, that everything was checked."""
    damaged = copy_of(crashed, "damaged")
    damaged.flip(damaged.wal.stat().st_size - 2 * FRAME_BYTES)
    synced = Synced(monkeypatch)
    database = damaged.folder / "catalog.sqlite"
    salvage(database, damaged.folder / "quarantine")
    for name in ("catalog.salvaged", "catalog.sqlite-wal", "catalog.acknowledged"):
        assert synced.is_kept(damaged.folder / name), name
    assert find_unchecked(database) is not None
    mark_checked(database)
    assert find_unchecked(database) is None
    assert not synced.has_name(damaged.folder / "catalog.salvaged")


async def test_a_digest_damaged_in_the_catalog_does_not_hide_its_chunk(tmp_path):
    """The bytes are a whole chunk under a name that nobody asks for: it goes back to its own."""
    body = random_bytes(2000)
    digest = blake3(body).hexdigest()
    async with open_tier(tmp_path) as tier:
        await tier.put(Chunk(digest, len(body), (body,)), 6)
        damaged = bytes([bytes.fromhex(digest)[0] ^ 1]) + bytes.fromhex(digest)[1:]
        tier._committer._sql.execute("UPDATE chunks SET digest = ?", (damaged,))
        assert await tier.has([digest], None) == set()
        with pytest.raises(ChunkCorruptError):
            await tier.get(damaged.hex())  # as the scrub does
        assert await tier.get(digest) == body
        assert [chunk.start_index for chunk in await tier.list_chunks("", "", 10)] == [6]
