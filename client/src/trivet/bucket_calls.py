"""Buckets and their settings."""

from __future__ import annotations

from typing import Any, Final

from msgspec import UNSET, UnsetType

from trivet.caller import Request, new_idempotency_key
from trivet.calls import Calls, Rows, pages_of
from trivet.copy_calls import nothing
from trivet.headers import change_headers
from trivet.models import Bucket, BucketCreated, BucketPage, BucketSettings
from trivet.targets import bucket_target, with_query

VERSIONING: Final = ("off", "enabled", "suspended")


class BucketCalls(Calls):
    """See `trivet.AsyncClient`."""

    def buckets(self) -> Rows[BucketPage, Bucket]:
        """The buckets in which the key may do something, by name."""
        return Rows(pages_of(self._bucket_page), lambda page: page.buckets)

    async def create_bucket(
        self, bucket: str, *, versioning: str | None = None, idempotency_key: str | None = None
    ) -> BucketCreated:
        """Make a bucket. One that exists stays as it is.

        Args:
            versioning: set by a second request, as `set_bucket_settings` does, also of a bucket that exists; None to leave it.

        Raises:
            ValueError: there is no such versioning.
        """
        if versioning is not None:
            _check_versioning(versioning)
        headers = change_headers(idempotency_key=idempotency_key or new_idempotency_key())
        made = await self._caller.model(BucketCreated, "PUT", bucket_target(bucket, "buckets"), headers=headers)
        if versioning is not None:
            await self.set_bucket_settings(bucket, versioning=versioning)
        return made

    async def delete_bucket(self, bucket: str, *, idempotency_key: str | None = None) -> None:
        """Delete a bucket in which there is nothing, no older version either.

        Raises:
            Conflict: there is something in it.
        """
        headers = change_headers(idempotency_key=idempotency_key or new_idempotency_key())
        await self._caller.call(Request("DELETE", bucket_target(bucket, "buckets"), headers), nothing)

    async def bucket_settings(self, bucket: str) -> BucketSettings:
        """What a bucket keeps and may hold, and how much there is in it."""
        return await self._caller.model(BucketSettings, "GET", bucket_target(bucket, "buckets", tail="/settings"))

    async def set_bucket_settings(
        self,
        bucket: str,
        *,
        versioning: str | UnsetType = UNSET,
        superseded_retention_s: int | UnsetType | None = UNSET,
        quota_bytes: int | UnsetType | None = UNSET,
        quota_files: int | UnsetType | None = UNSET,
        idempotency_key: str | None = None,
    ) -> BucketSettings:
        """Change what is named, in one step; all else stays.

        Args:
            versioning: `enabled`; `suspended` once it was enabled; `off` while it never was.
            superseded_retention_s: how long a version is kept once it is not the current one; None for ever.
            quota_bytes, quota_files: None for no limit.

        Raises:
            ValueError: there is no such versioning.
            Conflict: versioning was enabled once, and cannot be off.
        """
        if versioning is not UNSET:
            _check_versioning(versioning)
        wanted = {
            "versioning": versioning,
            "superseded_retention_s": superseded_retention_s,
            "quota_bytes": quota_bytes,
            "quota_files": quota_files,
        }
        return await self._caller.model(
            BucketSettings,
            "PATCH",
            bucket_target(bucket, "buckets", tail="/settings"),
            headers=change_headers(idempotency_key=idempotency_key or new_idempotency_key()),
            content={name: value for name, value in wanted.items() if value is not UNSET},
        )

    async def _bucket_page(self, cursor: str | None) -> BucketPage:
        return await self._caller.model(BucketPage, "GET", with_query("/v1/buckets", {"cursor": cursor}))


def _check_versioning(versioning: Any) -> None:
    # True is a likely slip, and the store could only call it malformed.
    if versioning not in VERSIONING:
        raise ValueError(f"versioning is one of {', '.join(map(repr, VERSIONING))}, not {versioning!r}")
