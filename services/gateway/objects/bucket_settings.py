"""Settings of a bucket: whether it keeps older versions of its files, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.gateway.ports import Metadata
from services.gateway.transfers.idempotency import IdempotencyKey, IdempotencyStore
from shared.contracts.objects import BucketSettings, GetBucketSettings, PutBucketSettings, SettingName
from shared.contracts.time import TimeSource
from shared.contracts.usage import UsageOf
from shared.errors import BucketNotFoundError


@dataclass(frozen=True, slots=True)
class SettingsOfBucket:
    """As they are since the entry at `log_index`; 0 where they were never set. `usage`: where it was asked for."""

    settings: BucketSettings
    log_index: int
    usage: UsageOf | None = None


class SettingsOfBuckets:
    """Of all buckets."""

    def __init__(self, metadata: Metadata, idempotency: IdempotencyStore, clock: TimeSource) -> None:
        self._metadata = metadata
        self._idempotency = idempotency
        self._clock = clock

    async def read(self, bucket: str) -> SettingsOfBucket:
        """The settings of `bucket`, those by default included.

        Raises:
            BucketNotFoundError: there is no such bucket.
        """
        answer, _ = await self._metadata.read(GetBucketSettings(bucket=bucket))
        if answer.settings is None:
            raise BucketNotFoundError("There is no such bucket.", bucket=bucket)
        return SettingsOfBucket(answer.settings, answer.log_index, answer.usage)

    async def put(
        self,
        bucket: str,
        settings: BucketSettings,
        key: IdempotencyKey | None,
        names: Sequence[SettingName] | None = None,
    ) -> SettingsOfBucket:
        """Replace them: all, or those of `names`, in one entry.

        Raises:
            BucketNotFoundError: there is no such bucket; definite.
            ConflictError: versions would be switched off, or a backup needs versions that would go; definite.
        """
        command = PutBucketSettings(
            bucket=bucket, settings=settings, names=None if names is None else list(names), stamp=self._clock.stamp()
        )
        with self._idempotency.running(key):
            result = (await self._idempotency.propose(command, key)).result
        return SettingsOfBucket(result.settings or settings, result.log_index)
