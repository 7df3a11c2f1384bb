"""Answers about files, their versions, and what buckets are set to."""

from __future__ import annotations

from typing import NamedTuple

from services.consensus.metadata.bucket_records import DEFAULT_SETTINGS, BucketRecords
from services.consensus.metadata.counting import count_objects
from services.consensus.metadata.history import History
from services.consensus.metadata.older_versions import OlderVersions, PatchRow
from services.consensus.metadata.rows import BucketRow, State
from services.consensus.metadata.tables import Tables
from services.consensus.metadata.usage_queries import usage_of_bucket
from services.consensus.metadata.version_listing import version_page
from services.consensus.metadata.versions import find_version
from shared.contracts.files import FileVersion
from shared.contracts.metadata import FileAnswer, GetFile
from shared.contracts.objects import (
    BucketDocumentAnswer,
    BucketSettingsAnswer,
    CountObjects,
    GetBucketDocument,
    GetBucketSettings,
    ListVersions,
    ObjectCounts,
    VersionPage,
)
from shared.contracts.uploads import INLINE_CHUNKS_MAX


class FoundBucket(NamedTuple):
    """A bucket. `keeps_versions`: it does now, or did before."""

    row: BucketRow
    keeps_versions: bool

    @property
    def incarnation(self) -> int:
        """Of the bucket."""
        return self.row.incarnation


Buckets = dict[str, FoundBucket | None]
"""Those that were looked up in this transaction: the files of a batch are mostly in one."""


def answer_about_objects(
    tables: Tables,
    state: State,
    query: GetFile | GetBucketSettings | GetBucketDocument | ListVersions | CountObjects,
    buckets: Buckets,
) -> FileAnswer | BucketSettingsAnswer | BucketDocumentAnswer | VersionPage | ObjectCounts:
    """The answer; `buckets` is filled on the way. Raises InvalidRequestError."""
    match query:
        case GetFile():
            return _get_file(tables, state, query, buckets)
        case GetBucketSettings() | GetBucketDocument():
            return _answer_records(tables, query)
        case ListVersions():
            return _list_versions(tables, query)
        case CountObjects():
            return count_objects(tables, query)


def _get_file(tables: Tables, state: State, query: GetFile, buckets: Buckets) -> FileAnswer:
    key = query.key.encode()
    if query.bucket not in buckets:
        buckets[query.bucket] = _find_bucket(tables, query.bucket)
    bucket = buckets[query.bucket]
    if bucket is not None and query.version is not None:
        return _get_version(tables, state, query, bucket, query.version)
    file = None if bucket is None else tables.file(bucket.incarnation, key)
    if bucket is not None and file is not None:
        patch = OlderVersions(tables).patch(file.version)
        is_known_patch = query.known_patch_index in {None, 0 if patch is None else patch.patch_index}
        if file.version == query.known_version and is_known_patch:
            # Of the same incarnation of the bucket, too: no other entry has this index.
            return FileAnswer(
                has_bucket=True,
                incarnation=bucket.incarnation,
                version=file.version,
                horizon=state.tombstone_horizon,
                is_unchanged=True,
                keeps_versions=bucket.keeps_versions,
            )
        return FileAnswer(
            has_bucket=True,
            incarnation=bucket.incarnation,
            file=_version(tables, file.version, patch, query),
            version=file.version,
            horizon=state.tombstone_horizon,
            keeps_versions=bucket.keeps_versions,
        )
    return _absent(tables, state, query, bucket)


def _find_bucket(tables: Tables, name: str) -> FoundBucket | None:
    row = tables.bucket(name)
    if row is None:
        return None
    settings = BucketRecords(tables).settings(row.incarnation)
    # It is never off again.
    return FoundBucket(row, keeps_versions=settings is not None and settings.settings.versioning != "off")


def _absent(tables: Tables, state: State, query: GetFile, bucket: FoundBucket | None) -> FileAnswer:
    tombstone = History(tables).tombstone(query.bucket, query.key.encode())
    marker = None if bucket is None else OlderVersions(tables).marker(bucket.incarnation, query.key.encode())
    deleted_index = 0 if marker is None else marker.version
    return FileAnswer(
        has_bucket=bucket is not None,
        incarnation=0 if bucket is None else bucket.incarnation,
        version=deleted_index if tombstone is None else tombstone.deleted_index,
        horizon=state.tombstone_horizon,
        is_marker=marker is not None,
        marker_id=None if marker is None else marker.known_as,
        is_null=marker is not None and bool(marker.is_null),
    )


def _get_version(tables: Tables, state: State, query: GetFile, bucket: FoundBucket, number: int) -> FileAnswer:
    """Of a version that is not there the answer says the last change of the key, as of an absent file."""
    older, key = OlderVersions(tables), query.key.encode()
    found = find_version(tables, older, bucket.incarnation, key, number)
    if found is None:
        file = tables.file(bucket.incarnation, key)
        absent = _absent(tables, state, query, bucket)
        version = absent.version if file is None else file.version
        return absent.model_copy(update={"version": version, "is_marker": False, "marker_id": None, "is_null": False})
    patch = None if found.is_marker else older.patch(found.file.version)
    return FileAnswer(
        has_bucket=True,
        incarnation=bucket.incarnation,
        file=None if found.is_marker else _version(tables, found.file.version, patch, query),
        version=found.file.version,
        horizon=state.tombstone_horizon,
        is_marker=found.is_marker,
        marker_id=found.known_as if found.is_marker else None,
        is_null=found.is_null_marker,
        keeps_versions=bucket.keeps_versions,
    )


def _version(tables: Tables, number: int, patch: PatchRow | None, query: GetFile) -> FileVersion:
    version = tables.version(number)
    update: dict[str, object] = {}
    if patch is not None:
        update |= {"tags": patch.tags, "patch_index": patch.patch_index}
    if query.pages and version.content.chunk_count > INLINE_CHUNKS_MAX:
        update["content"] = version.content.model_copy(update={"chunk_digests": b""})
    return version.model_copy(update=update) if update else version


def _answer_records(
    tables: Tables, query: GetBucketSettings | GetBucketDocument
) -> BucketSettingsAnswer | BucketDocumentAnswer:
    bucket, records = tables.bucket(query.bucket), BucketRecords(tables)
    if isinstance(query, GetBucketSettings):
        if bucket is None:
            return BucketSettingsAnswer(settings=None)
        row = records.settings(bucket.incarnation)
        return BucketSettingsAnswer(
            settings=DEFAULT_SETTINGS if row is None else row.settings,
            log_index=0 if row is None else row.log_index,
            incarnation=bucket.incarnation,
            usage=usage_of_bucket(tables, bucket.incarnation),
        )
    document = None if bucket is None else records.document(bucket.incarnation, query.kind_name)
    return BucketDocumentAnswer(
        has_bucket=bucket is not None,
        body=None if document is None else document.body,
        log_index=0 if document is None else document.log_index,
        incarnation=0 if bucket is None else bucket.incarnation,
    )


def _list_versions(tables: Tables, query: ListVersions) -> VersionPage:
    bucket = tables.bucket(query.bucket)
    return VersionPage(has_bucket=False) if bucket is None else version_page(tables, bucket.incarnation, query)
