"""The JSON bodies of the calls that name files: copies, batch deletions, tags, versions, settings of buckets."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from services.gateway.api.models import (
    ETAG_EXAMPLE,
    PATH_UNSAFE,
    RECEIPT_EXAMPLE,
    Receipt,
    UsageInfo,
    example,
    receipt_fields,
)
from services.gateway.listings import VersionListPage
from services.gateway.objects.batch_deletes import DeletedBatch
from services.gateway.objects.bucket_settings import SettingsOfBucket
from services.gateway.objects.copies import Copied, CopySource, CopyTarget
from services.gateway.objects.tags import TaggedVersion
from services.gateway.semantics.file_headers import checked_metadata, content_type
from services.gateway.semantics.raw_names import FileName
from shared.contracts.base import WireModel
from shared.contracts.files import Preconditions
from shared.contracts.names import check_bucket_name, check_object_key, check_tags, is_path_safe
from shared.contracts.objects import BucketSettings, DeleteOutcome, FileToDelete, VersionEntry
from shared.contracts.time import rfc3339
from shared.units import MIB

BATCH_MAX: Final = 1000
"""Most files of one batch deletion."""

BATCH_MAX_BYTES: Final = 4 * MIB
"""Of its body: as many keys as long as they may be, each character written as an escape."""

BucketName = Annotated[str, AfterValidator(check_bucket_name)]
Key = Annotated[str, AfterValidator(check_object_key), Field(description="1-1024 bytes of UTF-8 without NUL.")]
Version = Annotated[int, Field(ge=1, lt=2**63, strict=True)]
EntityTag = Annotated[str, Field(min_length=1, max_length=128, description="Without quotes.")]
Tags = Annotated[
    dict[str, str],
    AfterValidator(check_tags),
    Field(description="At most 10; names of 1-128, values of 0-256 characters."),
]
Metadata = Annotated[
    dict[str, str],
    AfterValidator(checked_metadata),
    Field(description="As the X-Trivet-Meta-* headers of an upload, names in lower case without the prefix."),
]


class NoSurplus(WireModel):
    """Of bodies that may be long: what is too much is refused once, and not field by field in seconds."""

    @model_validator(mode="before")
    @classmethod
    def _check_count(cls, value: object) -> object:
        if isinstance(value, dict) and len(value) > len(cls.model_fields):
            raise ValueError("it has more fields than there are")
        return value


class FileReference(WireModel):
    """A file, by name."""

    bucket: BucketName
    key: Key

    @property
    def name(self) -> FileName:
        """As the services take it."""
        return FileName(self.bucket, self.key)


class MoveSource(FileReference):
    """The current version of a file."""

    etag: EntityTag | None = Field(default=None, description="412 unless this is the source's entity tag.")

    @property
    def preconditions(self) -> Preconditions:
        """What is asked of the source."""
        return Preconditions(if_match=None if self.etag is None else [self.etag])


class CopySourceReference(MoveSource):
    """The current version of a file, or an older one."""

    version: Version | None = Field(default=None, description="Of an older version; null for the current one.")


class CopyRequest(WireModel):
    """What to copy, and where to. What is not given of the description is that of the source."""

    model_config = example(
        source={"bucket": "default", "key": "hello.txt"},
        target={"bucket": "default", "key": "copy of hello.txt"},
        tags={"stage": "draft"},
    )

    source: CopySourceReference
    target: FileReference
    content_type: str | None = None
    user_metadata: Metadata | None = None
    tags: Tags | None = None

    def of_source(self) -> CopySource:
        """As the service takes it."""
        return CopySource(self.source.name, self.source.version, self.source.preconditions)

    def of_target(self, preconditions: Preconditions) -> CopyTarget:
        """As the service takes it. Raises InvalidRequestError."""
        return CopyTarget(
            self.target.name,
            preconditions,
            None if self.content_type is None else content_type([self.content_type]),
            self.user_metadata,
            self.tags,
        )


class RenameRequest(WireModel):
    """What to rename, and to what. The bucket may be another one."""

    model_config = example(
        source={"bucket": "default", "key": "hello.txt"}, target={"bucket": "default", "key": "greeting.txt"}
    )

    source: MoveSource
    target: FileReference


class RestoreRequest(FileReference):
    """Which version is to be the current one again."""

    model_config = example(bucket="default", key="hello.txt", version=17)

    version: Version


class CopyReceipt(Receipt):
    """The version that was published, as of an upload, and which version it is a copy of."""

    model_config = example(**RECEIPT_EXAMPLE, source_version=12)

    source_version: int = Field(description="The version that was copied.")

    @classmethod
    def of(cls, copied: Copied) -> Self:
        """The receipt of one copy."""
        return cls.model_validate({**receipt_fields(copied.published), "source_version": copied.source_version})


class BatchDeleteFile(NoSurplus):
    """One file to delete."""

    key: Key
    version: Version | None = Field(
        default=None, description="Remove this version for good; null deletes the file as DELETE does."
    )


class BatchDeleteRequest(NoSurplus):
    """The files to delete, in this order."""

    model_config = example(bucket="default", files=[{"key": "hello.txt"}, {"key": "old.txt", "version": 12}])

    bucket: BucketName
    files: list[BatchDeleteFile] = Field(min_length=1, max_length=BATCH_MAX, fail_fast=True)

    def to_delete(self) -> list[FileToDelete]:
        """As the service takes them."""
        return [FileToDelete(key=file.key, version=file.version) for file in self.files]


class BatchDeletedFile(WireModel):
    """What became of one file. One that was absent is deleted, too."""

    key: str
    version: int = Field(description="Log index that last changed the key.")
    is_marker: bool = Field(description="A delete marker was written, or removed.")
    removed_version: int | None = Field(description="The version that was removed for good; null for none.")
    problem: dict[str, Any] | None = Field(description="Why this file was not deleted, as a problem document.")

    @classmethod
    def of(cls, key: str, outcome: DeleteOutcome) -> Self:
        """One of them."""
        return cls(
            key=key,
            version=outcome.version,
            is_marker=outcome.is_marker,
            removed_version=outcome.removed_version,
            problem=outcome.problem,
        )


class BatchDeleted(WireModel):
    """In the order of the request."""

    model_config = example(
        results=[{"key": "hello.txt", "version": 21, "is_marker": False, "removed_version": 17, "problem": None}],
        log_index=21,
    )

    results: list[BatchDeletedFile]
    log_index: int

    @classmethod
    def of(cls, deleted: DeletedBatch) -> Self:
        """The whole batch."""
        results = [BatchDeletedFile.of(key, outcome) for key, outcome in deleted.files]
        return cls(results=results, log_index=deleted.log_index)


class TagsRequest(WireModel):
    """All tags that the version is to have."""

    model_config = example(tags={"stage": "draft", "project": "atlas"})

    tags: Tags


class TagsAnswer(WireModel):
    """The tags of one version."""

    model_config = example(
        bucket="default", key="hello.txt", version=17, tags={"stage": "draft", "project": "atlas"}, patch_index=23
    )

    bucket: str
    key: str
    version: int
    tags: dict[str, str]
    patch_index: int = Field(description="Log index that last changed the tags; 0 for those of the version itself.")

    @classmethod
    def of(cls, name: FileName, tagged: TaggedVersion) -> Self:
        """Of one version."""
        return cls(
            bucket=name.bucket,
            key=name.key,
            version=tagged.version,
            tags=tagged.tags,
            patch_index=tagged.patch_index,
        )


class ListedVersion(WireModel):
    """One version, or a delete marker, which has no bytes."""

    key: str
    path_unsafe: bool = Field(description=PATH_UNSAFE)
    version: int = Field(
        description="What `?version=` takes: it stays the same when the version becomes current again."
    )
    log_index: int = Field(description="Of the entry that made it the current version last.")
    is_current: bool
    is_marker: bool
    is_null: bool = Field(description="Written while the bucket kept no versions.")
    size_bytes: int
    etag: str | None
    content_type: str | None
    modified: str

    @classmethod
    def of(cls, row: VersionEntry) -> Self:
        """One row."""
        return cls(
            key=row.key,
            path_unsafe=not is_path_safe(row.key),
            version=row.version_id or row.version,
            log_index=row.version,
            is_current=row.is_current,
            is_marker=row.is_marker,
            is_null=row.is_null,
            size_bytes=row.size_bytes,
            etag=None if row.is_marker else row.etag,
            content_type=None if row.is_marker else row.content_type,
            modified=rfc3339(row.modified_ns),
        )


class VersionList(WireModel):
    """One page of versions; `cursor` is null on the last one. Each page shows the bucket as it is by then."""

    model_config = example(
        versions=[
            {
                "key": "hello.txt",
                "path_unsafe": False,
                "version": 17,
                "log_index": 17,
                "is_current": True,
                "is_marker": False,
                "is_null": False,
                "size_bytes": 10,
                "etag": ETAG_EXAMPLE,
                "content_type": "text/plain",
                "modified": "2026-11-25T16:35:12.106710Z",
            }
        ],
        prefixes=["2026/"],
        cursor=None,
        log_index=18,
    )

    versions: list[ListedVersion]
    prefixes: list[str]
    cursor: str | None
    log_index: int

    @classmethod
    def of(cls, page: VersionListPage) -> Self:
        """One page."""
        return cls(
            versions=[ListedVersion.of(row) for row in page.rows.versions],
            prefixes=page.rows.prefixes,
            cursor=page.cursor,
            log_index=page.log_index,
        )


class SettingsRequest(BucketSettings):
    """All settings of the bucket."""

    model_config = example(versioning="enabled", superseded_retention_s=2_592_000)

    superseded_retention_s: int | None = Field(default=None, ge=0, le=2**31, strict=True)
    quota_bytes: int | None = Field(default=None, ge=0, lt=2**63, strict=True)
    quota_files: int | None = Field(default=None, ge=0, lt=2**63, strict=True)


class SettingsPatch(WireModel):
    """A JSON merge patch (RFC 7396) of the settings: what is not named stays, null stands for the default."""

    model_config = example(quota_bytes=10_000_000_000, quota_files=None)

    versioning: Literal["off", "enabled", "suspended"] | None = None
    superseded_retention_s: int | None = Field(default=None, ge=0, le=2**31, strict=True)
    quota_bytes: int | None = Field(default=None, ge=0, lt=2**63, strict=True)
    quota_files: int | None = Field(default=None, ge=0, lt=2**63, strict=True)


class SettingsAnswer(BucketSettings):
    """The settings of a bucket, and how much there is in it."""

    model_config = example(
        bucket="default",
        versioning="enabled",
        superseded_retention_s=2_592_000,
        quota_bytes=10_000_000_000,
        quota_files=None,
        log_index=19,
        usage={"size_bytes": 1_048_576, "files": 3},
    )

    bucket: str
    log_index: int = Field(description="Of the entry that set them last; 0 while they are those by default.")
    usage: UsageInfo | None = Field(description="When the settings are read; null in the answer to a change.")

    @classmethod
    def of(cls, bucket: str, found: SettingsOfBucket) -> Self:
        """Of one bucket."""
        usage = None if found.usage is None else UsageInfo.of(found.usage)
        return cls(bucket=bucket, log_index=found.log_index, usage=usage, **found.settings.model_dump())
