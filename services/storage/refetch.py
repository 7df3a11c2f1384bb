"""Fetches lost chunks, whose replica here was found bad or missing, from the peers in placement order (S-50).

The tier lists lost chunks durably (`ports.Tier.list_lost`); this loop walks over that list until it is empty. A body is
checked against its digest and stored only if the chunk is still lost, so that a deleted chunk stays deleted. Reads never
wait for it: the gateway has other replicas.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NoReturn, Protocol

import structlog

from services.storage.digests import is_whole
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk, LostChunk
from shared.background_tasks import BackgroundTasks
from shared.backoff import Backoff
from shared.byte_budget import ByteBudget
from shared.contracts.chunks import RefetchStatus, TierStatus
from shared.contracts.cluster import StorageNode
from shared.errors import ChunkNotFoundError, TrivetError

logger = structlog.get_logger(__name__)

_PAGE: Final = 64


@dataclass(frozen=True, slots=True)
class RefetchPace:
    """How often and how fast.

    Attributes:
        interval_s: how often the list is read while it is empty.
        retry_base_s, retry_cap_s: after a walk that left something lost; doubles from the base, with full jitter.
        max_bytes_per_s: never faster, so that a damaged disk does not starve requests, here and at the peers.
    """

    interval_s: float
    retry_base_s: float
    retry_cap_s: float
    max_bytes_per_s: int


class LosingTier(Protocol):
    """The part of `ports.Tier` that is used here."""

    async def list_lost(self, after: str, limit: int) -> list[LostChunk]:
        """See `ports.Tier`."""

    async def restore(self, chunk: Chunk) -> bool:
        """See `ports.Tier`."""

    async def statuses(self) -> list[TierStatus]:
        """See `ports.Tier`."""


class ChunkPeers(Protocol):
    """The other nodes; see `peers.Peers`."""

    async def holders(self, digest: str) -> Sequence[StorageNode]:
        """In the order in which they should be asked."""

    async def get_chunk(self, node: StorageNode, digest: str) -> bytes:
        """Unchecked."""


class RefetchOutcome(StrEnum):
    """The outcome for one lost chunk in one walk. `ABSENT`: every peer answered, and none has it."""

    FETCHED = "fetched"
    NOT_LOST = "not_lost"
    ABSENT = "absent"
    UNREACHABLE = "unreachable"


class Refetcher:
    """One loop per node, one chunk at a time."""

    def __init__(
        self,
        tier: LosingTier,
        peers: ChunkPeers,
        pace: RefetchPace,
        budget: ByteBudget,
        metrics: StorageMetrics,
        *,
        typical_chunk_bytes: int,
    ) -> None:
        self._tier = tier
        self._peers = peers
        self._pace = pace
        self._budget = budget
        self._metrics = metrics
        self._typical_chunk_bytes = typical_chunk_bytes
        self._fetched = 0
        self._failed = 0

    def start(self, tasks: BackgroundTasks) -> asyncio.Task[NoReturn]:
        """Walk again and again."""
        retry = Backoff(self._pace.retry_base_s, self._pace.retry_cap_s, random.random)

        async def step() -> float:
            try:
                still_lost = await self.walk()
            except TrivetError as error:
                logger.warning("lost chunks were not fetched", error=error.message)
                still_lost = 1
            if still_lost:
                return retry.failed()
            retry.succeeded()
            return self._pace.interval_s

        return tasks.every("refetch", self._pace.interval_s, step, first_after_s=0)

    async def walk(self) -> int:
        """Try every lost chunk once, in order of digests; how many are lost still.

        Raises:
            TrivetError: the list cannot be read, consensus does not tell who the peers are, or there is no room here.
        """
        still_lost = 0
        after = ""
        await self._publish_count()
        while page := await self._tier.list_lost(after, _PAGE):
            for lost in page:
                outcome = await self._bring_back(lost.digest)
                self._metrics.refetches.labels(outcome=outcome).inc()
                if outcome in {RefetchOutcome.ABSENT, RefetchOutcome.UNREACHABLE}:
                    still_lost += 1
                    self._failed += 1
            after = page[-1].digest
            await self._publish_count()
        return still_lost

    def status(self, lost_chunks: int | None) -> RefetchStatus:
        """What was done since the start, beside what is lost now."""
        return RefetchStatus(lost_chunks=lost_chunks, fetched_chunks=self._fetched, failed_attempts=self._failed)

    async def _publish_count(self) -> None:
        """From the tier's own list and before anything else can fail: a walk that breaks off must not hide what is lost."""
        status, *_ = await self._tier.statuses()
        if status.lost_chunk_count is not None:
            self._metrics.lost_chunks.set(status.lost_chunk_count)

    async def _bring_back(self, digest: str) -> RefetchOutcome:
        lease = await self._budget.acquire(self._typical_chunk_bytes)
        try:
            body, outcome = await self._fetch(digest)
            if body is None:
                return outcome
            lease.resize(len(body))
            is_restored = await self._tier.restore(Chunk(digest, len(body), (body,)))
        finally:
            lease.release()
        # The pace is kept by waiting after each chunk: there is one under way.
        await asyncio.sleep(len(body) / self._pace.max_bytes_per_s)
        if not is_restored:
            return RefetchOutcome.NOT_LOST
        self._fetched += 1
        logger.info("a lost chunk is back", digest=digest, size_bytes=len(body))
        return RefetchOutcome.FETCHED

    async def _fetch(self, digest: str) -> tuple[bytes | None, RefetchOutcome]:
        """The chunk from the first peer that has it whole; or None and why."""
        outcome = RefetchOutcome.ABSENT
        for node in await self._peers.holders(digest):
            try:
                body = await self._peers.get_chunk(node, digest)
            except ChunkNotFoundError:
                continue
            except TrivetError as error:
                outcome = RefetchOutcome.UNREACHABLE
                logger.debug("a lost chunk was not fetched", digest=digest, peer=node.id, error=error.message)
                continue
            if is_whole(body, digest):
                return body, RefetchOutcome.FETCHED
            outcome = RefetchOutcome.UNREACHABLE
            logger.error("a peer sent something else than the chunk", digest=digest, peer=node.id)
        return None, outcome
