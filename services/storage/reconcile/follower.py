"""Keeps the expected set in step with the log, and deletes what was condemned (S-125).

All references are listed once, then what changes is followed.
A page of changes is acted on before its position is recorded: a crash in between does the same again, which changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

import structlog

from services.storage.metrics import StorageMetrics
from services.storage.placement_view import PlacementView
from services.storage.ports import ConditionalDelete
from services.storage.reconcile.expected_chunks import ExpectedChunks, MissingChunk, Position
from services.storage.reconcile.extra_chunks import ExtraChunks, condemned_delete
from services.storage.reconcile.pace import Pace
from services.storage.reconcile.references import Changes, Condemned, References
from shared.units import MIB

logger = structlog.get_logger(__name__)

_DELETED_AT_ONCE: Final = 64
"""Condemned chunks between two rests: one transaction of the commit thread."""
_DELETED_BYTES_AT_ONCE: Final = 12 * MIB
"""The same in bytes: a file system that discards what is freed has every sync wait for it."""

_PATIENCE_S: Final = 30.0
"""For so long a mass deletion is not hurried: what it frees is not needed at once, and it costs requests their pace."""


class FollowedTier(Protocol):
    """The part of `ports.Tier` that is used here."""

    async def has(self, digests: Sequence[str], start_index: int | None) -> set[str]:
        """See `ports.Tier`."""

    async def delete_if(self, candidates: Sequence[ConditionalDelete]) -> set[str]:
        """See `ports.Tier`."""


class Follower:
    """Follows the log and the node map."""

    def __init__(
        self,
        tier: FollowedTier,
        references: References,
        *,
        view: PlacementView,
        expected: ExpectedChunks,
        extra: ExtraChunks,
        pace: Pace,
        metrics: StorageMetrics,
    ) -> None:
        self._tier = tier
        self._references = references
        self._view = view
        self._expected = expected
        self._extra = extra
        self._pace = pace
        self._metrics = metrics
        self._must_list = False
        self._knows_changes = True
        self._added_missing = 0
        """Since the end of the log was reached: a failure on the way there must not keep them from being fetched."""
        self._behind_since_s: float | None = None
        """Since when no page was the last one."""
        self.has_listed = False
        """Set with every finished listing; the reader clears it."""

    @property
    def is_listing(self) -> bool:
        """Whether the set is not the one of the node map that this node decides by."""
        return self._must_list or self._expected.position is None or self._expected.placement_key != self._view.key

    def list_again(self) -> None:
        """List all references at the next `follow`, whatever is known."""
        self._must_list = True

    async def follow(self) -> int | None:
        """Follow the log to its end. Returns how many missing chunks were added since the last end; None: nothing is decided.

        Raises:
            TrivetError: consensus, the tier or the file of the set does not answer; what was followed stays followed.
            DatabaseDamagedError: see `ExpectedChunks`.
        """
        if self._view.epoch is None or not self._view.is_settled:
            await self._learn()
        while self._view.is_settled:
            if self.is_listing:
                await self._list()
                continue
            position = self._expected.position
            assert position is not None, "it was listed"
            began_s = time.monotonic()
            changes = await self._references.changes(position)
            if changes.context.epoch != self._view.epoch:
                await self._learn()
            elif changes.must_restart:
                logger.info("this node was away for too long to follow the log; everything is listed anew")
                self._must_list, self._knows_changes = True, False
            else:
                rested_s = await self._delete(changes.condemned, is_patient=self._is_patient(changes.has_more))
                self._added_missing += await self._apply(changes)
                if not changes.has_more:
                    added, self._added_missing = self._added_missing, 0
                    return added
                await self._pace.rest(0, began_s + rested_s)
        return None

    async def _learn(self) -> None:
        """Read the node map. It changes in between decisions only; see `ExtraChunks.deciding`."""
        node_map, context = await self._references.node_map()
        async with self._extra.deciding:
            self._view.update(node_map, context.log_index)

    async def _list(self) -> None:
        """Make the set anew by the node map of now; given up when that changes meanwhile."""
        key, is_expected = self._view.key, self._view.filter()
        await self._expected.begin_listing()
        began = Position(self._view.log_index)
        after = b""
        has_more = self._view.is_live
        while has_more:
            began_s = time.monotonic()
            page = await self._references.page(after)
            if page.context.epoch != self._view.epoch:
                await self._learn()
                if self._view.key != key:
                    return
            if not after:
                began = Position(page.context.log_index)
            await self._expected.add_listed(await self._expected.select(page.chunks, is_expected))
            has_more = page.has_more and bool(page.chunks)
            if has_more:
                after = page.chunks[-1][0]
                await self._pace.rest(0, began_s)
        # From the old position, as long as the changes since are known: no condemned chunk is passed over.
        known = self._expected.position if self._knows_changes else None
        await self._expected.finish_listing(key, began if known is None else known)
        self._must_list, self._knows_changes, self.has_listed = False, True, True
        logger.info("references listed", expected_chunks=self._expected.total.chunk_count, epoch=self._view.epoch)

    async def _apply(self, changes: Changes) -> int:
        """Returns how many missing chunks that added."""
        added = await self._expected.select(changes.added, self._view.filter()) if changes.added else []
        if not added and not changes.condemned:
            self._expected.advance(changes.position)
            return 0
        held = await self._tier.has([digest.hex() for digest, _ in added], None) if added else set()
        missing = [
            MissingChunk(digest, size_bytes, changes.context.log_index)
            for digest, size_bytes in added
            if digest.hex() not in held
        ]
        await self._expected.apply(
            added=added,
            removed=[chunk.digest for chunk in changes.condemned],
            missing=missing,
            position=changes.position,
        )
        return len(missing)

    def _is_patient(self, has_more: bool) -> bool:
        """Whether deletion need not hurry yet."""
        if not has_more:
            self._behind_since_s = None
        elif self._behind_since_s is None:
            self._behind_since_s = time.monotonic()
        return self._behind_since_s is None or time.monotonic() - self._behind_since_s < _PATIENCE_S

    async def _delete(self, condemned: Sequence[Condemned], *, is_patient: bool) -> float:
        """How long it took, with the rests for it: nobody rests for rests."""
        first_s = time.monotonic()
        sizes = await self._expected.sizes([chunk.digest for chunk in condemned]) if condemned else {}
        for part in _slices(condemned, sizes):
            began_s = time.monotonic()
            deleted = await self._tier.delete_if([condemned_delete(chunk.digest, chunk.log_index) for chunk in part])
            self._metrics.deleted_chunks.labels(reason="condemned").inc(len(deleted))
            await self._pace.rest_after_deletion(
                sum(chunk.digest in sizes for chunk in part) if is_patient else 0, began_s
            )
        return time.monotonic() - first_s


def _slices(condemned: Sequence[Condemned], sizes: Mapping[bytes, int]) -> Iterator[Sequence[Condemned]]:
    """What is deleted between two rests. A chunk that is not expected here is rarely held, and costs nothing."""
    begin, size_bytes = 0, 0
    for end, chunk in enumerate(condemned):
        size_bytes += sizes.get(chunk.digest, 0)
        if end > begin and (end - begin == _DELETED_AT_ONCE or size_bytes > _DELETED_BYTES_AT_ONCE):
            yield condemned[begin:end]
            begin, size_bytes = end, sizes.get(chunk.digest, 0)
    if begin < len(condemned):
        yield condemned[begin:]
