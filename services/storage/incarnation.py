"""Whose acknowledgements are these? Recognises the disk and the Redis behind a node's name (S-95).

A node that comes back under its name with an empty, copied or older folder must not count for what it acknowledged before.
So the data folder has a random id and a counter that only rises, every run of the process has a random boot id, and Redis has
an id of its own. Heartbeats carry all of them; the log decides, and answers with a fence: a number that the node sends with
every acknowledgement, and that a publish names. Without one it acknowledges nothing.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn

import structlog

from shared.background_tasks import BackgroundTasks
from shared.contracts.cluster import HeartbeatResponse, NodeRun
from shared.disk.durable_files import replace_file
from shared.errors import NotReadyError
from shared.settings import refuse_to_start

logger = structlog.get_logger(__name__)

DISK_IDENTITY_NAME: Final = "disk-identity"
RAISE_INTERVAL_S: Final = 600.0
"""A volume that is rolled back by more than this is noticed by its counter alone."""

_LINE: Final = re.compile(r"1 ([0-9a-f]{32}) ([1-9][0-9]{0,17}) ([0-9a-f]{8})\n")
"""Format version, disk id, counter, CRC-32 of what is before it."""


@dataclass(frozen=True, slots=True)
class DiskIdentity:
    """A data folder's random id, and how often its counter was raised."""

    disk_id: str
    counter: int


def raise_counter(folder: Path) -> DiskIdentity:
    """Raise the counter of `folder` by one, durably; a folder without an identity gets one. Blocks.

    Ends the process with one sentence when the identity is damaged: it could neither be believed nor replaced by another one
    without saying that everything on this disk is lost.

    Raises:
        OSError: it cannot be read or written.
    """
    path = folder / DISK_IDENTITY_NAME
    try:
        found = _decode(path.read_bytes())
    except FileNotFoundError:
        found = DiskIdentity(secrets.token_hex(16), 0)
    if found is None:
        refuse_to_start(
            f"{path} is damaged; restore it, or remove it: then nothing that this node acknowledged before counts any more"
        )
    raised = replace(found, counter=found.counter + 1)
    replace_file(path, _encode(raised))
    return raised


def _encode(identity: DiskIdentity) -> bytes:
    body = f"1 {identity.disk_id} {identity.counter} "
    return f"{body}{zlib.crc32(body.encode()):08x}\n".encode()


def _decode(line: bytes) -> DiskIdentity | None:
    match = _LINE.fullmatch(line.decode("ascii", "replace"))
    if match is None:
        return None
    found = DiskIdentity(match[1], int(match[2]))
    return found if _encode(found) == line else None


class Incarnation:
    """This run of the node, and the fence under which it may acknowledge.

    Invariant: `fence` is None unless the log has recorded the disk of this run, or cannot record disks yet.
    """

    def __init__(self, folder: Path, redis_id: Callable[[], str | None], *, is_redis_record: bool) -> None:
        self._folder = folder
        self._redis_id = redis_id
        self._is_redis_record = is_redis_record
        self._boot_id = secrets.token_hex(16)
        self._disk: DiskIdentity | None = None
        self._recorded_redis_id: str | None = None
        self._is_superseded = False
        self.fence: int | None = None
        self.heartbeat_wanted = asyncio.Event()
        """Set when what the log knows of this run is out of date."""

    async def start(self) -> None:
        """Raise the counter of the folder. Raises OSError."""
        self._disk = await asyncio.to_thread(raise_counter, self._folder)
        logger.info("this disk", disk_id=self._disk.disk_id, counter=self._disk.counter, boot_id=self._boot_id)

    def keep_raising(self, tasks: BackgroundTasks) -> asyncio.Task[NoReturn]:
        """Raise the counter again and again, so that an older copy of the folder is known by its counter."""
        return tasks.every("disk counter", RAISE_INTERVAL_S, self._raise)

    async def _raise(self) -> None:
        try:
            self._disk = await asyncio.to_thread(raise_counter, self._folder)
        except OSError as error:
            logger.warning("the counter of this disk could not be raised", error=str(error))

    def run(self) -> NodeRun:
        """As the next heartbeat says it."""
        assert self._disk is not None, "the node was started"
        return NodeRun(
            disk_id=self._disk.disk_id,
            counter=self._disk.counter,
            boot_id=self._boot_id,
            redis_id=self._redis_id(),
            is_redis_record=self._is_redis_record,
        )

    def record(self, run: NodeRun, answer: HeartbeatResponse) -> None:
        """What the leader made of a heartbeat that said `run`."""
        if self._is_superseded:
            return
        if answer.fence != self.fence:
            logger.info("acknowledging under another fence", fence=answer.fence, epoch=answer.epoch)
        self.fence = answer.fence
        self._recorded_redis_id = run.redis_id

    def supersede(self) -> None:
        """Another process runs under this node's name: this one never acknowledges again."""
        self._is_superseded = True
        self.fence = None

    def require_fence(self) -> int:
        """What goes with an acknowledgement; to be asked before anything is stored, so that it never says too much.

        Raises:
            NotReadyError: nothing may be acknowledged now; definite.
        """
        if self._redis_id() != self._recorded_redis_id:
            self.heartbeat_wanted.set()
            # Elsewhere Redis is not the record: the old fence is refused when it is too old.
            if self._is_redis_record:
                raise NotReadyError("Consensus has not recorded this node's Redis yet.")
        if self.fence is None:
            reason = "Another process runs under this node's name" if self._is_superseded else _NOT_RECORDED
            raise NotReadyError(f"{reason}: it acknowledges nothing.")
        return self.fence


_NOT_RECORDED: Final = "Consensus has not admitted this node and recorded its disk yet"
