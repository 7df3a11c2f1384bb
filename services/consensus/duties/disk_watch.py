"""Gives leadership away before the disk is full: a leader that cannot write stops the cluster, a follower only itself (C-39).

A write that fails all the same ends the process (`Member.fatal`), and the others elect a leader.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final, NoReturn

import structlog

from services.consensus.member import Member
from shared.background_tasks import sleep_to_tick

logger = structlog.get_logger(__name__)

CHECK_INTERVAL_S: Final = 1.0


async def watch_disk(member: Member, folder: Path, reserve_bytes: int) -> NoReturn:
    """Run for ever: compare the free space of `folder`'s file system with the reserve."""
    while True:
        try:
            free_bytes = (await asyncio.to_thread(shutil.disk_usage, folder)).free
        except OSError as error:
            logger.warning("disk space cannot be read", error=str(error))
            await sleep_to_tick(CHECK_INTERVAL_S)
            continue
        is_low = free_bytes < reserve_bytes
        if is_low != member.raft.is_low_on_disk:
            logger.warning("disk space", is_low=is_low, free_bytes=free_bytes, reserve_bytes=reserve_bytes)
            member.raft.is_low_on_disk = is_low
        role = member.leader_role
        if is_low and role is not None:
            target = role.transfer()
            logger.warning("handing over leadership for want of disk space", to=target)
        await sleep_to_tick(CHECK_INTERVAL_S)
