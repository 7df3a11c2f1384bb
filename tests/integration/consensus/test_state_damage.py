"""A damaged state machine is noticed while the member runs, never served, and made anew; the cluster goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.consensus.main import EXIT_NOT_DURABLE
from services.consensus.persistence.state_damage import MARK_NAME
from shared.contracts.metadata import FileAnswer, GetFile
from tests.integration.consensus.scene import PROGRESS_WITHIN_S, Scene, running_scene

SHORT_LOG = {"TRIVET_CHECKPOINT_ENTRIES": "20", "TRIVET_LOG_KEEP_ENTRIES": "10"}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with running_scene(tmp_path, SHORT_LOG) as made:
        yield made


def damage(folder: Path, table: str, column: str) -> None:
    """As a disk would: another value, beside the member that runs."""
    [tables] = folder.glob("metadata*.sqlite")
    connection = sqlite3.connect(tables, isolation_level=None, timeout=30)
    assert connection.execute(f"UPDATE {table} SET {column} = 'other'").rowcount > 0
    connection.close()


@pytest.mark.parametrize("found_by", ["a reader", "the scrub"])
async def test_a_damaged_row_ends_the_member_which_is_then_made_anew(
    scene: Scene, tmp_path: Path, found_by: str
) -> None:
    """Of the leader, found by a read, which another leader answers rightly; of a follower, found by the scrub."""
    members = scene.members
    async with scene.registers.load():
        await scene.wait_for_progress(writes=100)
    leader = await members.leader(scene.client)
    number = leader if found_by == "a reader" else (leader + 1) % 3
    folder = tmp_path / f"consensus-{number + 1}"
    damage(folder, "files", "etag")
    if found_by == "a reader":
        key = next(iter(scene.registers.history))
        answer, _ = await scene.registers._client.read(GetFile(bucket="default", key=key), deadline_s=PROGRESS_WITHIN_S)
        assert isinstance(answer, FileAnswer)
        assert answer.file is None or answer.file.etag != "other"
    # A pass of the scrub takes a second per table at least.
    assert members.wait_ended(number, within_s=2 * PROGRESS_WITHIN_S) == EXIT_NOT_DURABLE
    assert "damaged" in (folder / MARK_NAME).read_text()
    async with scene.registers.load():
        await scene.wait_for_progress()
        members.start(number)
        await scene.wait_for_progress()
    await scene.wait_until_all_agree()
    await scene.registers.check()
    assert not (folder / MARK_NAME).exists()
    assert (folder / "damaged_metadata.sqlite").exists()
