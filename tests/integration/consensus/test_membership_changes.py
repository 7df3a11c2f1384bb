"""R3: members are added, replaced and removed at random while links are cut and processes are killed: 0 lost, 0 stale."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rich.progress import Progress

from shared.contracts.base import WireModel
from shared.contracts.cluster import ConsensusMember
from shared.errors import NodeNotFoundError, TrivetError
from tests.integration.consensus.scene import Scene, running_scene

SHORT_LOG = {"TRIVET_CHECKPOINT_ENTRIES": "50", "TRIVET_LOG_KEEP_ENTRIES": "20"}
PATIENCE_S = 120.0
"""Faults go on meanwhile, and each may cost an election; on a busy machine a process takes seconds to start, too."""
FEWEST_MEMBERS, MOST_MEMBERS = 3, 5
_SHARE_REPLACED = 0.3
"""Of the changes that may be one: so many begin with the loss of a member."""


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with running_scene(tmp_path, SHORT_LOG) as made:
        yield made


class Changes:
    """Random changes of the membership, beside random faults of one member at a time."""

    def __init__(self, scene: Scene, draw: random.Random) -> None:
        self._scene = scene
        self._members = scene.members
        self._draw = draw
        self.counts: Counter[str] = Counter()

    async def make(self, count: int) -> None:
        """Until that many changes are committed. A change whose outcome was lost is asked for again and counts once."""
        with Progress(transient=True) as progress:
            bar = progress.add_task("membership changes", total=count)
            for _ in range(count):
                await asyncio.sleep(self._draw.uniform(0, 1.5))
                await self._change_one()
                progress.advance(bar)

    async def break_things(self) -> None:
        """For ever: one member is cut off, silenced, killed or stopped for a moment, and then none."""
        members, draw = self._members, self._draw
        while True:
            # Longer than an election on average: a group that never has a leader changes nothing.
            await asyncio.sleep(draw.uniform(0.3, 5))
            running = [number for number in range(len(members.addresses)) if members.is_running(number)]
            victim = draw.choice(running)
            fault = draw.choice(["cut off", "silenced", "killed"])
            self.counts[fault] += 1
            if fault == "killed":
                members.kill(victim)
            else:
                members.isolate(victim, both_ways=fault == "cut off")
            await asyncio.sleep(draw.uniform(0.2, 2.5))
            members.cuts.heal()
            if fault == "killed" and not members.is_retired(victim):
                members.start(victim)

    async def _change_one(self) -> None:
        current = await self._known_members()
        voters = [member for member in current if member.is_voter]
        # One of two voters has no majority without the other: then there is nothing to replace it with.
        if len(voters) >= FEWEST_MEMBERS and len(current) < MOST_MEMBERS and self._draw.random() < _SHARE_REPLACED:
            await self._replace(self._draw.choice(voters))
            return
        may_add, may_remove = len(current) < MOST_MEMBERS, len(current) > FEWEST_MEMBERS
        if may_add and (not may_remove or self._draw.random() < 0.5):
            request = await self._members.start_spare()
            await self._change("POST", "/v1/members", request)
            self.counts["added"] += 1
            return
        gone = self._draw.choice(current)
        with contextlib.suppress(NodeNotFoundError):  # an earlier attempt succeeded, and its answer was lost
            await self._change("DELETE", f"/v1/members/{gone.id}")
        await self._members.retire(int(gone.id.removeprefix("consensus-")) - 1)
        self.counts["removed"] += 1

    async def _replace(self, gone: ConsensusMember) -> None:
        """A member's machine is lost for good, and is still in the group: another one takes its place."""
        number = int(gone.id.removeprefix("consensus-")) - 1
        self._members.retire_process(number)
        await self._change("POST", "/v1/members", await self._members.start_spare())
        with contextlib.suppress(NodeNotFoundError):  # an earlier attempt succeeded, and its answer was lost
            await self._change("DELETE", f"/v1/members/{gone.id}")
        await self._members.retire(number)
        self.counts["replaced"] += 1

    async def _change(self, method: str, path: str, body: WireModel | None = None) -> None:
        try:
            await self._members.change(self._scene.client, method, path, body, within_s=PATIENCE_S)
        except TimeoutError:
            why = f"{method} {path} was not done in {PATIENCE_S} s: {await self._scene.describe()}"
            raise AssertionError(why) from None

    async def _known_members(self) -> list[ConsensusMember]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(TrivetError, TimeoutError):
                    leader = await self._members.leader(self._scene.client)
                    return (await self._members.status(self._scene.client, leader)).members
                await asyncio.sleep(0.05)


async def change_under_fire(scene: Scene, count: int) -> Counter[str]:
    """Make that many changes; the history of the clients is judged in the end."""
    changes = Changes(scene, random.Random(scene.registers.seed))
    async with scene.registers.load():
        await scene.wait_for_progress()
        breaking = asyncio.ensure_future(changes.break_things())
        try:
            await changes.make(count)
        finally:
            breaking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await breaking
            scene.members.cuts.heal()
            scene.members.start_ended()
        await scene.wait_for_progress()
    await scene.registers.check()
    print(dict(changes.counts), dict(scene.registers.counts))
    return changes.counts


@pytest.mark.timeout(300)
async def test_a_few_random_changes_under_faults_lose_nothing(scene: Scene) -> None:
    """Learners join, catch up by snapshot and vote; members leave, the leader among them; dead ones are replaced."""
    counts = await change_under_fire(scene, 8)
    assert _changes_in(counts) == 8


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_a_hundred_random_changes_under_faults_lose_nothing(scene: Scene) -> None:
    """The same for as long as it takes to replace everybody many times."""
    counts = await change_under_fire(scene, 100)
    assert _changes_in(counts) == 100


def _changes_in(counts: Counter[str]) -> int:
    return sum(counts[change] for change in ("added", "removed", "replaced"))
