"""Reads which version of a file is current, linearizably; a record that the gateway knows is not sent again."""

from __future__ import annotations

from services.gateway.cluster_caches import ClusterCaches
from services.gateway.ports import Metadata
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.record_cache import KnownFile, RecordCache
from shared.consensus_calls.client import ReadContext
from shared.contracts.files import FileVersion
from shared.contracts.metadata import FileAnswer, GetFile
from shared.errors import BucketNotFoundError, FileNotFoundInBucketError, InvalidRequestError


class Records:
    """The records of all files, through `cache`."""

    def __init__(self, metadata: Metadata, cache: RecordCache, caches: ClusterCaches) -> None:
        self._metadata = metadata
        self._cache = cache
        self._caches = caches

    def known(self, name: FileName) -> FileVersion | None:
        """What was the current version a while ago. Nothing of it may be shown before `read` has given the same."""
        known = self._cache.find(name)
        return None if known is None else known.version

    def published(self, version: FileVersion) -> None:
        """Remember `version`, which a publish in the cluster that answers now made the current one."""
        self._cache.put(FileName(version.bucket, version.key), self._caches.cluster_id, version)

    async def read(self, name: FileName) -> tuple[FileVersion, ReadContext]:
        """The current version.

        Raises:
            BucketNotFoundError, FileNotFoundInBucketError: with the fact `version`, the index that last changed the key.
            TrivetError: as a metadata read.
        """
        if (known := self._cache.find(name)) is not None:
            try:
                answer, context = await self._ask(name, known.version.version)
            except InvalidRequestError:
                # The leader is of an older version by now, and does not know the question. Its answers fill no cache.
                self._cache.forget()
            else:
                if _is_unchanged(known, answer, context):
                    self._cache.confirmed()
                    return known.version, context
                if not answer.is_unchanged:
                    return self._take(name, answer, context), context
                # The number is that of an entry in the log of another cluster.
        answer, context = await self._ask(name, None)
        return self._take(name, answer, context), context

    async def _ask(self, name: FileName, known_version: int | None) -> tuple[FileAnswer, ReadContext]:
        question = GetFile(bucket=name.bucket, key=name.key, known_version=known_version)
        return await self._metadata.read(question)

    def _take(self, name: FileName, answer: FileAnswer, context: ReadContext) -> FileVersion:
        """The version in `answer`, remembered. Raises BucketNotFoundError, FileNotFoundInBucketError."""
        if answer.file is not None:
            self._cache.put(name, context.cluster_id, answer.file)
            return answer.file
        self._cache.drop(name)
        if not answer.has_bucket:
            raise BucketNotFoundError("There is no such bucket.", bucket=name.bucket, version=answer.version)
        raise FileNotFoundInBucketError(
            "There is no such file.", bucket=name.bucket, version=answer.version, horizon=answer.horizon
        )


def _is_unchanged(known: KnownFile, answer: FileAnswer, context: ReadContext) -> bool:
    is_same_entry = known.cluster_id == context.cluster_id and known.version.version == answer.version
    return answer.is_unchanged and is_same_entry
