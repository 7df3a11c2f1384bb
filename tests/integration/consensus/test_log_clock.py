"""Real members forget what is old enough, by time that their leaders counted, over a change of leadership."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.contracts.access import BY_SYSTEM
from shared.contracts.metadata import DeleteFile, FileAnswer, FilePage, GetFile, ListFiles
from shared.contracts.time import ClockState, Stamp
from shared.errors import CursorExpiredError
from tests.integration.consensus.scene import PROGRESS_WITHIN_S, Scene, running_scene

SHORT = {"TRIVET_CURSOR_RETENTION_S": "2", "TRIVET_TOMBSTONE_RETENTION_S": "4"}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with running_scene(tmp_path, SHORT) as made:
        yield made


async def test_cursors_and_deletions_are_forgotten_and_the_present_is_not(scene: Scene) -> None:
    """A list goes on for its time and is then refused with the horizon; so is a deletion; files stay, on all members alike."""
    consensus = scene.registers._client
    async with scene.registers.load():
        await scene.wait_for_progress(writes=30)
    first, context = await consensus.read(ListFiles(bucket="default", limit=1), deadline_s=PROGRESS_WITHIN_S)
    assert isinstance(first, FilePage)
    key = first.files[0].key
    deletion = DeleteFile(bucket="default", key=key, stamp=Stamp(hlc=1, state=ClockState.LOGICAL))
    deleted = await consensus.propose(deletion, requester=BY_SYSTEM, deadline_s=PROGRESS_WITHIN_S)
    answer, _ = await consensus.read(GetFile(bucket="default", key=key), deadline_s=PROGRESS_WITHIN_S)
    assert isinstance(answer, FileAnswer)
    assert answer.version == deleted.log_index
    pinned = ListFiles(bucket="default", limit=1, at_index=context.log_index)
    scene.members.kill(await scene.members.leader(scene.client))

    horizon = 0
    async with asyncio.timeout(2 * PROGRESS_WITHIN_S):
        while not horizon:
            try:
                page, _ = await consensus.read(pinned, deadline_s=PROGRESS_WITHIN_S)
            except CursorExpiredError as error:
                horizon = error.facts["horizon"]
            else:
                assert isinstance(page, FilePage)
                assert page.files[0].key == key, "the page changed under its cursor"
            await asyncio.sleep(0.05)
        assert horizon > context.log_index
        while answer.version:
            answer, _ = await consensus.read(GetFile(bucket="default", key=key), deadline_s=PROGRESS_WITHIN_S)
            assert isinstance(answer, FileAnswer)
            assert answer.version in {deleted.log_index, 0}
            await asyncio.sleep(0.05)
    assert answer.horizon >= deleted.log_index
    rest, _ = await consensus.read(ListFiles(bucket="default"), deadline_s=PROGRESS_WITHIN_S)
    assert isinstance(rest, FilePage)
    written = {name for name, past in scene.registers.history.items() if any(each.is_write for each in past)}
    assert {file.key for file in rest.files} == written - {key}
