"""Copy, rename and restore: one entry that refers to the bytes of a version that exists; none are moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.idempotency import IdempotencyKey, IdempotencyStore
from services.gateway.transfers.uploads import UploadResult
from shared.contracts.files import Preconditions
from shared.contracts.objects import CopyFile
from shared.contracts.s3 import S3Attributes
from shared.contracts.time import TimeSource

_UNCONDITIONAL: Final = Preconditions()


@dataclass(frozen=True, slots=True)
class CopySource:
    """What is copied: the current version of a file, or the one that `version` names."""

    name: FileName
    version: int | None = None
    preconditions: Preconditions = _UNCONDITIONAL


@dataclass(frozen=True, slots=True)
class CopyTarget:
    """Where the copy becomes the current version. What is None of its description is that of the source.

    `s3`: the headers and the storage class that S3 shows of it.
    """

    name: FileName
    preconditions: Preconditions = _UNCONDITIONAL
    content_type: str | None = None
    user_metadata: dict[str, str] | None = None
    tags: dict[str, str] | None = None
    s3: S3Attributes | None = None


@dataclass(frozen=True, slots=True)
class Copied:
    """The version that was published, and the one that it is a copy of."""

    published: UploadResult
    source_version: int


class Copies:
    """Each call is one entry in the log."""

    def __init__(self, idempotency: IdempotencyStore, clock: TimeSource) -> None:
        self._idempotency = idempotency
        self._clock = clock

    async def copy(self, source: CopySource, target: CopyTarget, key: IdempotencyKey | None) -> Copied:
        """Publish what `source` names under the name of `target`.

        Raises:
            NotFoundError: a bucket, the source, or the version of it that was asked for does not exist; definite.
            InvalidRequestError: the source is a delete marker, or the target itself with nothing changed; definite.
            PreconditionFailedError: of the source or of the target; definite.
        """
        return await self._propose(source, target, key, is_move=False)

    async def move(self, source: CopySource, target: CopyTarget, key: IdempotencyKey | None) -> Copied:
        """`copy` of the current version, which is deleted under its old name by the same entry."""
        return await self._propose(source, target, key, is_move=True)

    async def _propose(
        self, source: CopySource, target: CopyTarget, key: IdempotencyKey | None, *, is_move: bool
    ) -> Copied:
        command = CopyFile(
            bucket=target.name.bucket,
            key=target.name.key,
            source_bucket=source.name.bucket,
            source_key=source.name.key,
            source_version=source.version,
            source_preconditions=source.preconditions,
            preconditions=target.preconditions,
            content_type=target.content_type,
            user_metadata=target.user_metadata,
            tags=target.tags,
            s3=target.s3,
            is_move=is_move,
            stamp=self._clock.stamp(),
        )
        with self._idempotency.running(key):
            outcome = await self._idempotency.propose(command, key)
        result = outcome.result
        published = UploadResult(result.version, result.created, outcome.log_index, outcome.term)
        return Copied(published, result.source_version)
