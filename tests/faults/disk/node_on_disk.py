"""A storage node and its Redis that keep everything on one loop disk, as a machine does that loses power."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.faults.tools.loop_disk import LoopDisk
from tests.faults.tools.mounts import Mounts
from tests.integration.storage.support import RedisServer, StorageProcess

PATIENT = {"TRIVET_REDIS_DEADLINE_MS": "5000"}
"""A busy test machine is no hung Redis."""


class NodeOnDisk:
    """Started by the constructor; ended, with its disk, by `Mounts`."""

    def __init__(self, mounts: Mounts, disk: LoopDisk, mode: str, **extra: str) -> None:
        self.disk = disk
        self.redis = None if mode == "disk" else RedisServer(disk.folder / "redis")
        # The log is not on the disk that is cut: it must tell what happened then.
        self.node = StorageProcess(
            disk.image.parent / "node",
            redis=self.redis,
            mode=mode,
            extra={"TRIVET_DATA_DIR": str(disk.folder / "node"), **PATIENT, **extra},
        )
        mounts.before_removal(self.kill)
        self.start()

    def start(self, wrapper: Sequence[str] = ()) -> None:
        if self.redis is not None:
            self.redis.start()
        self.node.wrapper = list(wrapper)
        self.node.start()

    def kill(self) -> None:
        self.node.kill()
        if self.redis is not None:
            self.redis.kill()

    @property
    def pids(self) -> list[int]:
        started = [self.node.process, None if self.redis is None else self.redis.process]
        return [process.pid for process in started if process is not None and process.poll() is None]

    async def lose_power(self) -> None:
        """In an instant; then power returns to a machine on which nothing runs."""
        self.disk.cut_power(self.pids)
        await asyncio.to_thread(self._end_and_restore)

    def _end_and_restore(self) -> None:
        self.kill()
        self.disk.restore_power()
