"""What the deletion of several files in one entry changes. Each file has an outcome of its own; see `DeleteFiles`.

All versions of a key that the batch names are removed before its place is filled again: so emptying a key promotes nothing on the
way. One entry has one log index, and a promoted version is known by it: so one entry promotes one version (C-142).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.decisions import next_modified_ns
from services.consensus.metadata.rows import BucketRow, FileRow
from services.consensus.metadata.versions import (
    PresentKey,
    delete_current,
    delete_each,
    fill_vacancy,
    find_version,
    insert_marker,
    present,
    present_each,
    remove_for_good,
    remove_version,
)
from shared.contracts.files import Preconditions
from shared.contracts.objects import DeletedFile, DeletedFiles, DeleteFiles, DeleteOutcome, FileToDelete
from shared.errors import BucketRecreatedError, PreconditionFailedError, PromotionDeferredError, TrivetError

_DEFERRED: Final = PromotionDeferredError(
    "Another file of this batch got an older version back, which one entry does once; send this file again."
)


def delete_files(context: ApplyContext, command: DeleteFiles) -> DeletedFiles:
    """Delete them, in the order of the list. Raises BucketNotFoundError, BucketRecreatedError."""
    bucket = context.existing_bucket(command.bucket)
    if command.incarnation not in {None, bucket.incarnation}:
        raise BucketRecreatedError(
            "The bucket was deleted and made again meanwhile.", bucket=bucket.name, incarnation=bucket.incarnation
        )
    outcomes: dict[int, DeleteOutcome] = {}
    by_key: dict[bytes, dict[int, FileToDelete]] = {}
    for position, file in enumerate(command.files):
        try:
            by_key.setdefault(context.checked_key(file.key), {})[position] = file
        except TrivetError as error:
            outcomes[position] = DeleteOutcome(version=0, problem=error.to_problem())
    plain = _plain_deletions(context, bucket, by_key)
    outcomes |= _delete_plain(context, bucket, plain)
    has_promoted = False
    for key, files in by_key.items():
        if key in plain:
            continue
        before = present(context, bucket, key, is_deletion=True)
        promotes = _promotes(context, before, files)
        if promotes and has_promoted:
            deferred = DeleteOutcome(version=before.last_changed, problem=_DEFERRED.to_problem())
            outcomes |= dict.fromkeys(files, deferred)
            continue
        has_promoted |= promotes
        outcomes |= _delete_key(context, bucket, before, files)
    results = [outcomes[position] for position in range(len(command.files))]
    return DeletedFiles(results=results, incarnation=bucket.incarnation)


def _plain_deletions(
    context: ApplyContext, bucket: BucketRow, by_key: dict[bytes, dict[int, FileToDelete]]
) -> dict[bytes, dict[int, FileToDelete]]:
    """Those of the keys of which no version is named, where nothing else of a key goes with its current one."""
    if not context.knows_objects or context.settings_of(bucket.incarnation).versioning == "suspended":
        return {}
    return {key: files for key, files in by_key.items() if all(file.version is None for file in files.values())}


def _delete_plain(
    context: ApplyContext, bucket: BucketRow, by_key: dict[bytes, dict[int, FileToDelete]]
) -> dict[int, DeleteOutcome]:
    """What `_delete_key` does with each, at a third of the cost: nearly all batches have nothing else."""
    is_marked = context.settings_of(bucket.incarnation).versioning != "off"
    deleted = DeleteOutcome(version=context.index, is_marker=is_marked)
    outcomes: dict[int, DeleteOutcome] = {}
    gone: list[tuple[PresentKey, FileRow]] = []
    for before, files in zip(present_each(context, bucket, list(by_key)), by_key.values(), strict=True):
        if before.file is None:
            outcomes |= dict.fromkeys(files, DeleteOutcome(version=before.last_changed))
            continue
        is_gone = False
        for position, file in files.items():
            problem = None if is_gone else _problem_of(context, file.preconditions, before.file)
            is_gone = is_gone or problem is None
            outcomes[position] = (
                deleted if problem is None else DeleteOutcome(version=before.last_changed, problem=problem)
            )
        if is_gone:
            gone.append((before, before.file))
    if gone:
        delete_each(context, bucket, gone)
    return outcomes


def _problem_of(context: ApplyContext, preconditions: Preconditions | None, file: FileRow) -> dict[str, Any] | None:
    """Why the current version stays; None where it may go."""
    try:
        if preconditions is not None:
            context.check_preconditions(preconditions, file, None)
    except PreconditionFailedError as error:
        return error.to_problem()
    return None


def _promotes(context: ApplyContext, before: PresentKey, files: dict[int, FileToDelete]) -> bool:
    """Whether an older version may become current. False is certain; true may be wrong where a marker is written, too."""
    if before.settings.versioning == "off" or all(file.version is None for file in files.values()):
        return False
    removed = [
        find_version(context.tables, context.older, before.bucket.incarnation, before.key, file.version)
        for file in files.values()
        if file.version is not None
    ]
    gone = {found.file.version for found in removed if found is not None}
    if not any(found is not None and found.is_current for found in removed):
        return False
    rows = context.older.of_key(before.bucket.incarnation, before.key, context.index, len(gone) + 1)
    left = next((row for row in rows if row.version not in gone), None)
    return left is not None and not left.is_marker


def _delete_key(
    context: ApplyContext, bucket: BucketRow, before: PresentKey, files: dict[int, FileToDelete]
) -> dict[int, DeleteOutcome]:
    place = _Place(before)
    outcomes = {position: _outcome(context, place, file) for position, file in files.items()}
    if place.vacated is not None:
        fill_vacancy(context, bucket, before.key, place.vacated)
    return outcomes


def _outcome(context: ApplyContext, place: _Place, file: FileToDelete) -> DeleteOutcome:
    try:
        deleted = _delete(context, place, file.version, file.preconditions)
    except PreconditionFailedError as error:
        return DeleteOutcome(version=place.before.last_changed, problem=error.to_problem())
    # Of fields that are checked already: a dump and a validation cost as much as two of the rows.
    return DeleteOutcome.model_construct(
        version=deleted.version, is_marker=deleted.is_marker, removed_version=deleted.removed_version, problem=None
    )


@dataclass(slots=True)
class _Place:
    """The place of the current version of a key while its versions are removed.

    Attributes:
        before: what there was before this entry, or what there is by now if that is known.
        vacated: what was removed from there and not replaced yet.
        marker: of this entry, if it wrote one.
    """

    before: PresentKey
    vacated: FileRow | None = None
    marker: DeletedFile | None = None


def _delete(
    context: ApplyContext, place: _Place, number: int | None, preconditions: Preconditions | None
) -> DeletedFile:
    """Raises PreconditionFailedError."""
    if number is None:
        if preconditions is not None and (present_file := _present_file(context, place)) is not None:
            context.check_preconditions(preconditions, present_file, None)
        return _delete_current(context, place)
    before = place.before
    # The number of this entry is known to nobody yet: it is not asked for.
    found = (
        None
        if number == context.index
        else find_version(context.tables, context.older, before.bucket.incarnation, before.key, number)
    )
    # The null version may be the marker that this entry has just written, for a file that is named by itself as well.
    if found is not None and found.file.version == context.index:
        found = None
    if found is None:
        return DeletedFile(version=before.last_changed)
    if preconditions is not None:
        context.check_preconditions(preconditions, None if found.is_marker else found.file, None)
    has_changed = place.marker is not None or place.vacated is not None
    removal = remove_version(context, before, found)
    place.vacated = removal.vacated or place.vacated
    return removal.deleted.model_copy(update={"version": context.index}) if has_changed else removal.deleted


def _present_file(context: ApplyContext, place: _Place) -> FileRow | None:
    """What is current by now, or will be when the vacancy is filled; None where the key is absent."""
    if place.marker is not None:
        return None
    if place.vacated is None:
        return place.before.file
    latest = context.older.latest(place.before.bucket.incarnation, place.before.key)
    return None if latest is None or latest.is_marker else latest.file


def _delete_current(context: ApplyContext, place: _Place) -> DeletedFile:
    before = place.before
    if place.marker is not None:
        return place.marker
    if place.vacated is None:
        if before.file is None:
            return DeletedFile(version=before.last_changed)
        place.marker = delete_current(context, before, before.file)
        return place.marker
    return _mark_vacancy(context, place, place.vacated)


def _mark_vacancy(context: ApplyContext, place: _Place, vacated: FileRow) -> DeletedFile:
    """The version that would be current again by now is deleted: a marker comes over it, where it stands."""
    before = place.before
    latest = context.older.latest(before.bucket.incarnation, before.key)
    if latest is None or latest.is_marker:
        return DeletedFile(version=context.index)
    replaced: int | None = None
    null = context.older.null(before.bucket.incarnation, before.key)
    if before.settings.versioning == "suspended" and null is not None:
        remove_for_good(context, null)
        replaced = null.known_as
    insert_marker(context, before, next_modified_ns(vacated, context.stamp))
    fill_vacancy(context, before.bucket, before.key, vacated)
    place.vacated = None
    place.marker = DeletedFile(version=context.index, is_marker=True, removed_version=replaced)
    return place.marker
