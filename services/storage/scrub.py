"""Re-reads every chunk on disk, slowly and for ever, because a medium may change a byte without telling anybody.

One pass takes `period_s` whatever the disk holds, within a bound on the rate. The position is kept in the catalog, so a
restart goes on where it was. A chunk that is bad, or lies under the wrong name, is quarantined by the read itself
(`DiskTier.get`); this loop only makes sure that every chunk is read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from services.storage.disk.catalog import StoredChunk
from services.storage.metrics import StorageMetrics
from services.storage.tiers.disk import DiskTier
from shared.errors import ChunkCorruptError, ChunkNotFoundError, TrivetError

logger = structlog.get_logger(__name__)

_PAGE: Final = 64
_IDLE_S: Final = 60.0
"""After the start, and before an empty disk, or one that failed, is looked at again."""


@dataclass(frozen=True, slots=True)
class ScrubPace:
    """How fast to read.

    Attributes:
        period_s: one pass over the disk.
        max_bytes_per_s: never faster, so that a full disk does not starve requests.
    """

    period_s: float
    max_bytes_per_s: int

    def pause_s(self, page_bytes: int, page_chunks: int, used_bytes: int, chunk_count: int) -> float:
        """How long to wait after a page, so that the pass ends in time: its share of bytes or of chunks, whichever is more."""
        share = max(page_bytes / max(used_bytes, 1), page_chunks / max(chunk_count, 1))
        return max(self.period_s * min(share, 1.0), page_bytes / self.max_bytes_per_s)


class Scrubber:
    """Runs passes over one disk tier."""

    def __init__(self, disk: DiskTier, pace: ScrubPace, metrics: StorageMetrics) -> None:
        self._disk = disk
        self._pace = pace
        self._metrics = metrics

    async def run(self) -> None:
        """Until cancelled."""
        # A node that has just started has chunks to recover and caches to fill; what rots, rots slowly.
        await asyncio.sleep(_IDLE_S)
        while True:
            try:
                pause_s = await self.scrub_page()
            except TrivetError as error:
                logger.warning("scrub interrupted", error=error.message)
                pause_s = _IDLE_S
            await asyncio.sleep(pause_s)

    async def scrub_page(self) -> float:
        """Read the next chunks and remember the position durably; the seconds to wait before the next call."""
        position = await self._disk.scrub_position()
        page = await self._disk.list_chunks(after=position, limit=_PAGE)
        for chunk in page:
            await self._scrub(chunk)
        is_end = len(page) < _PAGE
        await self._disk.save_scrub_position("" if is_end else page[-1].digest)
        self._metrics.scrub_progress.set(0 if is_end else int(page[-1].digest[:8], 16) / 0xFFFFFFFF)
        if is_end:
            self._metrics.scrub_passes.inc()
        size_bytes = sum(chunk.size_bytes for chunk in page)
        (status,) = await self._disk.statuses()
        return (
            self._pace.pause_s(size_bytes, len(page), status.used_bytes or 0, status.chunk_count or 0)
            if page
            else _IDLE_S
        )

    async def _scrub(self, chunk: StoredChunk) -> None:
        try:
            await self._disk.get(chunk.digest)
        except ChunkCorruptError:
            self._metrics.scrub_found.inc()
        except ChunkNotFoundError:
            return  # deleted since it was listed
        self._metrics.scrubbed_bytes.inc(chunk.size_bytes)
