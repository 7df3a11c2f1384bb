"""Re-reads every chunk of a node, slowly and for ever, because a medium may change a byte without reporting it.

One pass takes `period_s` whatever the node holds, within a bound on the rate. The position is kept in the tier, so a
restart goes on where it was. The read itself quarantines a chunk that is bad or lies under the wrong name
(`ScrubbedTier.reread`); this loop only makes sure that every chunk is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from services.storage.metrics import StorageMetrics
from services.storage.ports import Body
from shared.background_tasks import BackgroundTasks
from shared.contracts.chunks import HeldChunk, ScrubStatus, TierStatus
from shared.errors import ChunkCorruptError, ChunkNotFoundError, TrivetError

logger = structlog.get_logger(__name__)

_PAGE: Final = 64
_IDLE_S: Final = 60.0
"""Before an empty disk, or one that failed, is read again."""


@dataclass(frozen=True, slots=True)
class ScrubPace:
    """How fast to read.

    Attributes:
        period_s: one pass over the disk.
        max_bytes_per_s: never faster, so that a full disk does not starve requests.
        start_delay_s: a node that has just started has chunks to recover and caches to fill; what rots, rots slowly.
    """

    period_s: float
    max_bytes_per_s: int
    start_delay_s: float = 60.0

    def pause_s(self, page_bytes: int, page_chunks: int, used_bytes: int, chunk_count: int) -> float:
        """How long to wait after a page, so that the pass ends in time: its share of bytes or of chunks, whichever is more."""
        share = max(page_bytes / max(used_bytes, 1), page_chunks / max(chunk_count, 1))
        return max(self.period_s * min(share, 1.0), page_bytes / self.max_bytes_per_s)


class ScrubbedTier(Protocol):
    """The part of the tier of record that is used here."""

    async def reread(self, digest: str) -> Body:
        """As `ports.Tier.get`, from the medium as it is now, not from any cache of this process."""

    async def list_chunks(self, prefix: str, after: str, limit: int) -> list[HeldChunk]:
        """See `ports.Tier`."""

    async def statuses(self) -> list[TierStatus]:
        """See `ports.Tier`."""

    async def scrub_position(self) -> str:
        """The last digest that was read in this pass; empty before the first."""

    async def save_scrub_position(self, digest: str) -> None:
        """Record it durably."""


class Scrubber:
    """Runs passes over one tier."""

    def __init__(self, tier: ScrubbedTier, pace: ScrubPace, metrics: StorageMetrics) -> None:
        self._tier = tier
        self._pace = pace
        self._metrics = metrics
        self._progress = 0.0
        self._finished_passes = 0
        self._read_chunks = 0
        self._read_bytes = 0
        self._bad_chunks = 0

    def start(self, tasks: BackgroundTasks) -> None:
        """Read page after page, after a delay."""
        tasks.start("scrub position", self._find_position())
        tasks.every("scrub", _IDLE_S, self._step, first_after_s=self._pace.start_delay_s)

    async def _find_position(self) -> None:
        try:
            self._show_progress(await self._tier.scrub_position())
        except TrivetError as error:
            logger.warning("the position of the scrub is not known yet", error=error.message)

    async def _step(self) -> float:
        try:
            return await self.scrub_page()
        except TrivetError as error:
            logger.warning("scrub interrupted", error=error.message)
            return _IDLE_S

    def status(self) -> ScrubStatus:
        """Where it is, and what it found since the start."""
        return ScrubStatus(
            progress=self._progress,
            finished_passes=self._finished_passes,
            read_chunks=self._read_chunks,
            read_bytes=self._read_bytes,
            bad_chunks=self._bad_chunks,
        )

    async def scrub_page(self) -> float:
        """Read the next chunks and remember the position durably; the seconds to wait before the next call."""
        position = await self._tier.scrub_position()
        page = await self._tier.list_chunks("", position, _PAGE)
        for chunk in page:
            await self._scrub(chunk)
        is_end = len(page) < _PAGE
        position = "" if is_end else page[-1].digest
        await self._tier.save_scrub_position(position)
        self._show_progress(position)
        if is_end:
            self._finished_passes += 1
            self._metrics.scrub_passes.inc()
        size_bytes = sum(chunk.size_bytes for chunk in page)
        status, *_ = await self._tier.statuses()
        return (
            self._pace.pause_s(size_bytes, len(page), status.used_bytes or 0, status.chunk_count or 0)
            if page
            else _IDLE_S
        )

    async def _scrub(self, chunk: HeldChunk) -> None:
        try:
            await self._tier.reread(chunk.digest)
        except ChunkCorruptError:
            self._bad_chunks += 1
            self._metrics.scrub_found.inc()
        except ChunkNotFoundError:
            return  # deleted since it was listed
        self._read_chunks += 1
        self._read_bytes += chunk.size_bytes
        self._metrics.scrubbed_bytes.inc(chunk.size_bytes)

    def _show_progress(self, position: str) -> None:
        # Digests are spread evenly, so the first digits say how far it is.
        self._progress = int(position[:8], 16) / 0xFFFFFFFF if position else 0.0
        self._metrics.scrub_progress.set(self._progress)
