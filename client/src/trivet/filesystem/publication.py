"""A file on its way into the store: sent in parts, visible at one instant or never.

A short file is one PUT. A longer one, one that is appended to, and one that waits for the end of a transaction is an upload by
parts: each part is durable when it was sent, and no reader sees any of it before the upload is completed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from trivet import AsyncClient, errors
from trivet.models import FileInfo, PartReceipt

PART_SIZE_MIN_BYTES: Final = 5 << 20
"""Of every part but the last."""

PART_SIZE_MAX_BYTES: Final = 5 << 30

PARTS_IN_FLIGHT_MAX: Final = 4
"""Parts that are sent at one time; each is held in memory until it is durable."""

PARTS_OF_ONE_SIZE: Final = 1000
"""After so many parts their size doubles, so that 10,000 parts hold the longest file that there can be."""

_BLOCK_MAX_BYTES: Final = PART_SIZE_MAX_BYTES // 2
"""Of what is collected before it is sent: a part may be nearly twice as long."""


def block_bytes(wanted_bytes: int, part_count: int) -> int:
    """How much a writer collects that has handed over `part_count` parts already."""
    doublings = part_count // PARTS_OF_ONE_SIZE
    return min(max(wanted_bytes, PART_SIZE_MIN_BYTES) << doublings, _BLOCK_MAX_BYTES)


def pieces_of(buffer: memoryview, size_bytes: int, *, is_last: bool) -> list[memoryview]:
    """`buffer` in parts of `size_bytes`; the last one is up to twice as long, or shorter where nothing follows it."""
    count = max(len(buffer) // size_bytes, 1)
    edges = [*range(0, count * size_bytes, size_bytes), len(buffer)]
    if is_last and len(buffer) > count * size_bytes:
        edges.insert(-1, count * size_bytes)
    return [buffer[start:end] for start, end in pairwise(edges)]


@dataclass(frozen=True, slots=True)
class Description:
    """What is kept with the file."""

    content_type: str | None = None
    user_metadata: dict[str, str] | None = None
    tags: dict[str, str] = field(default_factory=dict)


class Publication:
    """One file that is being written. All methods run on the loop of `client`; one call at a time.

    Invariant: nothing is visible under the name before `publish` or `commit` is called, and nothing ever after `abort`.

    Attributes:
        kept: bytes that the caller must send before all others.
        offset_bytes: how long the file is already.
    """

    def __init__(
        self,
        client: Callable[[], AsyncClient],
        bucket: str,
        key: str,
        description: Description,
        *,
        is_new: bool = False,
        appended_to: FileInfo | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            client: that of the running loop.
            is_new: the file must not be there when it is published.
            appended_to: must be the current version when it is published; if it is as long as a part, the file begins
                with its bytes, and none of them move. Else the caller sends them, `kept`, before all others.
        """
        self._client = client
        self._bucket, self._key = bucket, key
        self._description = description
        self._source = appended_to if appended_to and appended_to.size_bytes >= PART_SIZE_MIN_BYTES else None
        self.kept = b""
        self.offset_bytes = 0 if appended_to is None else appended_to.size_bytes
        self._if_match = None if appended_to is None else appended_to.etag
        self._if_none_match = "*" if is_new else None
        self._upload_id: str | None = None
        self._parts: list[asyncio.Task[PartReceipt]] = []
        self._is_over = False

    @classmethod
    async def appending(
        cls, client: Callable[[], AsyncClient], bucket: str, key: str, description: Description
    ) -> Publication:
        """Of a file that goes on where it ends, and keeps its description; a new one where there is none.

        Raises:
            TrivetError: it cannot be read.
        """
        try:
            found = await client().head(bucket, key)
        except errors.FileNotFound:
            return cls(client, bucket, key, description, is_new=True)
        tagged = await client().tags(bucket, key)
        kept = Description(found.content_type, description.user_metadata or found.user_metadata, tagged.tags)
        publication = cls(client, bucket, key, kept, appended_to=found)
        if publication._source is None:
            publication.kept = await client().get(bucket, key, version=found.version)
        return publication

    @property
    def part_count(self) -> int:
        """Parts that were handed over."""
        return len(self._parts)

    async def send(self, data: memoryview) -> None:
        """Send the next part while the caller goes on; waits while enough are under way.

        Args:
            data: at least `PART_SIZE_MIN_BYTES`, unless it is the last. It must not change any more.
        """
        upload_id = await self._begun()
        await self._start(self._client().put_part(upload_id, len(self._parts) + 1, data))

    async def publish(self, last: memoryview) -> None:
        """Make the file visible, with `last` as its end."""
        if self._upload_id is None and self._source is None and not self._description.tags:
            await self._client().put(
                self._bucket,
                self._key,
                last,
                content_type=self._description.content_type,
                user_metadata=self._description.user_metadata,
                if_match=self._if_match,
                if_none_match=self._if_none_match,
            )
            self._is_over = True
            return
        await self.hold(last)
        await self.commit()

    async def hold(self, last: memoryview) -> None:
        """Have everything durable and nothing visible until `commit`."""
        if last or not self._parts:
            await self.send(last)
        await asyncio.gather(*self._parts)

    async def commit(self) -> None:
        """Make visible what `hold` has sent, if it has sent anything."""
        if self._upload_id is None:
            return
        receipts = await asyncio.gather(*self._parts)
        await self._client().complete_upload(
            self._upload_id, receipts, if_match=self._if_match, if_none_match=self._if_none_match
        )
        self._is_over = True

    async def abort(self) -> None:
        """Give up what was not published yet. Does nothing when it is over."""
        if self._is_over:
            return
        self._is_over = True
        for part in self._parts:
            part.cancel()
        await asyncio.gather(*self._parts, return_exceptions=True)
        if self._upload_id is not None:
            await self._client().abort_upload(self._upload_id)

    async def _begun(self) -> str:
        if self._upload_id is None:
            begun = await self._client().begin_upload(
                self._bucket,
                self._key,
                content_type=self._description.content_type,
                user_metadata=self._description.user_metadata,
                tags=self._description.tags or None,
            )
            self._upload_id = begun.upload_id
            if self._source is not None:
                await self._copy(begun.upload_id, self._source)
        return self._upload_id

    async def _copy(self, upload_id: str, source: FileInfo) -> None:
        count = -(-source.size_bytes // PART_SIZE_MAX_BYTES)
        edges = [source.size_bytes * number // count for number in range(count + 1)]
        for number, (start, end) in enumerate(pairwise(edges), start=1):
            await self._start(
                self._client().copy_part(
                    upload_id, number, source.bucket, source.key, etag=source.etag, start=start, end=end
                )
            )

    async def _start(self, part: Coroutine[Any, Any, PartReceipt]) -> None:
        under_way = [task for task in self._parts if not task.done()]
        if len(under_way) >= PARTS_IN_FLIGHT_MAX:
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        self._parts.append(asyncio.create_task(part))
        for task in self._parts:
            if task.done():
                task.result()  # the first failure ends the whole
