"""Backups under way: they keep the chunks of versions that are deleted after they began, as long as their lease holds.

Part of the commands, queries and answers of `shared.contracts.metadata`, which says how they are sent.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from shared.contracts.base import WireModel
from shared.contracts.calls import Command, Query
from shared.contracts.time import Stamp

LEASE_MAX_S: Final = 30 * 86_400
"""The longest lease of a backup; it can be renewed."""

BackupId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class LeasedBackup(WireModel):
    """Since when it keeps chunks, and the age of the cluster, by the log's own clock, at which its lease runs out."""

    log_index: int
    expires_ms: int


class BeginBackup(Command[LeasedBackup]):
    """Keep the chunks of every version that is deleted from here on.

    Beginning it again changes nothing. Rejected: conflict, when
    too many are under way.

    Attributes:
        owner: for people: who copies, and where to.
        lease_s: how long it holds unless it is renewed.
    """

    kind: Literal["begin_backup"] = "begin_backup"
    backup_id: BackupId
    owner: str = Field(max_length=256)
    lease_s: int = Field(ge=1, le=LEASE_MAX_S)
    stamp: Stamp


class RenewBackup(Command[LeasedBackup]):
    """It goes on: the lease begins anew. Rejected: backup_not_found."""

    kind: Literal["renew_backup"] = "renew_backup"
    backup_id: BackupId
    lease_s: int = Field(ge=1, le=LEASE_MAX_S)
    stamp: Stamp


class EndedBackup(WireModel):
    """Whether it was under way; its lease may have run out."""

    ended: bool


class EndBackup(Command[EndedBackup]):
    """It is done, or given up."""

    kind: Literal["end_backup"] = "end_backup"
    backup_id: BackupId
    stamp: Stamp


class Backup(WireModel):
    """A backup under way: chunks of versions that are deleted after `log_index` are kept until it ends or expires."""

    backup_id: str
    owner: str
    log_index: int
    expires_in_s: int


class BackupsAnswer(WireModel):
    """By id."""

    kind: Literal["backups"] = "backups"
    backups: list[Backup]


class ListBackups(Query[BackupsAnswer]):
    """The backups under way."""

    kind: Literal["list_backups"] = "list_backups"
