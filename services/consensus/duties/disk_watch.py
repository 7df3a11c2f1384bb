"""Gives leadership away before the disk is full: a leader that cannot write stops the cluster, a follower only itself (C-39).

A write that fails all the same ends the process (`Member.fatal`), and the others elect a leader.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final

import structlog

from services.consensus.member import Member
from shared.background_tasks import BackgroundTasks

logger = structlog.get_logger(__name__)

CHECK_INTERVAL_S: Final = 1.0


def watch_disk(tasks: BackgroundTasks, member: Member, folder: Path, reserve_bytes: int) -> None:
    """Compare the free space of `folder`'s file system with the reserve, again and again."""

    async def look() -> None:
        try:
            free_bytes = (await asyncio.to_thread(shutil.disk_usage, folder)).free
        except OSError as error:
            logger.warning("disk space cannot be read", error=str(error))
            return
        is_low = free_bytes < reserve_bytes
        if is_low != member.raft.is_low_on_disk:
            logger.warning("disk space", is_low=is_low, free_bytes=free_bytes, reserve_bytes=reserve_bytes)
            member.raft.is_low_on_disk = is_low
        role = member.leader_role
        if is_low and role is not None:
            target = role.transfer()
            logger.warning("handing over leadership for want of disk space", to=target)

    tasks.every("disk watch", CHECK_INTERVAL_S, look, first_after_s=0, on_ticks=True)
