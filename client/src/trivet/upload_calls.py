"""Uploads by parts, each step by itself. `upload_file` does all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trivet.bodies import Body, Data, OpenedBody
from trivet.caller import Request, decoded, new_idempotency_key, whole
from trivet.calls import Calls, Rows, pages_of
from trivet.content_types import guessed_type
from trivet.copy_calls import nothing
from trivet.errors import answer_invalid
from trivet.file_calls import check_sent
from trivet.headers import change_headers, description_headers
from trivet.models import ListedPart, PartReceipt, Receipt, Upload, UploadBegun, UploadInfo, UploadPage
from trivet.targets import named_target, with_query


class UploadCalls(Calls):
    """See `trivet.AsyncClient`."""

    async def begin_upload(
        self,
        bucket: str,
        key: str,
        *,
        content_type: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        lifetime_s: int | None = None,
        idempotency_key: str | None = None,
    ) -> UploadBegun:
        """Begin an upload by parts: 1 to 10,000 of them, each of 5 MiB at least but for the last.

        Args:
            content_type: None to guess it by the ending of the key, as `photo.jpg` is `image/jpeg`.
            lifetime_s: an upload that is not completed by then is aborted; None for 7 days.
        """
        content: dict[str, Any] = {"bucket": bucket, "key": key}
        content_type = content_type or guessed_type(key)
        wanted = {"content_type": content_type, "user_metadata": user_metadata, "tags": tags, "lifetime_s": lifetime_s}
        content |= {name: value for name, value in wanted.items() if value is not None}
        headers = change_headers(idempotency_key=idempotency_key or new_idempotency_key())
        return await self._caller.model(UploadBegun, "POST", "/v1/uploads", headers=headers, content=content)

    async def put_part(
        self, upload_id: str, number: int, data: Data, *, write_quorum: int | None = None
    ) -> PartReceipt:
        """Store a part. It is durable then, and not visible before the upload is completed.

        Raises:
            DigestMismatch: other bytes were stored than were read.
            UploadNotFound: there is no such upload under way.
        """
        with OpenedBody(data) as body:
            return await self._put_part(upload_id, number, body, write_quorum)

    async def copy_part(
        self,
        upload_id: str,
        number: int,
        bucket: str,
        key: str,
        *,
        version: int | None = None,
        etag: str | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> PartReceipt:
        """Make a part of the bytes of a file from `start` up to `end`, without moving them."""
        source = {"bucket": bucket, "key": key, "version": version, "etag": etag}
        return await self._caller.model(
            PartReceipt,
            "POST",
            named_target("/v1/uploads", upload_id, f"/parts/{number}/copy"),
            content={
                "source": {name: value for name, value in source.items() if value is not None},
                "range_start": start,
                "range_end": end,
            },
        )

    async def upload(self, upload_id: str) -> Upload:
        """An upload under way, with all of its parts.

        Raises:
            UploadNotFound: it is completed, was aborted, or never began.
        """
        target = named_target("/v1/uploads", upload_id)
        found = await self._caller.model(Upload, "GET", target)
        parts: list[ListedPart] = list(found.parts)
        after = found.next_after
        while after is not None:
            page = await self._caller.model(Upload, "GET", with_query(target, {"after": after}))
            parts += page.parts
            if page.next_after is not None and page.next_after <= after:
                raise answer_invalid("a place in a list came again")
            after = page.next_after
        fields = {name: getattr(found, name) for name in found.__struct_fields__}
        return Upload(**fields | {"parts": parts, "next_after": None})

    def uploads(self, bucket: str, prefix: str = "") -> Rows[UploadPage, UploadInfo]:
        """The uploads of a bucket that are under way, by key and in the order in which they began."""

        async def read(cursor: str | None) -> UploadPage:
            query = {"bucket": bucket, "prefix": prefix or None, "cursor": cursor}
            return await self._caller.model(UploadPage, "GET", with_query("/v1/uploads", query))

        return Rows(pages_of(read), lambda page: page.uploads)

    async def complete_upload(
        self,
        upload_id: str,
        parts: Iterable[PartReceipt | tuple[int, str]],
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Join parts, receipts or pairs of number and etag, into the file's new version. No byte is moved.

        The same again gets the same receipt, for 7 days.
        """
        pairs = [part if isinstance(part, tuple) else (part.number, part.etag) for part in parts]
        return await self._caller.model(
            Receipt,
            "POST",
            named_target("/v1/uploads", upload_id, "/complete"),
            headers=change_headers(if_match=if_match, if_none_match=if_none_match, idempotency_key=idempotency_key),
            content={"parts": [{"number": number, "etag": etag} for number, etag in sorted(pairs)]},
        )

    async def abort_upload(self, upload_id: str, *, idempotency_key: str | None = None) -> None:
        """Give an upload up; its parts are gone."""
        headers = change_headers(idempotency_key=idempotency_key or new_idempotency_key())
        await self._caller.call(Request("DELETE", named_target("/v1/uploads", upload_id), headers), nothing)

    async def _put_part(self, upload_id: str, number: int, body: Body, write_quorum: int | None) -> PartReceipt:
        target = named_target("/v1/uploads", upload_id, f"/parts/{number}")
        headers = description_headers(None, None, write_quorum)
        part = decoded(PartReceipt, await self._caller.call(Request("PUT", target, headers, body), whole))
        check_sent(part.etag, body, f"part {number}")
        return part
