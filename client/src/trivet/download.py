"""One download: a stream of chunks that goes on after a lost connection, and whose digest is compared at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

from blake3 import blake3

from trivet.caller import Caller, Request
from trivet.errors import BrokenDownload, ConnectionFailed, DigestMismatch, PreconditionFailed
from trivet.headers import asked_span, content_range, file_info, quoted
from trivet.models import FileInfo
from trivet.transport import Answer

_AT_ONCE_BYTES: Final = 1 << 20
"""A body of so many bytes is read as a whole."""


class AsyncDownload:
    """A file, or a range of it, on its way. Read it once.

    Attributes:
        info: what the answer says about the file.
        start, end: which bytes come, `end` behind the last.

    Raises:
        BrokenDownload: the answer is not about those bytes or that version, as of a cache that knows neither.
    """

    def __init__(self, caller: Caller, request: Request, answer: Answer, bucket: str, key: str) -> None:
        self.info: FileInfo = file_info(bucket, key, answer.headers)
        self.start, self.end = _span(request, answer, self.info)
        self._caller = caller
        self._request = request
        self._answer = answer
        # Only a whole file has a digest to compare with.
        is_whole = (self.start, self.end) == (0, self.info.size_bytes)
        self._digest = self.info.digest if is_whole else None

    async def read(self) -> bytes:
        """All of it, or all that was not read yet. Raises as the iteration."""
        if self.end - self.start > _AT_ONCE_BYTES:
            return b"".join([chunk async for chunk in self])
        try:
            data = await self._answer.read(self.end - self.start)
        except (BrokenDownload, ConnectionFailed):
            return b"".join([chunk async for chunk in self])
        self._check_length(self.start + len(data))
        self._check_digest(blake3(data))
        return data

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes as they come.

        Raises:
            BrokenDownload: they ended too early, again and again, or there are too many, or the file is another one by now.
            DigestMismatch: they are not those that were stored.
        """
        return self._chunks()

    def close(self) -> None:
        """Give the connection back. Bytes that were not read are lost."""
        self._answer.release()

    async def _chunks(self) -> AsyncIterator[bytes]:
        place, digest, failures = self.start, blake3(), 0
        while True:
            try:
                async for chunk in self._answer.chunks():
                    place += len(chunk)
                    if place > self.end:
                        break
                    if self._digest is not None:
                        digest.update(chunk)
                    failures = 0
                    yield chunk
                self._check_length(place)
                break
            except (BrokenDownload, ConnectionFailed) as error:
                self._answer.release()
                failures += 1
                if place == self.end:
                    break
                if place > self.end or failures >= self._caller.retry.attempts:
                    raise BrokenDownload(f"The download broke off at byte {place}: {error.message}") from error
                await asyncio.sleep(self._caller.pause_s(failures, error))
                await self._go_on(place)
        self._check_digest(digest)

    async def _go_on(self, place: int) -> None:
        """Open the rest, if the file is still the same."""
        rest = {"Range": f"bytes={place}-{self.end - 1}", "If-Match": quoted(self.info.etag)}
        request = Request(self._request.method, self._request.target, {**self._request.headers, **rest})
        try:
            self._answer = await self._caller.open(request)
        except PreconditionFailed as error:
            raise BrokenDownload("The download broke off, and the file was replaced meanwhile.") from error
        _span(request, self._answer, file_info(self.info.bucket, self.info.key, self._answer.headers))

    def _check_length(self, place: int) -> None:
        if place != self.end:
            raise BrokenDownload(
                "There are more bytes than the answer announced."
                if place > self.end
                else f"{self.end - place} bytes are missing."
            )

    def _check_digest(self, digest: blake3) -> None:
        if self._digest is not None and digest.hexdigest() != self._digest:
            raise DigestMismatch(
                f"{self.info.bucket}/{self.info.key} came with other bytes than were stored: something changed them on the way."
            )


def _span(request: Request, answer: Answer, info: FileInfo) -> tuple[int, int]:
    """Start and end of the bytes that come. Raises BrokenDownload when those were not asked for."""
    asked = asked_span(request.headers.get("Range"), info.size_bytes)
    found = content_range(answer.headers.get("content-range")) if answer.status == HTTPStatus.PARTIAL_CONTENT else None
    got = (0, info.size_bytes) if answer.status == HTTPStatus.OK else found and found[:2]
    if got != asked:
        raise BrokenDownload(
            f"Bytes {asked[0]} to {asked[1]} were asked for, and others came: something on the way does not know ranges."
        )
    if (wanted := request.headers.get("If-Match", "*")) != "*" and answer.headers.get("etag", "-") not in wanted:
        raise BrokenDownload(
            "The version that was asked for is not the one that came: something on the way mixes them up."
        )
    return got
