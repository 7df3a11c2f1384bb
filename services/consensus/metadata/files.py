"""What commands change in files: publishing and deleting. Every check comes before the first write."""

from __future__ import annotations

from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.decisions import (
    check_acknowledging_nodes,
    check_content,
    check_no_node_drains,
    check_preconditions,
    check_start_index,
    next_modified_ns,
)
from services.consensus.metadata.garbage import check_not_condemned
from services.consensus.metadata.rows import BucketRow, TombstoneRow
from shared.contracts.files import FileVersion, Published
from shared.contracts.metadata import DeleteFile, PublishFile
from shared.contracts.names import check_key
from shared.contracts.objects import DeletedFile
from shared.errors import BucketNotFoundError, BucketRecreatedError, FileNotFoundInBucketError


def publish_file(context: ApplyContext, command: PublishFile) -> Published:
    """The new version is visible from this entry on. Raises the rejections of `PublishFile`."""
    key = check_key(command.key).encode()
    check_content(command.content)
    bucket = _bucket_of_file(context, command.bucket, key)
    if bucket.incarnation != command.incarnation:
        raise BucketRecreatedError(
            "The bucket was deleted and made again while this upload was under way; start it again.",
            bucket=bucket.name,
            incarnation=bucket.incarnation,
        )
    check_acknowledging_nodes(command, context.nodes, context.runs)
    if context.knows_garbage:
        check_start_index(command, context.index)
        check_no_node_drains(command, context.nodes)
        check_not_condemned(command, context.garbage)
    file = context.tables.file(bucket.incarnation, key)
    tombstone = context.history.tombstone(bucket.name, key) if file is None else None
    check_preconditions(command.preconditions, file, tombstone)
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
        modified_ns=next_modified_ns(tombstone or file, context.stamp),
    )
    if file is not None:
        context.tables.remove_file(bucket.incarnation, file)
        context.history.add(bucket.incarnation, file, context.index)
    if tombstone is not None:
        context.history.remove_tombstone(tombstone)
    context.tables.insert_version(bucket.incarnation, version)
    return Published(created=file is None, version=version)


def delete_file(context: ApplyContext, command: DeleteFile) -> DeletedFile:
    """The file is absent from this entry on. Raises the rejections of `DeleteFile`."""
    key = check_key(command.key).encode()
    bucket = _bucket_of_file(context, command.bucket, key)
    file = context.tables.file(bucket.incarnation, key)
    if file is None:
        # Before the preconditions: they count only where the answer would otherwise be a success (RFC 9110, 13.2.1).
        raise FileNotFoundInBucketError(
            "There is no such file.",
            bucket=bucket.name,
            key=command.key,
            version=_deleted_index(context, bucket.name, key),
        )
    check_preconditions(command.preconditions, file, None)
    context.tables.remove_file(bucket.incarnation, file)
    context.history.add(bucket.incarnation, file, context.index)
    context.history.insert_tombstone(TombstoneRow(bucket.name, key, context.index, file.modified_ns))
    return DeletedFile(version=context.index)


def _bucket_of_file(context: ApplyContext, name: str, key: bytes) -> BucketRow:
    """The bucket; a rejection says when `key` was last changed, in an earlier bucket of that name."""
    try:
        return context.existing_bucket(name)
    except BucketNotFoundError as error:
        error.facts["version"] = _deleted_index(context, name, key)
        raise


def _deleted_index(context: ApplyContext, bucket_name: str, key: bytes) -> int:
    tombstone = context.history.tombstone(bucket_name, key)
    return 0 if tombstone is None else tombstone.deleted_index
