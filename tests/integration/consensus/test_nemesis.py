"""Real members killed, stopped and cut off under load: 0 lost, 0 stale, and progress again in time."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.consensus.scene import PROGRESS_WITHIN_S, Scene, running_scene
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """The members of all tests of this file: what one does to them must be over when it ends, as it must be for clients."""
    async with running_scene(tmp_path_factory.mktemp("nemesis")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def scene(shared_scene: Scene) -> AsyncIterator[Scene]:
    """With registers of this test's own, and all members running as they were before it."""
    made = Scene(shared_scene.members, shared_scene.client, shared_scene.consensus)
    yield made
    members = made.members
    members.cuts.heal()
    for number in range(3):
        if members.is_running(number):
            members.send_signal(number, signal.SIGCONT)
        if members.settings.pop(number, None):
            members.kill(number)
    members.start_ended()
    for number in range(3):
        await members.wait_until_answering(made.client, number)


async def test_every_member_killed_in_turn_loses_nothing(scene: Scene) -> None:
    """SIGKILL of each member, the leader among them, under load; then of all at once."""
    members = scene.members
    async with scene.registers.load():
        for number in range(3):
            await scene.wait_for_progress()
            members.kill(number)
            await scene.wait_for_progress()
            members.start(number)
        await scene.wait_for_progress()
        for number in range(3):
            members.kill(number)
        for number in range(3):
            members.start(number)
        await scene.wait_for_progress()
    await scene.registers.check()


@pytest.mark.parametrize("pause_s", [1, 5])
async def test_every_member_stopped_in_turn_serves_nothing_stale(scene: Scene, pause_s: int) -> None:
    """SIGSTOP of each member: a leader that wakes up late must not answer from what it knew."""
    members = scene.members
    async with scene.registers.load():
        for number in range(3):
            await scene.wait_for_progress()
            members.send_signal(number, signal.SIGSTOP)
            await asyncio.sleep(pause_s)
            members.send_signal(number, signal.SIGCONT)
        await scene.wait_for_progress()
    await scene.registers.check()


@pytest.mark.slow
async def test_a_leader_stopped_for_half_a_minute_serves_nothing_stale(scene: Scene) -> None:
    """SIGSTOP for 30 s: its log is far behind when it wakes."""
    members = scene.members
    async with scene.registers.load():
        for _ in range(3):
            leader = await members.leader(scene.client)
            members.send_signal(leader, signal.SIGSTOP)
            await scene.wait_for_progress()
            await asyncio.sleep(30)
            members.send_signal(leader, signal.SIGCONT)
            await scene.wait_for_progress()
    await scene.registers.check()


@pytest.mark.parametrize("both_ways", [True, False], ids=["isolated", "silenced"])
async def test_every_member_cut_off_in_turn_serves_nothing_stale(scene: Scene, both_ways: bool) -> None:
    """Peer connections cut, clients still reach the member: a leader without a quorum answers nobody."""
    members = scene.members
    async with scene.registers.load():
        for number in range(3):
            await scene.wait_for_progress()
            members.isolate(number, both_ways=both_ways)
            await scene.wait_for_progress()
            members.cuts.heal()
        await scene.wait_for_progress()
    await scene.registers.check()


async def test_half_open_connections_are_replaced_and_nothing_is_stale(scene: Scene) -> None:
    """All of them at once, twice: nobody is told, every byte is acknowledged, and the members find out by themselves."""
    members = scene.members
    async with scene.registers.load():
        for _ in range(2):
            await scene.wait_for_progress()
            # Progress takes a majority, and a link that is dialled anew is no reason to wait.
            await wait_until(
                lambda: members.connection_count >= 6, "each member is connected to each", PROGRESS_WITHIN_S
            )
            members.half_open()
            took_s = await scene.wait_for_progress()
            print(f"progress {took_s:.2f} s after all links were half-open")
            async with asyncio.timeout(PROGRESS_WITHIN_S):
                while members.half_open_count:  # noqa: ASYNC110 polls what has no event
                    await asyncio.sleep(0.05)
    await scene.registers.check()


async def test_a_leader_told_to_stop_hands_over_within_a_second(scene: Scene) -> None:
    """SIGTERM: another member leads before an election timeout could pass, and the process ends."""
    members = scene.members
    async with scene.registers.load():
        await scene.wait_for_progress()
        leader = await members.leader(scene.client)
        before = len(members.log_events(leader, "leadership handed over"))
        members.send_signal(leader, signal.SIGTERM)
        await scene.wait_for_progress(writes=30)
        assert await asyncio.to_thread(members.wait_ended, leader, within_s=10) in {0, -signal.SIGTERM}
        members.start(leader)
        await scene.wait_for_progress()
    await scene.registers.check()
    (handed_over,) = members.log_events(leader, "leadership handed over")[before:]
    assert handed_over["done"], "it stopped without a successor, so an election timeout passed"


async def test_a_leader_short_of_disk_space_hands_over(scene: Scene) -> None:
    """A member whose free space is below its reserve gives up leadership, and new files are taken elsewhere."""
    members = scene.members
    async with scene.registers.load():
        await scene.wait_for_progress()
        leader = await members.leader(scene.client)
        members.kill(leader)
        members.settings[leader] = {"TRIVET_DISK_RESERVE_BYTES": str(1 << 60)}
        members.start(leader)
        await scene.wait_for_progress()
        # Make it lead again by stopping the others for a moment: it hands over as soon as it notices.
        for number in range(3):
            if number != leader:
                members.kill(number)
                members.start(number)
                await scene.wait_for_progress()
        async with asyncio.timeout(PROGRESS_WITHIN_S):
            while await members.leader(scene.client) == leader:  # noqa: ASYNC110 polls another process
                await asyncio.sleep(0.05)
        await scene.wait_for_progress()
    await scene.registers.check()
