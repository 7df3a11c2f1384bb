"""D3: consensus members lose power under load; term, vote and log never go back, and nothing acknowledged is lost."""

from __future__ import annotations

import random

import pytest

from tests.faults.disk.member_disks import MemberDisks
from tests.integration.consensus.history import Registers
from tests.integration.consensus.members import Members
from tests.integration.consensus.scene import Scene

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


async def test_members_that_lose_power_forget_nothing_that_they_told(mounts, tmp_path, seed, repetitions):
    """One member at a time, the leader every other time, and all of them at every tenth cut."""
    draw = random.Random(seed)
    members = Members(tmp_path)
    disks = MemberDisks(mounts, members, tmp_path)
    cuts = repetitions(5, 100)
    leaders_cut = 0
    async with members.running() as (client, consensus):
        scene = Scene(members, client, consensus)
        scene.registers = Registers(consensus, seed=seed)
        async with scene.registers.load():
            for cut in range(1, cuts + 1):
                await scene.wait_for_progress(writes=draw.randrange(3, 30))
                leader = await members.leader(client)
                victims = [leader if draw.random() < 0.5 else draw.randrange(3)] if cut % 10 else [0, 1, 2]
                leaders_cut += leader in victims
                print(f"{cut}/{cuts}: {victims}", flush=True)
                await disks.lose_power(client, *victims)
                for victim in victims:
                    members.start(victim)
        await scene.wait_until_all_agree()
        await scene.registers.check()
        for number in range(3):
            members.kill(number)
        logs = [disks.entries(number) for number in range(3)]
    in_all = logs[0].keys() & logs[1].keys() & logs[2].keys()
    assert in_all
    assert all(logs[0][index] == logs[1][index] == logs[2][index] for index in in_all)
    print(f"{cuts} cuts, {leaders_cut} of them of leaders; {len(in_all)} entries in all logs; {scene.registers.counts}")
