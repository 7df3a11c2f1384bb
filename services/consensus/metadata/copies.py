"""What copies and renames change: a version of another key, or of an earlier time, becomes current without moving a byte."""

from __future__ import annotations

from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.versions import (
    FoundVersion,
    PresentKey,
    bucket_of_file,
    delete_current,
    make_current,
    present,
    require_version,
)
from shared.contracts.etags import content_id_of, etag_of
from shared.contracts.files import FileVersion
from shared.contracts.names import check_tags
from shared.contracts.objects import CopiedFile, CopyFile
from shared.contracts.s3 import S3Attributes
from shared.errors import CopyOntoItselfError, InvalidRequestError


def copy_file(context: ApplyContext, command: CopyFile) -> CopiedFile:
    """The copy is current from this entry on, and a moved file absent under its old key. Raises the rejections of `CopyFile`.

    Chunks of a list of its own get references from the copy, too; composed content is shared as a whole.
    """
    key, source_key = context.checked_key(command.key), context.checked_key(command.source_key)
    check_tags(command.tags or {})
    source = present(context, bucket_of_file(context, command.source_bucket, source_key), source_key)
    before = present(context, bucket_of_file(context, command.bucket, key), key)
    found = require_version(context, source, command.source_key, command.source_version)
    _check_changes_something(command, source, before, found)
    context.check_preconditions(command.source_preconditions, found.file, None)
    context.check_preconditions(command.preconditions, before.file, before.tombstone)
    original = context.tables.version(found.file.version)
    version = make_current(context, before, _copy_of(context, command, original), _tags_of(context, command, found))
    if command.is_move:
        delete_current(context, source, found.file)
    return CopiedFile(created=before.file is None, version=version, source_version=found.known_as)


def _check_changes_something(command: CopyFile, source: PresentKey, before: PresentKey, found: FoundVersion) -> None:
    if command.is_move and not found.is_current:
        raise InvalidRequestError("Only the current version of a file can be moved.", name="source_version")
    is_same_key = (source.bucket.incarnation, source.key) == (before.bucket.incarnation, before.key)
    given = (command.content_type, command.user_metadata, command.tags, command.s3)
    replaces = any(each is not None for each in given)
    if is_same_key and (command.is_move or (found.is_current and not replaces)):
        raise CopyOntoItselfError(
            "This version is current under this key already; replace its type, metadata or tags, or copy an older one.",
            bucket=before.bucket.name,
            key=command.key,
        )


def _copy_of(context: ApplyContext, command: CopyFile, original: FileVersion) -> FileVersion:
    content_type = original.content_type if command.content_type is None else command.content_type
    user_metadata = original.user_metadata if command.user_metadata is None else command.user_metadata
    etag = original.etag
    if (content_type, user_metadata) != (original.content_type, original.user_metadata):
        etag = etag_of(original.content.digest or content_id_of(original), content_type, user_metadata)
    return original.model_copy(
        update={
            "bucket": command.bucket,
            "key": command.key,
            "version": context.index,
            "term": context.term,
            "etag": etag,
            "content_type": content_type,
            "user_metadata": user_metadata,
            "stamp": context.stamp,
            "owner": context.owner_id,
            "s3": _s3_of(command, original),
        }
    )


def _s3_of(command: CopyFile, original: FileVersion) -> S3Attributes | None:
    if command.s3 is None:
        return original.s3
    of_bytes = original.s3 or S3Attributes()
    return of_bytes.model_copy(update={"headers": command.s3.headers, "storage_class": command.s3.storage_class})


def _tags_of(context: ApplyContext, command: CopyFile, found: FoundVersion) -> dict[str, str] | None:
    if command.tags is not None:
        return command.tags
    patch = context.older.patch(found.file.version)
    return None if patch is None else patch.tags
