"""Copies, renames, restores and tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trivet.caller import Request, new_idempotency_key, whole
from trivet.errors import FileNotFound
from trivet.headers import change_headers
from trivet.list_calls import ListCalls
from trivet.models import CopyReceipt, Tags
from trivet.targets import file_target
from trivet.transport import Answer

NO_OLDER_VERSION: Final = "no_older_version"
"""The code of an error that only this client makes."""


class CopyCalls(ListCalls):
    """See `trivet.AsyncClient`."""

    async def copy(
        self,
        bucket: str,
        key: str,
        to_bucket: str,
        to_key: str,
        *,
        version: int | None = None,
        etag: str | None = None,
        content_type: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> CopyReceipt:
        """Copy a file without moving a byte.

        Args:
            version: of the source; None for the current one.
            etag: only if it is that of the source.
            content_type, user_metadata, tags: of the copy; None for those of the source.
            if_match, if_none_match: about the target.
        """
        source = _left_out({"bucket": bucket, "key": key, "version": version, "etag": etag})
        description = {"content_type": content_type, "user_metadata": user_metadata, "tags": tags}
        content = {"source": source, "target": {"bucket": to_bucket, "key": to_key}, **_left_out(description)}
        return await self._copied("copy", content, if_match, if_none_match, idempotency_key)

    async def rename(
        self,
        bucket: str,
        key: str,
        to_bucket: str,
        to_key: str,
        *,
        etag: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> CopyReceipt:
        """Give a file another name, in one step: no reader sees both names, or neither. Arguments as of `copy`."""
        source = _left_out({"bucket": bucket, "key": key, "etag": etag})
        content = {"source": source, "target": {"bucket": to_bucket, "key": to_key}}
        return await self._copied("rename", content, if_match, if_none_match, idempotency_key)

    async def restore(
        self,
        bucket: str,
        key: str,
        version: int | None = None,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> CopyReceipt:
        """Make an older version the current one again, as a new version. A file that was deleted comes back so.

        Args:
            version: None for the newest one with bytes that is not the current one: a deleted file comes back as it was last,
                any other as it was before.

        Raises:
            FileNotFound: there is no such version, or none that is older.
        """
        chosen = version if version is not None else await self._last_before(bucket, key)
        content = {"bucket": bucket, "key": key, "version": chosen}
        return await self._copied("restore", content, if_match, if_none_match, idempotency_key)

    async def tags(self, bucket: str, key: str, *, version: int | None = None) -> Tags:
        """The tags of a file, or of one version of it."""
        return await self._caller.model(Tags, "GET", file_target(bucket, key, version=version, below="tags"))

    async def set_tags(
        self,
        bucket: str,
        key: str,
        tags: Mapping[str, str],
        *,
        version: int | None = None,
        idempotency_key: str | None = None,
    ) -> Tags:
        """Replace all tags, at most 10. The etag and the version of the file stay."""
        return await self._caller.model(
            Tags,
            "PUT",
            file_target(bucket, key, version=version, below="tags"),
            headers=change_headers(idempotency_key=idempotency_key or new_idempotency_key()),
            content={"tags": dict(tags)},
        )

    async def delete_tags(
        self, bucket: str, key: str, *, version: int | None = None, idempotency_key: str | None = None
    ) -> None:
        """Remove all tags."""
        headers = change_headers(idempotency_key=idempotency_key or new_idempotency_key())
        await self._caller.call(
            Request("DELETE", file_target(bucket, key, version=version, below="tags"), headers), nothing
        )

    async def _last_before(self, bucket: str, key: str) -> int:
        async for page in self.version_pages(bucket, key=key):
            for row in page.versions:
                if not row.is_marker and not row.is_current:
                    return row.version
        raise FileNotFound(
            404,
            NO_OLDER_VERSION,
            "No older version",
            f"{bucket}/{key} has no older version. A bucket whose versioning is enabled keeps what is replaced or deleted.",
            definite=True,
        )

    async def _copied(
        self,
        call: str,
        content: dict[str, Any],
        if_match: str | None,
        if_none_match: str | None,
        idempotency_key: str | None,
    ) -> CopyReceipt:
        headers = change_headers(
            if_match=if_match,
            if_none_match=if_none_match,
            idempotency_key=idempotency_key or new_idempotency_key(),
        )
        return await self._caller.model(CopyReceipt, "POST", f"/v1/{call}", headers=headers, content=content)


async def nothing(answer: Answer) -> None:
    """Of an answer without a body."""
    await whole(answer)


def _left_out(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
