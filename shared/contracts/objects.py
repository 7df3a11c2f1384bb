"""Versions that are kept, deletions, copies, tags, and what a bucket is set to: commands, queries and answers.

Part of the commands, queries and answers of `shared.contracts.metadata`, which says how they are sent. All of it came with
entries of version 4.

A version is known by the log index that made it, its *version id*. When the current version is removed for good, the one before
becomes current again under a new log index and keeps its version id: so a client finds it by the number that it knows, and
`X-Trivet-Version` stays the index that last changed the key. Wherever a version is asked for, both numbers are understood.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from shared.contracts.base import WireModel, WireRow
from shared.contracts.calls import Command, NoResult, Query
from shared.contracts.files import FileVersion, Preconditions
from shared.contracts.s3 import S3Attributes
from shared.contracts.time import Stamp
from shared.contracts.usage import UsageOf

DELETE_FILES_MAX: Final = 250
"""Most files that one entry deletes."""

DOCUMENT_BYTES_MAX: Final = 65_536
VERSIONS_LIMIT_MAX: Final = 1000

NULL_VERSION: Final = 0
"""Where a version is asked for: the null version or null marker of the key, whatever its number is."""

VersionNumber = Annotated[int, Field(ge=0, lt=2**63)]
DocumentKind = Annotated[str, Field(pattern=r"^[a-z-]{1,64}$")]
SettingName = Literal["versioning", "superseded_retention_s", "quota_bytes", "quota_files"]


class BucketSettings(WireModel):
    """What a bucket is set to; the defaults are those of a bucket that nobody has set anything of.

    Attributes:
        versioning: `off`: what is replaced or deleted is gone. `enabled`: it is kept as an older version, and deleting a file
            writes a delete marker. `suspended`: as off for what is written from now on (the *null version* of a key), while
            the versions of before stay. Never `off` again.
        superseded_retention_s: for how long older versions are kept, by the log's clock; None for ever. 0: they are gone as
            soon as they are replaced. Without meaning while versioning is off.
        quota_bytes, quota_files: how much there may be in the bucket, as `shared.contracts.usage` counts it; None for no
            limit. Lowered below what there is, it refuses only what would raise that.
    """

    versioning: Literal["off", "enabled", "suspended"] = "off"
    superseded_retention_s: int | None = Field(default=None, ge=0, le=2**31)
    quota_bytes: int | None = Field(default=None, ge=0, lt=2**63)
    quota_files: int | None = Field(default=None, ge=0, lt=2**63)


# --- buckets ------------------------------------------------------------------------------------------------------


class PutSettings(WireModel):
    """`log_index`: since when the settings are in force. Putting the same again changes nothing.

    `settings`: all of them, where the command replaced some; None where it replaced all.
    """

    log_index: int
    settings: BucketSettings | None = None


class PutBucketSettings(Command[PutSettings]):
    """All settings of a bucket are replaced, or those of `names`; the others stay as the entries before left them.

    Rejected: bucket_not_found; versioning_cannot_be_off; backup_pins_versions, when the retention is shortened while a backup
    lives.
    """

    kind: Literal["put_bucket_settings"] = "put_bucket_settings"
    bucket: str
    settings: BucketSettings
    names: list[SettingName] | None = None
    stamp: Stamp


class PutBucketDocument(Command[NoResult]):
    """A document about a bucket, which the log keeps and does not read. Rejected: bucket_not_found."""

    kind: Literal["put_bucket_document"] = "put_bucket_document"
    bucket: str
    kind_name: DocumentKind
    body: bytes = Field(max_length=DOCUMENT_BYTES_MAX)
    stamp: Stamp


class DeletedDocument(WireModel):
    """Whether there was one."""

    deleted: bool


class DeleteBucketDocument(Command[DeletedDocument]):
    """It is gone. Rejected: bucket_not_found."""

    kind: Literal["delete_bucket_document"] = "delete_bucket_document"
    bucket: str
    kind_name: DocumentKind
    stamp: Stamp


class BucketSettingsAnswer(WireModel):
    """`settings` is None when there is no such bucket. `log_index`: of the entry that put them; 0 for the defaults.

    `usage`: how much there is in the bucket; None from a member of an earlier version.
    """

    kind: Literal["bucket_settings"] = "bucket_settings"
    settings: BucketSettings | None
    log_index: int = 0
    incarnation: int = 0
    usage: UsageOf | None = None


class GetBucketSettings(Query[BucketSettingsAnswer]):
    """What a bucket is set to."""

    kind: Literal["get_bucket_settings"] = "get_bucket_settings"
    bucket: str


class BucketDocumentAnswer(WireModel):
    """`body` is None when there is none."""

    kind: Literal["bucket_document"] = "bucket_document"
    has_bucket: bool
    body: bytes | None = None
    log_index: int = 0
    incarnation: int = 0


class GetBucketDocument(Query[BucketDocumentAnswer]):
    """A document about a bucket."""

    kind: Literal["get_bucket_document"] = "get_bucket_document"
    bucket: str
    kind_name: DocumentKind


# --- files --------------------------------------------------------------------------------------------------------


class DeletedFile(WireModel):
    """What a deletion did.

    Attributes:
        version: the log index that last changed the key; that of this entry, unless it removed an older version.
        is_marker: what was written, or removed for good, is a delete marker.
        removed_version: the version id of what was removed for good, of the version asked for or of the null version that a
            marker replaced; None where nothing was, or where it was not kept anyhow.
    """

    version: int
    is_marker: bool = False
    removed_version: int | None = None


class FileToDelete(WireModel):
    """A file, or one version of it. `preconditions` are of what is deleted; an absent file is a success all the same."""

    key: str
    version: VersionNumber | None = None
    preconditions: Preconditions | None = None


class DeleteOutcome(DeletedFile):
    """`problem`: why this file was not deleted, as a problem document."""

    problem: dict[str, Any] | None = None


class DeletedFiles(WireModel):
    """In the order of the command. `incarnation`: of the bucket that they were in."""

    results: list[DeleteOutcome]
    incarnation: int


class DeleteFiles(Command[DeletedFiles]):
    """Delete several files at one instant. One that is absent is a success, and so is a version that is.

    A key may be named several times, by itself and by versions; it gets one marker at most. Where the removal of a current
    version brings an older one back, the entry does that for one key and leaves the others as they are: their problem is
    promotion_deferred, and they are to be sent again. Rejected: bucket_not_found, bucket_recreated.

    Attributes:
        incarnation: of the bucket, where it was read before; None for the bucket that exists.
    """

    kind: Literal["delete_files"] = "delete_files"
    bucket: str
    incarnation: int | None = None
    files: list[FileToDelete] = Field(min_length=1, max_length=DELETE_FILES_MAX)
    stamp: Stamp


class CopiedFile(WireModel):
    """The version that is visible now, and the version id of that which it is a copy of."""

    created: bool
    version: FileVersion
    source_version: int


class CopyFile(Command[CopiedFile]):
    """A version becomes the current one of another key, or of its own again. No bytes move.

    Rejected: bucket_not_found, file_not_found, version_not_found, source_is_marker, copy_onto_itself, precondition_failed,
    invalid_tags.

    Attributes:
        source_version: None for the current one.
        source_preconditions: of the version that is copied.
        preconditions: of what is current under the key.
        content_type, user_metadata, tags: None to keep those of the source.
        s3: None to keep those of the source; else its headers and storage class are replaced. What follows from the bytes
            stays that of the source: etag, checksums and sizes of parts.
        is_move: the same entry deletes the source, which is the current version.
    """

    kind: Literal["copy_file"] = "copy_file"
    bucket: str
    key: str
    source_bucket: str
    source_key: str
    source_version: VersionNumber | None = None
    source_preconditions: Preconditions = Preconditions()
    preconditions: Preconditions = Preconditions()
    content_type: str | None = None
    user_metadata: dict[str, str] | None = None
    tags: dict[str, str] | None = None
    s3: S3Attributes | None = None
    is_move: bool = False
    stamp: Stamp


class TaggedFile(WireModel):
    """The version id of the version that has the tags, and the log index that changed them last."""

    version: int
    patch_index: int


class SetTags(Command[TaggedFile]):
    """Replace the tags of a version: neither its etag nor its Last-Modified nor its number changes.

    Rejected: bucket_not_found, file_not_found, version_not_found, source_is_marker, invalid_tags.

    Attributes:
        version: None for the current one.
        tags: None for none.
    """

    kind: Literal["set_tags"] = "set_tags"
    bucket: str
    key: str
    version: VersionNumber | None = None
    tags: dict[str, str] | None = None
    stamp: Stamp


class VersionEntry(WireRow, frozen=True, gc=False, omit_defaults=True):
    """One row of a list of versions. `version_id` is None where it is `version`. A marker has no size, etag and type.

    The last three are as in `shared.contracts.metadata.FileEntry`.
    """

    key: str
    version: int
    version_id: int | None
    is_current: bool
    is_marker: bool
    is_null: bool
    size_bytes: int
    etag: str
    content_type: str
    modified_ns: int
    stored_ns: int = 0
    s3_etag: str | None = None
    storage_class: str | None = None


class VersionPage(WireModel):
    """One page: keys in UTF-8 byte order, the versions of a key from the latest on.

    The next page begins after (`last_key`, `last_version`), the latter a version id; a `last_key` without one is a common prefix.
    """

    kind: Literal["versions"] = "versions"
    has_bucket: bool
    versions: list[VersionEntry] = Field(default_factory=list)
    prefixes: list[str] = Field(default_factory=list)
    has_more: bool = False
    last_key: str | None = None
    last_version: int | None = None


class ListVersions(Query[VersionPage]):
    """All versions and markers of a bucket as it is now, the current ones included.

    Attributes:
        key: only those of this key; `prefix` and `delimiter` count no more.
        after_key, after_version: where the page before ended; without `after_version` all of the key, or of the common
            prefix, is skipped.
    """

    kind: Literal["list_versions"] = "list_versions"
    bucket: str
    prefix: str = ""
    delimiter: str | None = None
    key: str | None = None
    after_key: str | None = None
    after_version: int | None = Field(default=None, ge=0, lt=2**63)
    limit: int = Field(default=VERSIONS_LIMIT_MAX, ge=1, le=VERSIONS_LIMIT_MAX)


class ObjectCounts(WireModel):
    """What one page counted. `next_position` is where the next one goes on; None at the end.

    Attributes:
        versions: with bytes, current and older ones.
        markers: delete markers.
        uploads, parts: of uploads under way.
        manifests: chunk lists of parts, those of files included.
    """

    kind: Literal["object_counts"] = "object_counts"
    versions: int = 0
    markers: int = 0
    uploads: int = 0
    parts: int = 0
    manifests: int = 0
    next_position: bytes | None = None


class CountObjects(Query[ObjectCounts]):
    """Count a page of what all buckets hold; the sum of all pages is exact while nothing changes. `position`: where to go on."""

    kind: Literal["count_objects"] = "count_objects"
    position: bytes | None = Field(default=None, max_length=8192)
