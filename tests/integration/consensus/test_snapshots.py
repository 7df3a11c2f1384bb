"""A log that is cut, and members that need more than it still has: real processes, real files, under load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.consensus.scene import PROGRESS_WITHIN_S, Scene, running_scene
from tests.integration.consensus.test_membership import assert_caught_up, wait_until_voter

SHORT_LOG = {"TRIVET_CHECKPOINT_ENTRIES": "20", "TRIVET_LOG_KEEP_ENTRIES": "10"}
SAMPLED_STEPS = (2, 6, 9, 13)
"""tests/unit/consensus/persistence/test_state_files.py breaks off each step; processes a few, and all of them in `slow`."""
STEPS = 20
RUNS = 50


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with running_scene(tmp_path, SHORT_LOG) as made:
        yield made


async def outrun(scene: Scene, number: int) -> None:
    """Wait until no running member's log has the entry any more that follows the log of the stopped member `number`."""
    running = [other for other in range(3) if other != number]
    end = max([(await scene.members.status(scene.client, other)).last_log_index for other in running])
    async with asyncio.timeout(2 * PROGRESS_WITHIN_S):
        while True:
            starts = [(await scene.members.status(scene.client, other)).first_log_index for other in running]
            if min(starts) > end + 1:
                return
            await asyncio.sleep(0.1)


async def test_a_member_that_was_away_for_longer_than_the_log_gets_a_snapshot(scene: Scene) -> None:
    """It catches up under load, and counts again: with another member gone, it is needed for every majority."""
    members = scene.members
    async with scene.registers.load():
        await scene.wait_for_progress()
        members.kill(2)
        await outrun(scene, 2)
        members.start(2)
        await assert_caught_up(scene, 2, within_s=PROGRESS_WITHIN_S)
        members.kill(1)
        await scene.wait_for_progress()
        members.start(1)
        await scene.wait_for_progress()
    await scene.registers.check()
    assert installations(scene, 2), "it caught up without one"


async def test_a_new_member_begins_with_a_snapshot(scene: Scene) -> None:
    """The beginning of the log is long gone when it joins."""
    members = scene.members
    async with scene.registers.load():
        await scene.wait_for_progress(writes=100)
        await members.change(scene.client, "POST", "/v1/members", await members.start_spare())
        await wait_until_voter(scene, "consensus-4")
        await assert_caught_up(scene, 3, within_s=PROGRESS_WITHIN_S)
        await scene.wait_for_progress()
    await scene.registers.check()
    assert installations(scene, 3), "it caught up without one"


async def test_a_member_whose_state_is_damaged_rebuilds_it_and_votes_meanwhile(scene: Scene, tmp_path: Path) -> None:
    """The tables are disposable, the log and the vote are not."""
    members = scene.members
    async with scene.registers.load():
        await scene.wait_for_progress(writes=100)
        members.kill(2)
        for path in (tmp_path / "consensus-3").glob("metadata*.sqlite*"):
            path.write_bytes(b"not what was written here" * 1000)
        members.start(2)
        async with asyncio.timeout(2 * PROGRESS_WITHIN_S):
            while not installations(scene, 2):  # noqa: ASYNC110 polls another process
                await asyncio.sleep(0.05)
        await assert_caught_up(scene, 2, within_s=PROGRESS_WITHIN_S)
        await scene.wait_for_progress()
    await scene.registers.check()
    assert members.log_events(2, "the state machine's file is damaged; it is made anew")
    assert installations(scene, 2)
    assert (tmp_path / "consensus-3" / "damaged_metadata.sqlite").exists()


async def kill_at_steps(scene: Scene, steps: list[int]) -> int:
    """A member dies at each of these steps of an installation, starts again, and catches up. Returns how many times it died."""
    members, deaths = scene.members, 0
    async with scene.registers.load():
        for step in steps:
            await scene.wait_for_progress(writes=5)
            members.kill(2)
            await outrun(scene, 2)
            before = installations(scene, 2)
            members.settings[2] = {"TRIVET_TEST_DIE_AT_STEP": str(step)}
            members.programs[2] = ["-m", "tests.integration.consensus.mortal_member"]
            members.start(2)
            deaths += await ended_or_installed(scene, 2, installed_before=before)
            members.kill(2)
            del members.settings[2], members.programs[2]
            members.start(2)
            await assert_caught_up(scene, 2, within_s=PROGRESS_WITHIN_S)
    await scene.registers.check()
    return deaths


async def ended_or_installed(scene: Scene, number: int, *, installed_before: int) -> bool:
    """True when the process ended by itself; False when it came through."""
    try:
        async with asyncio.timeout(2 * PROGRESS_WITHIN_S):
            while not scene.members.has_ended(number):
                if installations(scene, number) > installed_before:
                    return False
                await asyncio.sleep(0.05)
            return True
    except TimeoutError:
        raise AssertionError(f"consensus-{number + 1} got no snapshot: {await scene.describe()}") from None


def installations(scene: Scene, number: int) -> int:
    return len(scene.members.log_events(number, "snapshot installed"))


@pytest.mark.timeout(300)
async def test_a_member_killed_in_the_middle_of_an_installation_comes_back(scene: Scene) -> None:
    """SIGKILL at a sample of its steps, under load: nothing is lost, nothing is stale, and it catches up each time."""
    assert await kill_at_steps(scene, list(SAMPLED_STEPS)) >= len(SAMPLED_STEPS) - 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_a_member_killed_at_every_step_of_fifty_installations_comes_back(scene: Scene) -> None:
    """SIGKILL at each step in turn, fifty times in all."""
    steps = [run % STEPS for run in range(RUNS)]
    deaths = await kill_at_steps(scene, steps)
    print(f"{deaths} deaths in {RUNS} installations")
    assert deaths > RUNS // 2
