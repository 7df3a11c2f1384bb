"""What is current under a key, what is kept beside it, and what happens when that changes: the rules of versioned buckets.

In a bucket that is `off`, what is replaced or deleted goes into `past` and is released from there, as it always was. In one that
keeps versions it goes into `past`, for lists that are pinned to an index, and into `older_versions`, which keeps it until
somebody removes it for good. A row that leaves `past` while it stands in `older_versions`, or was removed from there before, is
not released by that (`Garbage.is_held`).

A promotion makes a version of this entry's index out of an older one: so the index that last changed a key only grows, and
pinned lists need not know of it; its Last-Modified is later than that of what it replaces. The older row's number stays as
`version_id`, which is what clients know it by (C-140, C-141).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.decisions import next_modified_ns
from services.consensus.metadata.older_versions import OlderRow, OlderVersions, PatchRow, encode_tags
from services.consensus.metadata.rows import BucketRow, FileRow, TombstoneRow, VersionIdentity
from services.consensus.metadata.tables import Tables
from shared.contracts.files import FileVersion
from shared.contracts.objects import NULL_VERSION, BucketSettings, DeletedFile
from shared.errors import BucketNotFoundError, FileNotFoundInBucketError, SourceIsMarkerError, VersionNotFoundError

_PLAIN: Final = VersionIdentity(None, True, None)


@dataclass(frozen=True, slots=True)
class PresentKey:
    """What there is under a key now.

    Invariant: at most one of `file` and `marker` is there. `tombstone` is None beside a file, and once it is forgotten.

    Attributes:
        identity: of `file`; that of a version of before where no entry of version 4 may be proposed yet, and but for the owner
            where a deletion needs none.
    """

    bucket: BucketRow
    key: bytes
    file: FileRow | None
    marker: OlderRow | None
    tombstone: TombstoneRow | None
    settings: BucketSettings
    identity: VersionIdentity

    @property
    def last_changed(self) -> int:
        """The index that last changed the key; 0 when it is not known."""
        if self.file is not None:
            return self.file.version
        if self.tombstone is not None:
            return self.tombstone.deleted_index
        return 0 if self.marker is None else self.marker.version

    @property
    def last_modified(self) -> FileRow | TombstoneRow | None:
        """What has the last Last-Modified of the key."""
        return self.file or self.tombstone or (None if self.marker is None else self.marker.file)


def present(context: ApplyContext, bucket: BucketRow, key: bytes, *, is_deletion: bool = False) -> PresentKey:
    """What there is under `key`. A deletion in a bucket that is off reads no version: a batch of large files would take long."""
    file = context.tables.file(bucket.incarnation, key)
    settings = context.settings_of(bucket.incarnation)
    if file is None:
        return _absent(context, bucket, key, settings)
    identity = _PLAIN
    if context.knows_objects:
        if is_deletion and settings.versioning == "off":
            identity = _PLAIN._replace(owner=context.tables.owner(file.version))
        else:
            identity = context.tables.identity(file.version)
    return PresentKey(bucket, key, file, None, None, settings, identity)


def present_each(context: ApplyContext, bucket: BucketRow, keys: Sequence[bytes]) -> list[PresentKey]:
    """`present` of many keys, in their order, for a deletion, where entries of version 4 may be proposed."""
    incarnation, settings = bucket.incarnation, context.settings_of(bucket.incarnation)
    is_owner_enough = settings.versioning == "off"
    found = context.tables.identified_files(incarnation, keys, is_owner_enough=is_owner_enough)
    return [
        PresentKey(bucket, key, found[key][0], None, None, settings, found[key][1])
        if key in found
        else _absent(context, bucket, key, settings)
        for key in keys
    ]


def _absent(context: ApplyContext, bucket: BucketRow, key: bytes, settings: BucketSettings) -> PresentKey:
    tombstone = context.history.tombstone(bucket.name, key)
    marker = None if settings.versioning == "off" else context.older.marker(bucket.incarnation, key)
    return PresentKey(bucket, key, None, marker, tombstone, settings, _PLAIN)


def make_current(
    context: ApplyContext, before: PresentKey, version: FileVersion, tags: dict[str, str] | None
) -> FileVersion:
    """`version`, of this entry, is current from here on, with the `standing` that it has now, whatever it had before."""
    version = version.model_copy(update=standing(context, before))
    store_current(context, before, version, tags)
    return version


def standing(context: ApplyContext, before: PresentKey) -> dict[str, Any]:
    """The fields that say what a version of this entry is among those of its key."""
    return {
        "modified_ns": next_modified_ns(before.last_modified, context.stamp),
        "is_null": before.settings.versioning != "enabled",
        "created_ns": _created_ns(context, before),
        "version_id": None,
    }


def store_current(context: ApplyContext, before: PresentKey, version: FileVersion, tags: dict[str, str] | None) -> None:
    """`version`, which has its standing, is current from here on."""
    supersede(context, before)
    if before.tombstone is not None:
        context.history.remove_tombstone(before.tombstone)
    context.tables.insert_version(before.bucket.incarnation, version, has_stored_ns=context.knows_objects)
    if tags:
        context.older.set_patch(PatchRow(context.index, context.index, encode_tags(tags)))


def _created_ns(context: ApplyContext, before: PresentKey) -> int | None:
    if before.file is not None:
        return before.identity.created_ns
    return context.stamp.approximate_ns if context.knows_objects else None


def supersede(context: ApplyContext, before: PresentKey) -> int | None:
    """What is current is so no more; the number of a null version or marker that is gone for good with that."""
    settings = before.settings
    incarnation, key = before.bucket.incarnation, before.key
    is_null_written = settings.versioning == "suspended"
    replaced: int | None = None
    if before.file is not None:
        context.tables.remove_file(incarnation, before.file, before.identity.owner)
        context.history.add(incarnation, before.file, context.index)
        if settings.versioning == "off":
            return None
        row = _older_row(context, before, before.file)
        if is_null_written and before.identity.is_null:
            replaced = row.known_as
        else:
            _keep(context, row, settings)
    elif before.marker is not None:
        context.older.remove(before.marker)
        if is_null_written and before.marker.is_null:
            replaced = before.marker.known_as
        else:
            _keep(context, before.marker, settings)
    if is_null_written and (null := context.older.null(incarnation, key)) is not None:
        remove_for_good(context, null)
        replaced = null.known_as
    return replaced


def _older_row(context: ApplyContext, before: PresentKey, file: FileRow) -> OlderRow:
    return OlderRow(
        before.bucket.incarnation,
        file.key,
        file.version,
        before.identity.version_id,
        file.size_bytes,
        file.etag,
        file.content_type,
        file.modified_ns,
        file.stored_ns,
        file.s3_etag,
        file.storage_class,
        is_marker=0,
        is_null=int(before.identity.is_null),
        superseded_index=context.index,
        superseded_ms=context.state.lived_ms,
        owner=before.identity.owner,
    )


def _keep(context: ApplyContext, row: OlderRow, settings: BucketSettings) -> None:
    """As an older version; with a retention of 0 it is not kept, and goes the way of what is replaced in a bucket that is off."""
    if settings.superseded_retention_s != 0:
        context.older.insert(row._replace(superseded_index=context.index, superseded_ms=context.state.lived_ms))


def remove_for_good(context: ApplyContext, row: OlderRow) -> None:
    """An older version is not kept any more. Slow readers and backups still need its chunks, counted from here on."""
    context.older.remove(row)
    if not row.is_marker:
        context.garbage.release(row.version, context.index)


# --- deletion -----------------------------------------------------------------------------------------------------


def delete_current(context: ApplyContext, before: PresentKey, file: FileRow) -> DeletedFile:
    """The key is absent from here on; in a bucket that keeps versions a marker says so. `file` is the current version."""
    replaced = supersede(context, before)
    _insert_tombstone(context, before.bucket, before.key, file.modified_ns)
    if before.settings.versioning == "off":
        return DeletedFile(version=context.index)
    insert_marker(context, before, next_modified_ns(file, context.stamp))
    return DeletedFile(version=context.index, is_marker=True, removed_version=replaced)


def delete_each(context: ApplyContext, bucket: BucketRow, gone: Sequence[tuple[PresentKey, FileRow]]) -> None:
    """`delete_current` of many keys, with a statement for each table instead of several for each key.

    Of keys that differ, in a bucket that is off or enabled: where it is suspended, a null version may have to go for good.
    """
    settings, incarnation = context.settings_of(bucket.incarnation), bucket.incarnation
    context.tables.remove_files(incarnation, [(file, before.identity.owner) for before, file in gone])
    context.history.add_each(incarnation, (file for _, file in gone), context.index)
    context.history.insert_tombstones(
        TombstoneRow(bucket.name, before.key, context.index, file.modified_ns) for before, file in gone
    )
    if settings.versioning == "off":
        return
    markers = [_marker_row(context, before, next_modified_ns(file, context.stamp)) for before, file in gone]
    kept = [_older_row(context, before, file) for before, file in gone] if settings.superseded_retention_s != 0 else []
    context.older.insert_each(incarnation, kept + markers)


def insert_marker(context: ApplyContext, before: PresentKey, modified_ns: int) -> None:
    """A marker of this entry is current."""
    context.older.insert(_marker_row(context, before, modified_ns))


def _marker_row(context: ApplyContext, before: PresentKey, modified_ns: int) -> OlderRow:
    return OlderRow(
        before.bucket.incarnation,
        before.key,
        context.index,
        version_id=None,
        size_bytes=0,
        etag="",
        content_type="",
        modified_ns=modified_ns,
        stored_ns=None if modified_ns == context.stamp.approximate_ns else context.stamp.approximate_ns,
        s3_etag=None,
        storage_class=None,
        is_marker=1,
        is_null=int(before.settings.versioning == "suspended"),
        superseded_index=None,
        superseded_ms=None,
        owner=None,
    )


@dataclass(frozen=True, slots=True)
class VersionRemoval:
    """A version that was removed for good. `vacated`: it was the current one, whose place is still empty."""

    deleted: DeletedFile
    vacated: FileRow | None = None


def remove_version(context: ApplyContext, before: PresentKey, found: FoundVersion) -> VersionRemoval:
    """Remove a version or a marker for good. Where it was the current one, `fill_vacancy` must follow in this entry."""
    deleted = DeletedFile(version=context.index, is_marker=found.is_marker, removed_version=found.known_as)
    incarnation = before.bucket.incarnation
    if found.older is None:
        context.tables.remove_file(incarnation, found.file, found.owner)
        context.history.add(incarnation, found.file, context.index)
        return VersionRemoval(deleted, vacated=found.file)
    remove_for_good(context, found.older)
    if found.is_current:
        return VersionRemoval(deleted, vacated=found.file)
    return VersionRemoval(deleted.model_copy(update={"version": before.last_changed}))


def fill_vacancy(context: ApplyContext, bucket: BucketRow, key: bytes, vacated: FileRow) -> None:
    """The latest of the older ones takes the place of the current version or marker `vacated`, which was removed for good."""
    tombstone = context.history.tombstone(bucket.name, key)
    if tombstone is not None:
        context.history.remove_tombstone(tombstone)
    latest = context.older.latest(bucket.incarnation, key)
    if latest is not None and not latest.is_marker:
        _promote(context, latest, vacated)
        return
    if latest is not None:
        context.older.remove(latest)
        context.older.insert(latest._replace(superseded_index=None, superseded_ms=None))
    # The key stays absent, or is so now; either way it is this entry that changed it last.
    modified_ns = vacated.modified_ns if tombstone is None else max(tombstone.modified_ns, vacated.modified_ns)
    _insert_tombstone(context, bucket, key, modified_ns)


def _promote(context: ApplyContext, row: OlderRow, vacated: FileRow) -> None:
    older = context.tables.version(row.version)
    promoted = older.model_copy(
        update={
            "version": context.index,
            "term": context.term,
            "version_id": row.known_as,
            # Later than that of what was shown before, or If-Modified-Since would hide this change.
            "modified_ns": next_modified_ns(vacated, context.stamp),
            "tags": {},
            "patch_index": 0,
        }
    )
    remove_for_good(context, row)
    context.tables.insert_version(row.incarnation, promoted, has_stored_ns=True)
    if (patch := context.older.patch(row.version)) is not None:
        context.older.set_patch(patch._replace(version=context.index))


def _insert_tombstone(context: ApplyContext, bucket: BucketRow, key: bytes, modified_ns: int) -> None:
    context.history.insert_tombstone(TombstoneRow(bucket.name, key, context.index, modified_ns))


# --- looking up ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FoundVersion:
    """A version or a marker of a key.

    Attributes:
        known_as: its version id.
        file: what a list shows of it.
        owner: the identity that it belongs to.
        older: its row among the older ones and the markers; None of the current version.
    """

    known_as: int
    file: FileRow
    owner: bytes | None
    older: OlderRow | None = None

    @property
    def is_marker(self) -> bool:
        """It has no bytes."""
        return self.older is not None and bool(self.older.is_marker)

    @property
    def is_null_marker(self) -> bool:
        """It is the null version of its key, too."""
        return self.older is not None and bool(self.older.is_marker and self.older.is_null)

    @property
    def is_current(self) -> bool:
        """It decides whether the key exists."""
        return self.older is None or self.older.superseded_index is None


def find_version(
    tables: Tables, older: OlderVersions, incarnation: int, key: bytes, number: int | None
) -> FoundVersion | None:
    """The current version or marker of `key`, or the one that has `number` or is known by it; None when there is none."""
    if number == NULL_VERSION:
        return _find_null(tables, older, incarnation, key)
    file = tables.file(incarnation, key)
    if file is not None and (number is None or number <= file.version):
        identity = tables.identity(file.version)
        known_as = identity.version_id or file.version
        if number in {None, file.version, known_as}:
            return FoundVersion(known_as, file, identity.owner)
    row = older.marker(incarnation, key) if number is None else older.find(incarnation, key, number)
    return None if row is None else FoundVersion(row.known_as, row.file, row.owner, row)


def _find_null(tables: Tables, older: OlderVersions, incarnation: int, key: bytes) -> FoundVersion | None:
    file = tables.file(incarnation, key)
    if file is not None and (identity := tables.identity(file.version)).is_null:
        return FoundVersion(identity.version_id or file.version, file, identity.owner)
    row = older.null(incarnation, key)
    return None if row is None else FoundVersion(row.known_as, row.file, row.owner, row)


def require_version(context: ApplyContext, before: PresentKey, key: str, number: int | None) -> FoundVersion:
    """The version, which has bytes.

    Raises:
        FileNotFoundInBucketError: the key is absent; `number` is None.
        VersionNotFoundError: there is no such version.
        SourceIsMarkerError: it is a marker.
    """
    found = find_version(context.tables, context.older, before.bucket.incarnation, before.key, number)
    if number is None and (found is None or found.is_marker):
        raise FileNotFoundInBucketError(
            "There is no such file.", bucket=before.bucket.name, key=key, version=before.last_changed
        )
    if found is None:
        raise no_such_version(before, key)
    if found.is_marker:
        raise SourceIsMarkerError(
            "That version is a delete marker.", bucket=before.bucket.name, key=key, version=number
        )
    return found


def no_such_version(before: PresentKey, key: str) -> VersionNotFoundError:
    """The error that says so."""
    return VersionNotFoundError(
        "The file has no such version.", bucket=before.bucket.name, key=key, version=before.last_changed
    )


def bucket_of_file(context: ApplyContext, name: str, key: bytes) -> BucketRow:
    """The bucket; a rejection says when `key` was last changed, in an earlier bucket of that name."""
    try:
        return context.existing_bucket(name)
    except BucketNotFoundError as error:
        tombstone = context.history.tombstone(name, key)
        error.facts["version"] = 0 if tombstone is None else tombstone.deleted_index
        raise
