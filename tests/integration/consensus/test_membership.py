"""Members come and go under load: nothing is lost, and a lost disk comes back only under a new name."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

import pytest

from shared.contracts.cluster import AddMemberRequest
from shared.errors import NodeNotFoundError, TrivetError
from tests.integration.consensus.members import Members
from tests.integration.consensus.scene import PROGRESS_WITHIN_S, Scene, running_scene


@pytest.fixture
async def scene(tmp_path: Path):
    async with running_scene(tmp_path) as made:
        yield made


async def wait_until_voter(scene: Scene, member_id: str) -> None:
    async with asyncio.timeout(PROGRESS_WITHIN_S):
        while True:
            status = await scene.members.status(scene.client, await scene.members.leader(scene.client))
            if any(member.id == member_id and member.is_voter for member in status.members):
                return
            await asyncio.sleep(0.05)


async def wait_until_disowned(scene: Scene, number: int) -> None:
    """Its /readyz tells the operator what to do."""
    reason = ""
    async with asyncio.timeout(PROGRESS_WITHIN_S):
        while "with another disk" not in reason:
            try:
                await scene.client.request(
                    scene.members.operations(number), "GET", "/readyz", timeout_s=2.0, is_public=True
                )
            except TrivetError as error:
                reason = error.message
            await asyncio.sleep(0.05)


async def test_a_member_whose_disk_is_lost_is_replaced_under_a_new_name(scene: Scene, tmp_path: Path) -> None:
    """Amnesia: the old name is refused, a new one joins as a learner, catches up and votes."""
    members: Members = scene.members
    async with scene.registers.load():
        await scene.wait_for_progress()
        members.kill(2)
        shutil.rmtree(tmp_path / "consensus-3")
        members.start(2)
        await scene.wait_for_progress()
        await wait_until_disowned(scene, 2)
        assert (await members.status(scene.client, 2)).last_log_index == 0, "it was given entries under its old name"
        members.kill(2)
        await members.change(scene.client, "DELETE", "/v1/members/consensus-3")
        await members.change(scene.client, "POST", "/v1/members", await members.start_spare())
        await wait_until_voter(scene, "consensus-4")
        await assert_caught_up(scene, 3, within_s=PROGRESS_WITHIN_S)
        # It counts: with one of the two old members gone, it is needed for every majority.
        members.kill(1)
        await scene.wait_for_progress()
    await scene.registers.check()


async def test_a_leader_that_removes_itself_hands_over(scene: Scene) -> None:
    """R4: another member leads within an election timeout, and the removed one stays out."""
    members = scene.members
    async with scene.registers.load():
        await scene.wait_for_progress()
        old = await members.leader(scene.client)
        answer = await members.change(scene.client, "DELETE", f"/v1/members/consensus-{old + 1}")
        assert f"consensus-{old + 1}" not in {member.id for member in answer.members}
        await scene.wait_for_progress()
        async with asyncio.timeout(PROGRESS_WITHIN_S):
            while await members.leader(scene.client) == old:  # noqa: ASYNC110 polls another process
                await asyncio.sleep(0.05)
        await scene.wait_for_progress()
    await scene.registers.check()


async def test_changes_that_make_no_sense_are_refused(scene: Scene) -> None:
    """Typed, definite, and nothing is changed."""
    with pytest.raises(NodeNotFoundError):
        await scene.members.change(scene.client, "DELETE", "/v1/members/consensus-9")
    same = AddMemberRequest(
        id="consensus-1",
        url=scene.members.addresses[0].url,
        peer_address=next(
            member.peer_address
            for member in (await scene.members.status(scene.client, 0)).members
            if member.id == "consensus-1"
        ),
    )
    before = await scene.members.change(scene.client, "POST", "/v1/members", same)
    assert before.log_index == 1, "adding a member that is there already wrote an entry"


async def assert_caught_up(scene: Scene, number: int, *, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            while True:
                with contextlib.suppress(TrivetError):  # it may be starting
                    leader = await scene.members.status(scene.client, await scene.members.leader(scene.client))
                    follower = await scene.members.status(scene.client, number)
                    if follower.last_applied >= leader.commit_index - 200:
                        return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"consensus-{number + 1} has not caught up") from None
