"""D13: the disk of the consensus leader fills up, first to its reserve and then to the last byte."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from shared.units import MIB
from tests.faults.disk.member_disks import MemberDisks
from tests.integration.consensus.history import Registers
from tests.integration.consensus.members import Members
from tests.integration.consensus.scene import Scene

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

_RESERVE_BYTES = 64 * MIB


def fill(path: Path, *, leave_bytes: int) -> None:
    """Add ballast until so much is free."""
    with path.open("ab", buffering=0) as file:
        try:
            while shutil.disk_usage(path.parent).free > leave_bytes:
                file.write(bytes(MIB))
        except OSError:
            return


async def test_a_leader_whose_disk_fills_up_hands_over(mounts, tmp_path, seed):
    """Leadership moves within 8 s, before a write fails; with no byte left it stays out, and rejoins when there is room."""
    members = Members(tmp_path)
    disks = MemberDisks(mounts, members, tmp_path, size_bytes=192 * MIB)
    async with members.running() as (client, consensus):
        scene = Scene(members, client, consensus)
        scene.registers = Registers(consensus, seed=seed)
        async with scene.registers.load():
            await scene.wait_for_progress()
            leader = await members.leader(client)
            ballast = disks.disks[leader].folder / "ballast"
            began = time.monotonic()
            await asyncio.to_thread(fill, ballast, leave_bytes=_RESERVE_BYTES // 2)
            while await members.leader(client) == leader:  # noqa: ASYNC110 another process
                await asyncio.sleep(0.05)
            took_s = time.monotonic() - began
            print(f"another member led after {took_s:.2f} s")
            assert took_s <= 8
            await asyncio.to_thread(fill, ballast, leave_bytes=0)
            await scene.wait_for_progress(writes=60)
            assert await members.leader(client) != leader
            ballast.unlink()
            if members.exit_code(leader) is not None:
                members.start(leader)
            await scene.wait_for_progress()
        await scene.wait_until_all_agree()
        await scene.registers.check()
