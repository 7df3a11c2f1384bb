"""Reads which version of a file is current, linearizably; a record that the gateway knows is not sent again (G-133)."""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

from services.gateway.cluster_caches import ClusterCaches
from services.gateway.ports import Metadata
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.record_cache import KnownFile, RecordCache
from shared.consensus_calls.client import ReadContext
from shared.contracts.files import FileVersion
from shared.contracts.metadata import FileAnswer, GetFile
from shared.errors import (
    BucketNotFoundError,
    FileNotFoundInBucketError,
    InvalidRequestError,
    MethodNotAllowedError,
    VersionNotFoundError,
)

PLAIN_QUESTIONS_S: Final = 10.0
"""For so long a leader that refused a question is asked as those of older versions are."""


class CurrentRecord(NamedTuple):
    """A version, where in the log it was read, and whether its bucket keeps versions or did."""

    version: FileVersion
    context: ReadContext
    keeps_versions: bool


class Records:
    """The records of all files, through `cache`."""

    def __init__(self, metadata: Metadata, cache: RecordCache, caches: ClusterCaches) -> None:
        self._metadata = metadata
        self._cache = cache
        self._caches = caches
        self._plain_until_s = 0.0

    def known(self, name: FileName) -> FileVersion | None:
        """What was the current version a while ago. Nothing of it may be shown before `read` has given the same."""
        known = self._cache.find(name)
        return None if known is None else known.version

    def published(self, version: FileVersion) -> None:
        """Remember `version`, which a publish in the cluster that answers now made the current one."""
        self._cache.put(FileName(version.bucket, version.key), self._caches.cluster_id, version)

    async def read(self, name: FileName, version: int | None = None) -> CurrentRecord:
        """The current version, or the one that `version` names.

        Raises:
            BucketNotFoundError, FileNotFoundInBucketError: with the fact `version`, the index that last changed the key.
            VersionNotFoundError: it was never there, or was removed for good.
            MethodNotAllowedError: `version` names a delete marker, which can only be deleted.
            TrivetError: as a metadata read.
        """
        if version is not None:
            # Not from the cache: it holds what is current, and tags of older versions change as well.
            answer, context = await self._metadata.read(
                GetFile(bucket=name.bucket, key=name.key, version=version, pages=True)
            )
            return CurrentRecord(_version_in(name, answer, version), context, answer.keeps_versions)
        if time.monotonic() >= self._plain_until_s:
            try:
                return await self._read_current(name)
            except InvalidRequestError:
                # The leader is of an older version, and does not know the question. Its answers fill no cache.
                self._cache.forget()
                self._plain_until_s = time.monotonic() + PLAIN_QUESTIONS_S
        answer, context = await self._metadata.read(GetFile(bucket=name.bucket, key=name.key))
        return self._take(name, answer, context)

    async def _read_current(self, name: FileName) -> CurrentRecord:
        if (known := self._cache.find(name)) is not None:
            answer, context = await self._metadata.read(
                GetFile(
                    bucket=name.bucket,
                    key=name.key,
                    known_version=known.version.version,
                    known_patch_index=known.version.patch_index,
                    pages=True,
                )
            )
            if _is_unchanged(known, answer, context):
                self._cache.confirmed()
                return CurrentRecord(known.version, context, answer.keeps_versions)
            if not answer.is_unchanged:
                return self._take(name, answer, context)
            # The number is that of an entry in the log of another cluster.
        answer, context = await self._metadata.read(GetFile(bucket=name.bucket, key=name.key, pages=True))
        return self._take(name, answer, context)

    def _take(self, name: FileName, answer: FileAnswer, context: ReadContext) -> CurrentRecord:
        """The version in `answer`, remembered. Raises BucketNotFoundError, FileNotFoundInBucketError."""
        if answer.file is not None:
            self._cache.put(name, context.cluster_id, answer.file)
            return CurrentRecord(answer.file, context, answer.keeps_versions)
        self._cache.drop(name)
        _require_bucket(name, answer)
        facts: dict[str, Any] = {"is_marker": True} if answer.is_marker else {}
        if answer.marker_id is not None:
            facts |= {"marker_id": answer.marker_id, "is_null": answer.is_null}
        raise FileNotFoundInBucketError(
            "There is no such file.", bucket=name.bucket, version=answer.version, horizon=answer.horizon, **facts
        )


def _version_in(name: FileName, answer: FileAnswer, version: int) -> FileVersion:
    if answer.file is not None:
        return answer.file
    _require_bucket(name, answer)
    if answer.is_marker:
        raise MethodNotAllowedError(
            "This version is a delete marker; it can only be deleted.", version=answer.version, is_marker=True
        )
    raise VersionNotFoundError(
        "The file has no such version.", bucket=name.bucket, version=answer.version, asked_version=version
    )


def _require_bucket(name: FileName, answer: FileAnswer) -> None:
    if not answer.has_bucket:
        raise BucketNotFoundError("There is no such bucket.", bucket=name.bucket, version=answer.version)


def _is_unchanged(known: KnownFile, answer: FileAnswer, context: ReadContext) -> bool:
    is_same_entry = known.cluster_id == context.cluster_id and known.version.version == answer.version
    return answer.is_unchanged and is_same_entry
