"""Tags of a version: read and replaced. They change neither its bytes, nor its entity tag, nor its date."""

from __future__ import annotations

from dataclasses import dataclass

from services.gateway.ports import Metadata
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.idempotency import IdempotencyKey, IdempotencyStore
from shared.contracts.metadata import FileAnswer, GetFile
from shared.contracts.objects import SetTags
from shared.contracts.time import TimeSource
from shared.errors import (
    BucketNotFoundError,
    FileNotFoundInBucketError,
    SourceIsMarkerError,
    TrivetError,
    VersionNotFoundError,
)


@dataclass(frozen=True, slots=True)
class TaggedVersion:
    """The tags of one version. `patch_index`: log index that last changed them; 0 for those of the version itself."""

    version: int
    tags: dict[str, str]
    patch_index: int


class Tags:
    """Of all files."""

    def __init__(self, metadata: Metadata, idempotency: IdempotencyStore, clock: TimeSource) -> None:
        self._metadata = metadata
        self._idempotency = idempotency
        self._clock = clock

    async def read(self, name: FileName, version: int | None) -> TaggedVersion:
        """The tags of `version`, None for the current one.

        Raises:
            NotFoundError: there is no such bucket, file or version; definite.
            SourceIsMarkerError: the version is a delete marker; definite.
        """
        question = GetFile(bucket=name.bucket, key=name.key, version=version, pages=True)
        answer, _ = await self._metadata.read(question)
        if answer.file is None:
            raise _absent(name, version, answer)
        file = answer.file
        return TaggedVersion(file.version_id or file.version, file.tags, file.patch_index)

    async def set(
        self, name: FileName, version: int | None, tags: dict[str, str] | None, key: IdempotencyKey | None
    ) -> TaggedVersion:
        """Replace the tags of `version`, None for the current one; None for `tags` removes them.

        Raises:
            NotFoundError: there is no such bucket, file or version; definite.
        """
        command = SetTags(bucket=name.bucket, key=name.key, version=version, tags=tags, stamp=self._clock.stamp())
        with self._idempotency.running(key):
            outcome = await self._idempotency.propose(command, key)
        return TaggedVersion(outcome.result.version, tags or {}, outcome.result.patch_index)


def _absent(name: FileName, version: int | None, answer: FileAnswer) -> TrivetError:
    if not answer.has_bucket:
        return BucketNotFoundError("There is no such bucket.", bucket=name.bucket, version=answer.version)
    if version is None:
        return FileNotFoundInBucketError(
            "There is no such file.", bucket=name.bucket, version=answer.version, horizon=answer.horizon
        )
    if answer.is_marker:
        return SourceIsMarkerError("This version is a delete marker, which has no tags.", version=answer.version)
    return VersionNotFoundError("The file has no such version.", version=answer.version)
