"""Refuses a long body before it is read, when the log would refuse it at its end: quotas are decided there, and only there.

Asked about are bodies of more than one chunk whose length is announced; shorter ones cost less than the question. What a file
or part replaces makes room for it. So what looks too long is looked at once more, and where it is not known what would be
replaced, the log decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.gateway.access.context import as_system
from services.gateway.ports import Metadata
from services.gateway.semantics.raw_names import FileName
from shared.contracts.metadata import GetFile
from shared.contracts.objects import GetBucketSettings
from shared.contracts.uploads import Upload
from shared.contracts.usage import GetUsage, UsageAnswer, UsageOf
from shared.errors import QuotaExceededError, TrivetError


@dataclass(frozen=True, slots=True)
class _Replaced:
    """What is not there any more once the body is. `owner`: the identity that it counts for."""

    size_bytes: int = 0
    files: int = 0
    owner: str | None = None


_NOTHING = _Replaced()


class QuotaChecks:
    """Over the metadata of a gateway.

    Attributes:
        refused_count: bodies that were refused.
    """

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self.refused_count = 0

    async def check_file(self, name: FileName, size_bytes: int, owner: str | None) -> None:
        """Raises QuotaExceededError: there is no room for a file of so many bytes that `owner` writes under that name."""
        usage = await self._usage(name.bucket, owner)
        if usage is None or _excess(usage, name.bucket, owner, size_bytes, files=1, replaced=_NOTHING) is None:
            return
        replaced = await self._replaced_by(name)
        if (
            replaced is not None
            and (error := _excess(usage, name.bucket, owner, size_bytes, files=1, replaced=replaced)) is not None
        ):
            self.refused_count += 1
            raise error

    async def check_part(self, upload: Upload, size_bytes: int, *, replaced_bytes: int) -> None:
        """Raises QuotaExceededError: there is no room for a part of so many bytes in place of `replaced_bytes`."""
        usage = await self._usage(upload.bucket, upload.owner)
        replaced = _Replaced(replaced_bytes, 0, upload.owner)
        if usage is not None and (
            error := _excess(usage, upload.bucket, upload.owner, size_bytes, files=0, replaced=replaced)
        ):
            self.refused_count += 1
            raise error

    async def _usage(self, bucket: str, owner: str | None) -> UsageAnswer | None:
        """None where nobody says: it is a hint, and no reason to fail."""
        try:
            with as_system():
                answer, _ = await self._metadata.read(
                    GetUsage(buckets=[bucket], identities=[] if owner is None else [owner])
                )
        except TrivetError:
            return None
        return answer

    async def _replaced_by(self, name: FileName) -> _Replaced | None:
        """What a new version of the file would replace; None where that is not known here."""
        try:
            with as_system():
                settings, _ = await self._metadata.read(GetBucketSettings(bucket=name.bucket))
                found, _ = await self._metadata.read(GetFile(bucket=name.bucket, key=name.key, pages=True))
        except TrivetError:
            return None
        if settings.settings is None:
            return None
        match settings.settings.versioning:
            case "off" if found.file is not None:
                return _Replaced(found.file.content.size_bytes, 1, found.file.owner)
            case "off":
                return _NOTHING
            case "enabled" if settings.settings.superseded_retention_s != 0:
                return _NOTHING
        return None


def _excess(
    usage: UsageAnswer, bucket: str, owner: str | None, size_bytes: int, *, files: int, replaced: _Replaced
) -> QuotaExceededError | None:
    """What the log would answer; None where it would not refuse."""
    of_bucket = usage.buckets.get(bucket)
    of_owner = None if owner is None else usage.identities.get(owner)
    own = replaced if replaced.owner == owner else _NOTHING
    for of, found, gone in (("bucket", of_bucket, replaced), ("identity", of_owner, own)):
        if found is None:
            continue
        error = _of_one(of, found, size_bytes - gone.size_bytes, files - gone.files)
        if error is not None:
            return error
    return None


def _of_one(of: str, usage: UsageOf, more_bytes: int, more_files: int) -> QuotaExceededError | None:
    for unit, limit, used, needed in (
        ("bytes", usage.quota_bytes, usage.size_bytes, more_bytes),
        ("files", usage.quota_files, usage.files, more_files),
    ):
        if limit is not None and needed > 0 and used + needed > limit:
            return QuotaExceededError(
                f"The {of} would have more {unit} than it may have.",
                of=of,
                unit=unit,
                limit=limit,
                used=used,
                needed=needed,
            )
    return None
