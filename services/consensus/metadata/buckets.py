"""What commands change in buckets. Every check comes before the first write."""

from __future__ import annotations

from typing import Final

from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.bucket_records import DocumentRow, SettingsRow
from services.consensus.metadata.rows import BucketRow
from services.consensus.metadata.upload_records import UploadRecords, UploadRow
from services.consensus.metadata.uploads import abort
from shared.contracts.access import ACCESS_DOCUMENTS
from shared.contracts.calls import NoResult
from shared.contracts.metadata import CreateBucket, CreatedBucket, DeleteBucket
from shared.contracts.names import DEFAULT_BUCKET, check_bucket_name
from shared.contracts.objects import (
    BucketSettings,
    DeleteBucketDocument,
    DeletedDocument,
    PutBucketDocument,
    PutBucketSettings,
    PutSettings,
)
from shared.errors import (
    BackupPinsVersionsError,
    BucketNotEmptyError,
    BucketProtectedError,
    ConflictError,
    TooManyBucketsError,
    VersioningCannotBeOffError,
)

DOCUMENTS_MAX: Final = 64
"""Of one bucket."""

ABORTED_UPLOADS_MAX: Final = 250
"""Uploads that end with their bucket: one entry never stops the member for long, whoever goes on beginning them."""


def create_bucket(context: ApplyContext, command: CreateBucket) -> CreatedBucket:
    """Make it, unless it exists. Raises InvalidNameError, TooManyBucketsError."""
    name = check_bucket_name(command.bucket)
    if (bucket := context.bucket(name)) is not None:
        return CreatedBucket(created=False, incarnation=bucket.incarnation)
    if command.limit is not None and context.tables.bucket_count() >= command.limit:
        raise TooManyBucketsError("There are as many buckets as there may be; delete one first.", limit=command.limit)
    insert_bucket(context, name)
    return CreatedBucket(created=True, incarnation=context.index)


def delete_bucket(context: ApplyContext, command: DeleteBucket) -> NoResult:
    """Take an empty one away. Raises BucketProtectedError, BucketNotFoundError, BucketNotEmptyError."""
    if command.bucket == DEFAULT_BUCKET:
        raise BucketProtectedError(f"The bucket {DEFAULT_BUCKET!r} always exists.", bucket=DEFAULT_BUCKET)
    bucket = context.existing_bucket(command.bucket)
    if context.tables.has_files(bucket.incarnation):
        raise BucketNotEmptyError("The bucket still holds files; delete them first.", bucket=bucket.name)
    if context.knows_objects:
        _check_nothing_is_kept(context, bucket)
        for upload in _uploads_to_abort(context, bucket, aborts=bool(command.aborts_uploads)):
            abort(context, upload)
        if context.records.access_index(bucket.incarnation):
            # A bucket of the same name may follow, to which what the documents of this one granted does not apply.
            context.raise_access_index()
        context.records.forget(bucket.incarnation)
    context.tables.end_bucket(bucket, context.index)
    context.buckets[bucket.name] = None
    return NoResult()


def insert_bucket(context: ApplyContext, name: str) -> None:
    """A bucket of this entry."""
    context.buckets[name] = bucket = BucketRow(context.index, name, context.stamp.approximate_ns)
    context.tables.insert_bucket(bucket)


def _check_nothing_is_kept(context: ApplyContext, bucket: BucketRow) -> None:
    if context.older.has_any(bucket.incarnation):
        raise BucketNotEmptyError(
            "The bucket still holds older versions or delete markers; delete them by version first.", bucket=bucket.name
        )


def _uploads_to_abort(context: ApplyContext, bucket: BucketRow, *, aborts: bool) -> list[UploadRow]:
    """All that are under way. Raises BucketNotEmptyError: they are more than may be aborted."""
    limit = ABORTED_UPLOADS_MAX if aborts else 0
    uploads = UploadRecords(context.tables).under_way(bucket.incarnation, limit + 1)
    if len(uploads) > limit:
        raise BucketNotEmptyError("Uploads by parts are under way in the bucket; abort them first.", bucket=bucket.name)
    return uploads


# --- settings and documents -----------------------------------------------------------------------------------------


def put_bucket_settings(context: ApplyContext, command: PutBucketSettings) -> PutSettings:
    """They are in force from this entry on. Raises the rejections of `PutBucketSettings`."""
    bucket = context.existing_bucket(command.bucket)
    before, new, answered = context.settings_of(bucket.incarnation), command.settings, None
    if command.names is not None:
        new = answered = before.model_copy(update={name: getattr(new, name) for name in command.names})
    if new == before:
        row = context.records.settings(bucket.incarnation)
        return PutSettings(log_index=0 if row is None else row.log_index, settings=answered)
    if new.versioning == "off" and before.versioning != "off":
        raise VersioningCannotBeOffError(
            "This bucket keeps versions; it can stop keeping more of them: suspended.", bucket=bucket.name
        )
    if _is_shortened(before, new):
        _check_no_backup_lives(context, bucket)
    context.records.put_settings(SettingsRow(bucket.incarnation, context.index, new.model_dump_json().encode()))
    context.settings[bucket.incarnation] = new
    return PutSettings(log_index=context.index, settings=answered)


def _is_shortened(before: BucketSettings, new: BucketSettings) -> bool:
    if before.versioning == "off" or new.superseded_retention_s is None:
        return False
    return before.superseded_retention_s is None or new.superseded_retention_s < before.superseded_retention_s


def _check_no_backup_lives(context: ApplyContext, bucket: BucketRow) -> None:
    for backup in context.garbage.backups():
        if backup.is_living(context.state.lived_ms):
            raise BackupPinsVersionsError(
                "A backup is under way; keep older versions as long as before until it ends, or end it.",
                bucket=bucket.name,
                backup_id=backup.backup_id,
            )


def put_bucket_document(context: ApplyContext, command: PutBucketDocument) -> NoResult:
    """It replaces one of its kind. Raises BucketNotFoundError, ConflictError."""
    bucket = context.existing_bucket(command.bucket)
    is_new = context.records.document(bucket.incarnation, command.kind_name) is None
    if is_new and context.records.document_count(bucket.incarnation) >= DOCUMENTS_MAX:
        raise ConflictError("The bucket has as many documents as it may have.", limit=DOCUMENTS_MAX)
    context.records.put_document(DocumentRow(bucket.incarnation, command.kind_name, context.index, command.body))
    _document_changed(context, bucket, command.kind_name)
    return NoResult()


def delete_bucket_document(context: ApplyContext, command: DeleteBucketDocument) -> DeletedDocument:
    """There is none of that kind from here on. Raises BucketNotFoundError."""
    bucket = context.existing_bucket(command.bucket)
    is_deleted = context.records.remove_document(bucket.incarnation, command.kind_name)
    if is_deleted:
        _document_changed(context, bucket, command.kind_name)
    return DeletedDocument(deleted=is_deleted)


def _document_changed(context: ApplyContext, bucket: BucketRow, kind: str) -> None:
    if kind in ACCESS_DOCUMENTS:
        context.records.raise_access_index(bucket.incarnation, context.index)
        context.raise_access_index()
