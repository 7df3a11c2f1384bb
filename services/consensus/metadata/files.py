"""What commands change in files: publishing, deleting, tagging. Every check comes before the first write."""

from __future__ import annotations

from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.decisions import (
    check_content,
)
from services.consensus.metadata.older_versions import PatchRow, encode_tags
from services.consensus.metadata.stored_content import check_stored
from services.consensus.metadata.versions import (
    PresentKey,
    bucket_of_file,
    delete_current,
    fill_vacancy,
    find_version,
    no_such_version,
    present,
    remove_version,
    require_version,
    standing,
    store_current,
)
from shared.contracts.files import FileVersion, Published
from shared.contracts.metadata import DeleteFile, PublishFile
from shared.contracts.names import check_tags
from shared.contracts.objects import DeletedFile, SetTags, TaggedFile
from shared.errors import BucketRecreatedError, FileNotFoundInBucketError


def publish_file(context: ApplyContext, command: PublishFile) -> Published:
    """The new version is visible from this entry on. Raises the rejections of `PublishFile`."""
    key = context.checked_key(command.key)
    check_content(command.content)
    check_tags(command.tags or {})
    bucket = bucket_of_file(context, command.bucket, key)
    if bucket.incarnation != command.incarnation:
        raise BucketRecreatedError(
            "The bucket was deleted and made again while this upload was under way; start it again.",
            bucket=bucket.name,
            incarnation=bucket.incarnation,
        )
    check_stored(context, command)
    before = present(context, bucket, key)
    context.check_preconditions(command.preconditions, before.file, before.tombstone)
    version = FileVersion(
        bucket=bucket.name,
        key=command.key,
        version=context.index,
        term=context.term,
        etag=command.etag,
        content=command.content,
        content_type=command.content_type,
        user_metadata=command.user_metadata,
        epoch=command.epoch,
        durability=command.durability,
        stamp=context.stamp,
        owner=context.owner_id,
        s3=command.s3,
        **standing(context, before),
    )
    store_current(context, before, version, command.tags)
    # Of parts that were checked just now: nothing else is applied as often.
    return Published.model_construct(created=before.file is None, version=version)


def delete_file(context: ApplyContext, command: DeleteFile) -> DeletedFile:
    """The file, or one version of it, is gone from this entry on. Raises the rejections of `DeleteFile`."""
    key = context.checked_key(command.key)
    before = present(context, bucket_of_file(context, command.bucket, key), key, is_deletion=True)
    if command.version is not None:
        return _delete_version(context, command, before, command.version)
    if before.file is None:
        # Before the preconditions: they count only where the answer would otherwise be a success (RFC 9110, 13.2.1).
        raise FileNotFoundInBucketError(
            "There is no such file.", bucket=before.bucket.name, key=command.key, version=before.last_changed
        )
    context.check_preconditions(command.preconditions, before.file, None)
    return delete_current(context, before, before.file)


def _delete_version(context: ApplyContext, command: DeleteFile, before: PresentKey, number: int) -> DeletedFile:
    found = find_version(context.tables, context.older, before.bucket.incarnation, before.key, number)
    if found is None:
        raise no_such_version(before, command.key)
    context.check_preconditions(command.preconditions, None if found.is_marker else found.file, None)
    removal = remove_version(context, before, found)
    if removal.vacated is not None:
        fill_vacancy(context, before.bucket, before.key, removal.vacated)
    return removal.deleted


def set_tags(context: ApplyContext, command: SetTags) -> TaggedFile:
    """Replace the tags of a version. Raises the rejections of `SetTags`."""
    key = context.checked_key(command.key)
    tags = check_tags(command.tags or {})
    before = present(context, bucket_of_file(context, command.bucket, key), key)
    found = require_version(context, before, command.key, command.version)
    context.older.set_patch(PatchRow(found.file.version, context.index, encode_tags(tags)))
    return TaggedFile(version=found.known_as, patch_index=context.index)
