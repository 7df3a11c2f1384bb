"""All members have one state, under load and at rest; a member that has another one is found and says so itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.errors import TrivetError
from tests.integration.consensus.scene import PROGRESS_WITHIN_S, Scene, running_scene

DIVERGED = Path(__file__).with_name("diverged_member.py")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with running_scene(tmp_path) as made:
        yield made


async def hashes(scene: Scene) -> list[tuple[int, str | None]]:
    statuses = [await scene.members.status(scene.client, number) for number in range(3)]
    return [(status.last_applied, status.state_hash) for status in statuses]


async def wait_until_level(scene: Scene) -> list[tuple[int, str | None]]:
    """Every member has applied the same entries."""
    async with asyncio.timeout(PROGRESS_WITHIN_S):
        while True:
            with contextlib.suppress(TrivetError):
                found = await hashes(scene)
                if len({index for index, _ in found}) == 1:
                    return found
            await asyncio.sleep(0.05)


async def test_all_members_have_one_state(scene: Scene) -> None:
    """After a random workload with a member killed and another one stopped in the middle of it, and at marks during it."""
    async with scene.registers.load():
        await scene.wait_for_progress(writes=100)
        scene.members.kill(1)
        await scene.wait_for_progress(writes=100)
        scene.members.start(1)
        await scene.wait_for_progress(writes=400)
        statuses = [await scene.members.status(scene.client, number) for number in range(3)]
    for status in statuses:
        for other in statuses:
            common = status.state_marks.keys() & other.state_marks.keys()
            assert all(status.state_marks[index] == other.state_marks[index] for index in common)
    found = await wait_until_level(scene)
    assert len(set(found)) == 1, found
    await scene.registers.check()


async def test_one_row_that_differs_is_noticed(scene: Scene) -> None:
    """A member whose build writes one column of one row differently is outvoted: it says so, and the others name it."""
    members = scene.members
    number = 2 if await members.leader(scene.client) != 2 else 1
    members.kill(number)
    members.programs[number] = [str(DIVERGED)]
    members.start(number)
    async with scene.registers.load():
        await scene.wait_for_progress(writes=100)
    reason = ""
    async with asyncio.timeout(2 * PROGRESS_WITHIN_S):
        while "agree on another state" not in reason:
            try:
                await scene.client.request(members.operations(number), "GET", "/readyz", timeout_s=2.0, is_public=True)
            except TrivetError as error:
                reason = error.message
            await asyncio.sleep(0.1)
        others = [other for other in range(3) if other != number]
        while True:
            named = [(await members.status(scene.client, other)).differs_from for other in others]
            if named == [[f"consensus-{number + 1}"]] * 2:
                break
            await asyncio.sleep(0.1)
    for other in others:
        await scene.client.request(members.operations(other), "GET", "/readyz", timeout_s=2.0, is_public=True)
    found = await wait_until_level(scene)
    assert found[others[0]] == found[others[1]] != found[number]
    metrics = await scene.client.request(members.operations(number), "GET", "/metrics", timeout_s=2.0, is_public=True)
    assert b"metadata_differing_members 2.0" in metrics.content
