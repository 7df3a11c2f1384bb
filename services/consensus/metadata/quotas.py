"""May a bucket and an identity have what an entry would leave them with? Decided once per entry, at its end.

An entry that would end above a quota, and above what there was before it, is refused whole; one that does not raise what is
limited always passes, so that whoever is above a lowered quota can delete, tag, and replace by less. Nothing but the end of an
entry can be held against a quota: replacing a file, joining parts and moving one take away what they add.

A refused entry has written rows by then, so one that may be refused runs in a savepoint. An entry of a bucket and an identity
without quotas pays nothing for that.
"""

from __future__ import annotations

from typing import Final

from services.consensus.metadata.access_records import AccessRecords
from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.commands import run
from services.consensus.metadata.schema import BUCKET_USAGE
from services.consensus.metadata.usage import IDENTITY_USAGE, Holder, UsageChange
from shared.contracts.access import IdentityLimits
from shared.contracts.base import WireModel
from shared.contracts.metadata import AnyCommand, PublishFile
from shared.contracts.objects import BucketSettings, CopyFile
from shared.contracts.uploads import CompleteUpload, CopyPart, PutPart
from shared.errors import QuotaExceededError

_RAISING: Final = (PublishFile, CopyFile, PutPart, CopyPart, CompleteUpload)
"""Commands after which there may be more than before. To remove a version, and to bring an older one back, is never that."""

NO_LIMITS: Final = IdentityLimits()
_KNOWN_MAX: Final = 20_000


def run_within_quotas(context: ApplyContext, command: AnyCommand) -> WireModel:
    """Apply one command.

    Raises:
        QuotaExceededError: a bucket or an identity would have too much; nothing was changed.
        TrivetError: another rejection; nothing was changed.
    """
    usage = context.tables.usage
    if not may_exceed(context, command):
        result = run(context, command)
        usage.end_entry()
        return result
    with context.tables.database.savepoint():
        try:
            result = run(context, command)
            for change in usage.changes():
                check_quota(context, change)
        except BaseException:
            usage.undo_entry()
            raise
    usage.end_entry()
    return result


def may_exceed(context: ApplyContext, command: AnyCommand) -> bool:
    """Whether a quota may stand against the entry. False is certain."""
    if not context.knows_objects or not isinstance(command, _RAISING):
        return False
    if not isinstance(command, PublishFile):
        return True  # it does not say where its bytes go, or whose they are, and is not the most frequent one
    bucket = context.bucket(command.bucket)
    of_bucket: BucketSettings | IdentityLimits = NO_LIMITS
    if bucket is not None:
        of_bucket = context.settings_of(bucket.incarnation)
    return _has_quota(of_bucket) or (context.owner is not None and _has_quota(limits_of(context, context.owner)))


def _has_quota(limits: BucketSettings | IdentityLimits) -> bool:
    return limits.quota_bytes is not None or limits.quota_files is not None


def check_quota(context: ApplyContext, change: UsageChange) -> None:
    """Raises QuotaExceededError: there is more than before, and more than there may be."""
    limits = _limits_of(context, change.holder)
    before, after = change.before, change.after
    for unit, limit, used, total in (
        ("bytes", limits.quota_bytes, before.size_bytes, after.size_bytes),
        ("files", limits.quota_files, before.files, after.files),
    ):
        if limit is not None and total > max(limit, used):
            raise QuotaExceededError(
                f"The {change.holder.kind} would have more {unit} than it may have.",
                of=change.holder.kind,
                unit=unit,
                limit=limit,
                used=used,
                needed=total - used,
            )


def _limits_of(context: ApplyContext, holder: Holder) -> BucketSettings | IdentityLimits:
    kind, name = holder
    if kind == BUCKET_USAGE and isinstance(name, int):
        return context.settings_of(name)
    return limits_of(context, name) if kind == IDENTITY_USAGE and isinstance(name, bytes) else NO_LIMITS


def limits_of(context: ApplyContext, identity: bytes) -> IdentityLimits:
    """What an identity may have now; one that is gone has no limits of its own."""
    known = context.limits
    if known.access_index != context.state.access_index or len(known.by_identity) > _KNOWN_MAX:
        known.access_index = context.state.access_index
        known.by_identity.clear()
    if identity not in known.by_identity:
        row = AccessRecords(context.tables).identity(identity.hex())
        known.by_identity[identity] = NO_LIMITS if row is None or row.is_deleted else row.grants()[1]
    return known.by_identity[identity]
