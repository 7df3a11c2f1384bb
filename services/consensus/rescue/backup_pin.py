"""Keeps the chunks that a backup needs while it is copied: an entry in the log, taken before the metadata and renewed meanwhile.

Without it the list of chunks in a backup could name chunks that are deleted before anybody has copied them. The pin stays when
the metadata is copied, because the chunks are copied afterwards; it ends by command or with its lease.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from shared.background_tasks import BackgroundTasks
from shared.consensus_calls.client import ReadContext
from shared.contracts.backups import BeginBackup, EndBackup, RenewBackup
from shared.contracts.calls import AnswerT, Command, Proposed, Query, ResultT
from shared.contracts.metadata import GetCluster
from shared.contracts.time import ClockState, Stamp
from shared.errors import TrivetError

RENEWALS_PER_LEASE: Final = 4
"""So that a few may fail before it runs out."""


class Log(Protocol):
    """`shared.consensus_calls.client.ConsensusClient` is the real one."""

    async def propose(self, command: Command[ResultT]) -> Proposed[ResultT]:
        """Have `command` ordered; raises the typed error of a rejection."""

    async def read(self, query: Query[AnswerT]) -> tuple[AnswerT, ReadContext]:
        """A linearizable answer."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Chunks that are referenced at `log_index` are kept for `lease_s` from the last renewal on."""

    backup_id: str
    log_index: int
    lease_s: int


@asynccontextmanager
async def pinned(log: Log, owner: str, lease_s: int) -> AsyncIterator[Pin]:
    """Keep the chunks while the block runs, and for a whole lease after it; if the block fails, no longer.

    Raises:
        UpgradeUnfinishedError, InvalidRequestError: members do not know pins yet; such a cluster deletes no chunks either.
        LeaderUnavailableError: there is no leader.
        BackupNotFoundError: at the end: the lease ran out in between, so chunks may have been deleted.
    """
    backup_id = secrets.token_hex(8)
    command = BeginBackup(backup_id=backup_id, owner=owner, lease_s=lease_s, stamp=await _stamp(log))
    outcome = await log.propose(command)
    pin = Pin(backup_id, outcome.result.log_index, lease_s)
    try:

        async def step() -> None:
            # That the lease ran out meanwhile shows at the end.
            await renew(log, pin.backup_id, lease_s)

        async with BackgroundTasks() as tasks:
            tasks.every("renewal of a backup", lease_s / RENEWALS_PER_LEASE, step)
            yield pin
        await renew(log, pin.backup_id, lease_s)
    except BaseException:
        with contextlib.suppress(TrivetError):
            await end(log, pin.backup_id)
        raise


async def renew(log: Log, backup_id: str, lease_s: int) -> Pin:
    """The lease begins anew. Raises BackupNotFoundError when it ran out or was ended."""
    command = RenewBackup(backup_id=backup_id, lease_s=lease_s, stamp=await _stamp(log))
    outcome = await log.propose(command)
    return Pin(backup_id, outcome.result.log_index, lease_s)


async def end(log: Log, backup_id: str) -> bool:
    """Keep nothing more for it; false when it was not under way."""
    outcome = await log.propose(EndBackup(backup_id=backup_id, stamp=await _stamp(log)))
    return outcome.result.ended


async def _stamp(log: Log) -> Stamp:
    """The cluster's own time: the clock of the machine that copies has no say in it."""
    _, context = await log.read(GetCluster())
    return Stamp(hlc=context.hlc, state=ClockState.LOGICAL)
