"""The chunks of contents that are too long for a record, a page at a time.

A file of terabytes has millions of chunks. A reader asks for those around the place where it is, and for the next ones before
it gets there, so neither memory nor the time until the first byte depends on the length of the file. What a page says of a
version never changes, so readers of one version share its pages (G-136).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Final, Self

from services.gateway.access.context import as_system
from services.gateway.ports import Metadata
from services.gateway.transfers.chunk_lists import ChunkMap, Extent
from shared.background_tasks import BackgroundTasks
from shared.contracts.uploads import ListPieces, PiecePage
from shared.errors import InternalError, OverloadedError, TrivetError, VersionGoneError
from shared.units import KIB, MIB

PAGE_CHUNKS: Final = 512
"""Chunks of one page: 16 KiB of digests."""

HELD_BYTES: Final = 64 * KIB
"""What a reader holds of pages: the one where it is and the next, with their objects."""

MAX_SHARED_BYTES: Final = 4 * MIB
"""What pages take that were read lately."""

_EXTENT_BYTES: Final = 512
"""What one extent takes in Python, beside its digests."""


class ExtentPage:
    """Consecutive extents, of byte `start` to `stop` of a file."""

    __slots__ = ("_extents", "_starts", "size_bytes", "start", "stop")

    def __init__(self, extents: Sequence[Extent]) -> None:
        self._extents = extents
        self._starts = [extent.start for extent in extents]
        self.start, self.stop = extents[0].start, extents[-1].stop
        self.size_bytes = sum(_EXTENT_BYTES + len(extent.chunk_digests) for extent in extents)

    @classmethod
    def of(cls, answer: PiecePage) -> Self:
        """Raises InternalError: the extents leave a gap, or there are none."""
        extents = [
            Extent(
                piece.offset_bytes,
                piece.offset_bytes + piece.size_bytes,
                piece.skip_bytes,
                piece.chunk_size_bytes,
                piece.chunk_digests,
                piece.last_chunk_bytes,
            )
            for piece in answer.pieces
        ]
        if not extents or any(first.stop != second.start for first, second in pairwise(extents)):
            raise InternalError("The pieces of a file do not follow one another.")
        return cls(extents)

    def at(self, offset: int) -> Extent | None:
        """The extent with byte `offset` of the file, if it is in this page."""
        if not self.start <= offset < self.stop:
            return None
        return self._extents[bisect_right(self._starts, offset) - 1]


_Key = tuple[str | None, int, int]
"""Id of the cluster, version, first byte that was asked for."""


class PiecePages:
    """Pages of all versions that are read, shared by their readers.

    Invariant: `_bytes` is the sum of `ExtentPage.size_bytes` over `_pages`.
    """

    def __init__(self, metadata: Metadata, tasks: BackgroundTasks, *, max_bytes: int = MAX_SHARED_BYTES) -> None:
        self._metadata = metadata
        self._tasks = tasks
        self._max_bytes = max_bytes
        self._pages: OrderedDict[_Key, ExtentPage] = OrderedDict()
        self._under_way: dict[_Key, asyncio.Task[ExtentPage | TrivetError]] = {}
        self._bytes = 0

    def statistics(self) -> dict[str, int]:
        """`bytes` and `pages` held now."""
        return {"bytes": self._bytes, "pages": len(self._pages)}

    def find(self, cluster_id: str | None, version: int, offset: int) -> ExtentPage | None:
        """The page that was asked for from byte `offset` on, if it is here."""
        key = (cluster_id, version, offset)
        if (page := self._pages.get(key)) is not None:
            self._pages.move_to_end(key)
        return page

    async def fetch(self, cluster_id: str | None, version: int, offset: int) -> ExtentPage:
        """The page from byte `offset` on; readers that want the same one wait for one answer.

        Raises:
            VersionGoneError: the version is no longer kept, or consensus answers for another cluster.
            TrivetError: as a metadata read.
        """
        page = self.find(cluster_id, version, offset)
        if page is None:
            # Shielded: the others wait for it when this reader goes.
            outcome = await asyncio.shield(self._begin((cluster_id, version, offset)))
            if isinstance(outcome, TrivetError):
                raise outcome
            page = outcome
        return page

    def fetch_ahead(self, cluster_id: str | None, version: int, offset: int) -> None:
        """Have the page from byte `offset` on here soon, if there is room for work that can wait."""
        if (key := (cluster_id, version, offset)) not in self._pages:
            with suppress(OverloadedError):
                self._begin(key)

    def forget(self) -> None:
        """Begin anew: for another cluster."""
        self._pages.clear()
        self._bytes = 0

    def _begin(self, key: _Key) -> asyncio.Task[ExtentPage | TrivetError]:
        if (task := self._under_way.get(key)) is None:
            task = self._under_way[key] = self._tasks.start("piece page", self._fetch(key))
        return task

    async def _fetch(self, key: _Key) -> ExtentPage | TrivetError:
        """An error is a value: it belongs to those who wait for this page."""
        cluster_id, version, offset = key
        try:
            # Shared by readers, each of whom has asked for the version itself.
            with as_system():
                answer, context = await self._metadata.read(
                    ListPieces(version=version, offset_bytes=offset, limit_chunks=PAGE_CHUNKS)
                )
            if context.cluster_id != cluster_id:
                # An entry of that number in another log is another version.
                return VersionGoneError("The cluster was restored; the version is not the one that was read.")
            page = ExtentPage.of(answer)
        except TrivetError as error:
            return error
        finally:
            del self._under_way[key]
        self._keep(key, page)
        return page

    def _keep(self, key: _Key, page: ExtentPage) -> None:
        self._pages[key] = page
        self._bytes += page.size_bytes
        while self._bytes > self._max_bytes:
            _, evicted = self._pages.popitem(last=False)
            self._bytes -= evicted.size_bytes


class PagedChunks(ChunkMap):
    """Of one reader of one version, who has at hand the page where it is and the one before or behind.

    `stride_bytes`: about as much of the file as one page has. Readers that begin somewhere ask from a multiple of it on, so
    that those who begin nearby share pages.
    """

    def __init__(self, pages: PiecePages, cluster_id: str | None, version: int, *, stride_bytes: int) -> None:
        self._pages = pages
        self._version = (cluster_id, version)
        self._stride_bytes = stride_bytes
        self._held: deque[ExtentPage] = deque(maxlen=2)
        self._extent: Extent | None = None

    def at_hand(self, offset: int, stop: int) -> Extent | None:
        """See `ChunkMap`."""
        extent = self._extent
        if extent is None or not extent.start <= offset < extent.stop:
            extent = self._extent = self._find(offset, stop)
        return extent

    def _find(self, offset: int, stop: int) -> Extent | None:
        for page in self._held:
            if (extent := page.at(offset)) is not None:
                return extent
        # What was fetched ahead is here by now.
        ahead = self._pages.find(*self._version, offset)
        return None if ahead is None else self._hold(ahead, offset, stop)

    async def load(self, offset: int, stop: int) -> None:
        """See `ChunkMap`."""
        page = await self._pages.fetch(*self._version, offset - offset % self._stride_bytes)
        if page.at(offset) is None:
            page = await self._pages.fetch(*self._version, offset)
        self._hold(page, offset, stop)

    def _hold(self, page: ExtentPage, offset: int, stop: int) -> Extent:
        extent = page.at(offset)
        if extent is None:
            raise InternalError("A page of pieces is not the one that was asked for.")
        self._held.append(page)
        if page.stop < stop:
            self._pages.fetch_ahead(*self._version, page.stop)
        return extent
