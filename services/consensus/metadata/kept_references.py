"""What commands change in what is kept and what is not: condemned chunks, and backups that pin references.

Every check comes before the first write.
"""

from __future__ import annotations

from typing import Final

from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.decisions import lease_end_ms
from services.consensus.metadata.rows import BackupRow
from services.consensus.metadata.tables import split_digests
from shared.contracts.backups import BeginBackup, EndBackup, EndedBackup, LeasedBackup, RenewBackup
from shared.contracts.references import CondemnChunks, CondemnedChunks
from shared.errors import BackupNotFoundError, ConflictError, InvalidRequestError

BACKUPS_MAX: Final = 100
"""Under way at once."""


def condemn_chunks(context: ApplyContext, command: CondemnChunks) -> CondemnedChunks:
    """Those that nothing refers to are deleted from now on. Raises InvalidRequestError."""
    digests = split_digests(command.digests)
    if len(digests) != len(command.start_indexes):
        raise InvalidRequestError("Every digest needs its start index.", name="start_indexes")
    # A node that names one twice has recorded the higher.
    recorded: dict[bytes, int] = {}
    for digest, start_index in zip(digests, command.start_indexes, strict=True):
        recorded[digest] = max(start_index, recorded.get(digest, 0))
    condemned = context.garbage.condemned(recorded)
    stale = {digest for digest, start_index in recorded.items() if condemned.get(digest, 0) <= start_index}
    due = stale - context.tables.referenced(stale)
    context.garbage.condemn(due, context.index)
    return CondemnedChunks(condemned=len(due))


def begin_backup(context: ApplyContext, command: BeginBackup) -> LeasedBackup:
    """Pin what is referenced. Raises ConflictError."""
    rows = {row.backup_id: row for row in context.garbage.backups()}
    before = rows.get(command.backup_id)
    if before is not None and before.is_living(context.state.lived_ms):
        return _lease(before)
    if before is None and len(rows) >= BACKUPS_MAX:
        raise ConflictError("As many backups as there may be are under way; end one first.", limit=BACKUPS_MAX)
    expires_ms = lease_end_ms(context.state.lived_ms, command.lease_s)
    row = BackupRow(command.backup_id, context.index, command.owner, expires_ms)
    return _put_backup(context, before, row)


def renew_backup(context: ApplyContext, command: RenewBackup) -> LeasedBackup:
    """Its lease begins anew. Raises BackupNotFoundError."""
    before = context.garbage.backup(command.backup_id)
    if before is None or not before.is_living(context.state.lived_ms):
        raise BackupNotFoundError(
            "No such backup is under way, or its lease ran out; begin another one.", backup_id=command.backup_id
        )
    return _put_backup(
        context, before, before._replace(expires_ms=lease_end_ms(context.state.lived_ms, command.lease_s))
    )


def end_backup(context: ApplyContext, command: EndBackup) -> EndedBackup:
    """It pins nothing any more."""
    before = context.garbage.backup(command.backup_id)
    if before is not None:
        context.garbage.remove_backup(before)
    return EndedBackup(ended=before is not None and before.is_living(context.state.lived_ms))


def _put_backup(context: ApplyContext, before: BackupRow | None, row: BackupRow) -> LeasedBackup:
    if before is not None:
        context.garbage.remove_backup(before)
    context.garbage.insert_backup(row)
    return _lease(row)


def _lease(row: BackupRow) -> LeasedBackup:
    return LeasedBackup(log_index=row.log_index, expires_ms=row.expires_ms)
