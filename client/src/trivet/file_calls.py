"""Files: put, get, open, head, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import islice

from trivet.bodies import Body, Data, OpenedBody
from trivet.caller import Request, decoded, new_idempotency_key, whole
from trivet.calls import Calls
from trivet.content_types import guessed_type
from trivet.download import AsyncDownload
from trivet.errors import DigestMismatch
from trivet.headers import change_headers, description_headers, file_info, quoted, range_header
from trivet.models import BatchDeleted, Deleted, FileInfo, Receipt
from trivet.targets import file_target
from trivet.transport import Answer

BATCH_MAX = 1000
"""Most files of one batch deletion."""


class FileCalls(Calls):
    """See `trivet.AsyncClient`."""

    async def put(
        self,
        bucket: str,
        key: str,
        data: Data,
        *,
        content_type: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        write_quorum: int | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Store a file, in one request. The receipt says that it is durable.

        What can be read again (bytes, a `Path`, a file on disk) is sent again after a failure; a stream is sent once.
        For a large file see `upload_file`, which goes on where it was interrupted.

        Args:
            data: bytes, a `pathlib.Path`, a binary file, or an iterator or asynchronous iterator of bytes.
            content_type: None to guess it by the ending of the key, as `photo.jpg` is `image/jpeg`.
            user_metadata: kept with the file: names and values of printable ASCII.
            if_match: an etag; only replaces that version.
            if_none_match: `*`; only creates.
            write_quorum: replicas of every chunk that must be durable before the answer.
            idempotency_key: under which a repeat, of another process, too, happens once; without one the client makes its own.

        Raises:
            PreconditionFailed: a condition does not hold.
            DigestMismatch: other bytes were stored than were read: the source changed meanwhile, or memory is bad.
            TrivetError: see `trivet.errors`.
        """
        headers = description_headers(content_type or guessed_type(key), user_metadata, write_quorum)
        headers |= change_headers(
            if_match=if_match,
            if_none_match=if_none_match,
            idempotency_key=idempotency_key or new_idempotency_key(),
        )
        with OpenedBody(data) as body:
            return await self._put(bucket, key, body, headers)

    async def get(
        self,
        bucket: str,
        key: str,
        *,
        version: int | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: str | None = None,
        read_quorum: int | None = None,
    ) -> bytes:
        """The bytes of a file, or those from `start` up to `end`; a negative `start` means the last bytes.

        Those of a whole file are compared with its digest, where it has one.

        Raises:
            FileNotFound: there is no such file or version.
            RangeNotSatisfiable: it has no byte of that range.
            DigestMismatch: other bytes came than were stored.
            TrivetError: see `trivet.errors`.
        """
        download = await self._download(bucket, key, version, range_header(start, end), if_match, read_quorum)
        try:
            return await download.read()
        finally:
            download.close()

    @asynccontextmanager
    async def open(
        self,
        bucket: str,
        key: str,
        *,
        version: int | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: str | None = None,
        read_quorum: int | None = None,
    ) -> AsyncIterator[AsyncDownload]:
        """The file as a stream: `async with store.open(bucket, key) as download`, then `async for chunk in download`.

        When the connection is lost, the download goes on where it was, if the file is still the same. Arguments and errors
        as of `get`; BrokenDownload when it could not go on.
        """
        download = await self._download(bucket, key, version, range_header(start, end), if_match, read_quorum)
        try:
            yield download
        finally:
            download.close()

    async def head(
        self,
        bucket: str,
        key: str,
        *,
        version: int | None = None,
        if_match: str | None = None,
        read_quorum: int | None = None,
    ) -> FileInfo:
        """What the store knows about a file, without its bytes.

        Args:
            read_quorum: has the storage nodes asked about every chunk; fewer proved replicas are an error.

        Raises:
            FileNotFound: there is no such file or version.
        """
        target = file_target(bucket, key, version=version)
        headers = _read_headers(None, if_match, read_quorum)
        answer = await self._caller.call(Request("HEAD", target, headers), _only_head)
        return file_info(bucket, key, answer.headers)

    async def delete(
        self,
        bucket: str,
        key: str,
        *,
        version: int | None = None,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> Deleted:
        """Delete a file. Where the bucket keeps versions, it stays behind a delete marker, and `restore` brings it back.

        Args:
            version: removes that version, or that marker, for good.

        Raises:
            FileNotFound: there is no such file or version.
        """
        headers = change_headers(if_match=if_match, idempotency_key=idempotency_key or new_idempotency_key())
        answer = await self._caller.call(
            Request("DELETE", file_target(bucket, key, version=version), headers), _only_head
        )
        return Deleted(
            version=file_info(bucket, key, answer.headers).log_index,
            is_marker=answer.headers.get("x-trivet-delete-marker") == "true",
        )

    async def delete_many(self, bucket: str, keys: Iterable[str | tuple[str, int]]) -> BatchDeleted:
        """Delete files, a thousand in one request; a pair is of a key and the version to remove for good.

        One that is absent counts as deleted. Each row of the answer has its `problem`, or None.
        """
        results, log_index, rows = [], 0, iter(keys)
        while batch := list(islice(rows, BATCH_MAX)):
            files = [{"key": row} if isinstance(row, str) else {"key": row[0], "version": row[1]} for row in batch]
            answer = await self._caller.model(
                BatchDeleted,
                "POST",
                "/v1/batch-delete",
                headers=change_headers(idempotency_key=new_idempotency_key()),
                content={"bucket": bucket, "files": files},
            )
            results += answer.results
            log_index = answer.log_index
        return BatchDeleted(results=results, log_index=log_index)

    async def _download(  # noqa: PLR0917 as `open` was given them
        self,
        bucket: str,
        key: str,
        version: int | None,
        wanted: str | None,
        if_match: str | None,
        read_quorum: int | None,
    ) -> AsyncDownload:
        request = Request(
            "GET", file_target(bucket, key, version=version), _read_headers(wanted, if_match, read_quorum)
        )
        answer = await self._caller.open(request)
        try:
            return AsyncDownload(self._caller, request, answer, bucket, key)
        except BaseException:
            answer.release()
            raise

    async def _put(self, bucket: str, key: str, body: Body, headers: Mapping[str, str]) -> Receipt:
        text = await self._caller.call(Request("PUT", file_target(bucket, key), headers, body), whole)
        receipt = decoded(Receipt, text)
        check_sent(receipt.digest, body, f"{bucket}/{key}, version {receipt.version},")
        return receipt


def check_sent(digest: str | None, body: Body, what: str) -> None:
    """Return when `digest`, of what the store has, is that of what was sent. Raises DigestMismatch."""
    if digest is not None and digest != body.digest:
        raise DigestMismatch(
            f"{what} has other bytes than were read: the source changed while it was sent, or memory is bad. Store it again."
        )


def _read_headers(wanted: str | None, if_match: str | None, read_quorum: int | None) -> dict[str, str]:
    headers = {}
    if wanted is not None:
        headers["Range"] = wanted
    if if_match is not None:
        headers["If-Match"] = quoted(if_match)
    if read_quorum is not None:
        headers["X-Trivet-Read-Quorum"] = str(read_quorum)
    return headers


async def _only_head(answer: Answer) -> Answer:
    return answer
