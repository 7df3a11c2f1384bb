"""Backups under way: while one lives, the chunks of versions that are deleted meanwhile are kept.

A backup is an entry in the log with a lease. Whoever copies renews it, and ends it when the copy is done; one whose owner
went away ends by itself. It keeps chunks, it copies nothing.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter, ValidationError

from services.gateway.ports import Metadata
from shared.contracts.backups import Backup, BackupId, BeginBackup, EndBackup, LeasedBackup, ListBackups, RenewBackup
from shared.contracts.calls import Proposed
from shared.contracts.time import TimeSource
from shared.errors import BackupNotFoundError

DEFAULT_LEASE_S: Final = 86_400
_ID: Final[TypeAdapter[str]] = TypeAdapter(BackupId)


@dataclass(frozen=True, slots=True)
class BackupLease:
    """One backup that was begun or renewed just now; `lease_s` from now on."""

    backup_id: str
    log_index: int
    lease_s: int


class Backups:
    """Each call is one entry in the log, or one linearizable read."""

    def __init__(self, metadata: Metadata, clock: TimeSource) -> None:
        self._metadata = metadata
        self._clock = clock

    async def begin(self, owner: str, lease_s: int) -> BackupLease:
        """Keep what is referenced now.

        Raises:
            ConflictError: too many are under way; definite.
        """
        backup_id = secrets.token_hex(8)
        command = BeginBackup(backup_id=backup_id, owner=owner, lease_s=lease_s, stamp=self._clock.stamp())
        return _lease(backup_id, lease_s, await self._metadata.propose(command))

    async def renew(self, backup_id: str, lease_s: int) -> BackupLease:
        """The lease begins anew.

        Raises:
            BackupNotFoundError: it ended, or its lease ran out; definite.
        """
        _check(backup_id)
        command = RenewBackup(backup_id=backup_id, lease_s=lease_s, stamp=self._clock.stamp())
        return _lease(backup_id, lease_s, await self._metadata.propose(command))

    async def end(self, backup_id: str) -> None:
        """Keep nothing more for it.

        Raises:
            BackupNotFoundError: it had ended, or its lease had run out; definite.
        """
        _check(backup_id)
        outcome = await self._metadata.propose(EndBackup(backup_id=backup_id, stamp=self._clock.stamp()))
        if not outcome.result.ended:
            raise BackupNotFoundError("No such backup is under way.", backup_id=backup_id)

    async def list(self) -> list[Backup]:
        """Those under way, by id."""
        answer, _ = await self._metadata.read(ListBackups())
        return answer.backups


def _check(backup_id: str) -> None:
    # What the log would not take as an id was never given out as one.
    try:
        _ID.validate_python(backup_id)
    except ValidationError as error:
        raise BackupNotFoundError("No such backup is under way.", backup_id=backup_id[:64]) from error


def _lease(backup_id: str, lease_s: int, outcome: Proposed[LeasedBackup]) -> BackupLease:
    return BackupLease(backup_id, outcome.result.log_index, lease_s)
