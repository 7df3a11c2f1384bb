"""Chunks that are held and not expected: surplus, which the expected holders have, and orphans, to which no file refers.

Nothing is deleted on a page of references alone. Surplus leaves when every expected holder has recorded this node's start
index and confirmed that it holds the chunk, verified, in the same epoch. An orphan that is older than the grace period is
proposed for condemnation; the log decides, and the deletion comes back with its index.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from services.storage.metrics import StorageMetrics
from services.storage.outcomes import outcomes_of
from services.storage.placement_view import PlacementView
from services.storage.ports import ConditionalDelete
from services.storage.reconcile.expected_chunks import ExpectedChunks
from services.storage.reconcile.pace import Complaints, Pace
from services.storage.reconcile.references import Checked, References
from services.storage.reconcile.rules import is_orphan_candidate, may_delete_condemned, may_drop_surplus
from shared.contracts.chunks import MAX_CONFIRM_CHUNKS, ConfirmResponse
from shared.contracts.cluster import StorageNode
from shared.errors import TrivetError

_PAGE: Final = min(MAX_CONFIRM_CHUNKS, 256)
"""Placing a thousand chunks would hold the event loop for tens of milliseconds."""
_BUSY_PAGE: Final = 64
"""While requests come: a page is a question to every holder, which reads what it has not verified, and records start indexes."""
_PATIENCE_PAGES: Final = 2
"""After so many pages of which nothing could be dropped a walk ends: the nodes that should hold the rest are still fetching it,
in the same order. Twice as many after a walk that dropped nothing, so that no page keeps the others waiting for ever."""
_LOOK_AGAIN_S: Final = 5.0
"""Requests may have stopped meanwhile."""


class DroppingTier(Protocol):
    """The part of `ports.Tier` that is used here."""

    async def start_indexes(self, digests: Sequence[str]) -> dict[str, int]:
        """See `ports.Tier`."""

    async def delete_if(self, candidates: Sequence[ConditionalDelete]) -> set[str]:
        """See `ports.Tier`."""


class Confirmers(Protocol):
    """Other nodes; see `peers.Peers`."""

    async def confirm(self, node: StorageNode, epoch: int, start_indexes: dict[str, int]) -> ConfirmResponse:
        """See `peers.Peers`."""


@dataclass(slots=True)
class ExtraOutcome:
    """Of one walk.

    Attributes:
        checked_index: the lowest log index at which references were asked for; None when there was nothing to ask.
        surplus, orphans: that were found: files refer to them, or none does.
        surplus_left: of them that are still held.
        is_outdated: a peer decides by a newer node map than this node.
        is_whole: it came to the end of the list. One that is outdated does not: by that node map little is confirmed any more,
            and a node that it takes for live may be hung. Nor does one that lost its patience.
    """

    checked_index: int | None = None
    surplus: int = 0
    orphans: int = 0
    surplus_left: int = 0
    is_outdated: bool = False
    is_whole: bool = True

    @property
    def dropped(self) -> int:
        """Surplus that is held no more."""
        return self.surplus - self.surplus_left


class ExtraChunks:
    """Walks over the list of extra chunks.

    Invariant: while `deciding` is held, the node map that this node decides by, and confirms by, does not change. So nothing
    is deleted by a decision of an epoch after this node has confirmed anything in a later one.
    """

    def __init__(
        self,
        tier: DroppingTier,
        peers: Confirmers,
        *,
        view: PlacementView,
        references: References,
        expected: ExpectedChunks,
        pace: Pace,
        metrics: StorageMetrics,
    ) -> None:
        self._tier = tier
        self._peers = peers
        self._view = view
        self._references = references
        self._expected = expected
        self._pace = pace
        self._metrics = metrics
        self._complaints = Complaints()
        self._patience_pages = _PATIENCE_PAGES
        self.deciding = asyncio.Lock()
        self.walking = asyncio.Lock()
        """Held by whoever walks."""

    def put_off_s(self) -> float:
        """How long to wait before this is asked again: while requests come, what is missing elsewhere comes first. 0: walk now.

        To have surplus confirmed costs all nodes more than the pulls do. A change that takes longer gives space back all along.
        A node that is drained has nothing but surplus, and is waited for.
        """
        is_waited_for = not self._pace.is_busy or self._view.is_draining
        return 0.0 if is_waited_for else min(_LOOK_AGAIN_S, self._view.quiet_in_s)

    async def walk(self, *, is_patient: bool = False) -> ExtraOutcome:
        """Decide about every extra chunk once, unless a peer has a newer node map, or surplus is not confirmed yet.

        Args:
            is_patient: go on whatever is confirmed.

        Raises:
            TrivetError: consensus, the tier or the list does not answer.
            DatabaseDamagedError: see `ExpectedChunks`.
        """
        outcome = ExtraOutcome()
        after, vain_pages = b"", 0
        while page := await self._expected.extra_page(after, _BUSY_PAGE if self._pace.is_busy else _PAGE):
            after, epoch = page[-1], self._view.epoch
            found, dropped = outcome.surplus, outcome.dropped
            # Again while some left: for one question a peer reads only so much of what is not verified there.
            while page:
                began_s = time.monotonic()
                page = await self._decide(page, outcome)
                await self._pace.rest(0, began_s)
            is_vain = outcome.surplus > found and outcome.dropped == dropped
            vain_pages = vain_pages + 1 if is_vain else 0
            is_lost = vain_pages >= self._patience_pages and not is_patient
            if is_lost or (outcome.is_outdated and self._view.epoch == epoch):
                outcome.is_whole = False
                break
        is_lucky = outcome.dropped or outcome.is_whole
        self._patience_pages = _PATIENCE_PAGES if is_lucky else 2 * self._patience_pages
        return outcome

    async def _decide(self, page: Sequence[bytes], outcome: ExtraOutcome) -> list[bytes]:
        """Those to decide about again, because others of the page left."""
        # Before the references: a start index that is recorded later is of an upload that they may not show.
        start_indexes = {
            bytes.fromhex(digest): index
            for digest, index in (await self._tier.start_indexes([digest.hex() for digest in page])).items()
        }
        checked = await self._references.check(list(start_indexes))
        index = checked.context.log_index
        outcome.checked_index = index if outcome.checked_index is None else min(index, outcome.checked_index)
        # Of an upload that was published since the set was compared.
        is_expected = self._view.filter()
        expected = {digest for digest in checked.referenced if is_expected(digest)}
        surplus = {digest: start_indexes[digest] for digest in checked.referenced - expected}
        orphans = {digest: start for digest, start in start_indexes.items() if digest not in checked.referenced}
        gone = await self._drop_surplus(surplus, outcome) | await self._delete_condemned(orphans, checked)
        left = set(start_indexes) - expected - gone
        await self._expected.drop_extra(set(page) - left)
        await self._expected.record_references({digest: digest in checked.referenced for digest in left})
        # Of those that are decided about again only what left counts now.
        decided = gone or left
        outcome.surplus += len(decided & surplus.keys())
        outcome.orphans += len(decided & orphans.keys())
        if gone:
            return [digest for digest in page if digest in left]
        outcome.surplus_left += len(surplus)
        await self._propose(orphans, checked)
        return []

    async def _delete_condemned(self, orphans: dict[bytes, int], checked: Checked) -> set[bytes]:
        """Those that are deleted. This node did not see their condemnation when it followed the log."""
        deletes = [
            condemned_delete(digest, checked.condemned[digest])
            for digest, start in orphans.items()
            if digest in checked.condemned and may_delete_condemned(start, checked.condemned[digest])
        ]
        deleted = await self._tier.delete_if(deletes) if deletes else set()
        self._metrics.deleted_chunks.labels(reason="condemned").inc(len(deleted))
        return set(map(bytes.fromhex, deleted))

    async def _propose(self, orphans: dict[bytes, int], checked: Checked) -> None:
        """Have those condemned that are old enough."""
        candidates = {
            digest: start
            for digest, start in orphans.items()
            if is_orphan_candidate(start, checked.aged_index, checked.context.log_index)
        }
        if candidates:
            await self._references.condemn(candidates)

    async def _drop_surplus(self, start_indexes: dict[bytes, int], outcome: ExtraOutcome) -> set[bytes]:
        """Those that are deleted."""
        epoch = self._view.epoch
        if epoch is None or not self._view.has_spare_nodes:
            return set()
        holders = {digest: {node.id: node for node in self._view.holders(digest)} for digest in start_indexes}
        confirmed = await self._ask(holders, start_indexes, epoch, outcome)
        async with self.deciding:
            deletes = [
                ConditionalDelete(
                    digest.hex(),
                    partial(
                        self._may_drop,
                        sent=start_indexes[digest],
                        epoch=epoch,
                        confirmed_by=confirmed[digest],
                        expected=list(expected),
                    ),
                )
                for digest, expected in holders.items()
                if set(expected) <= confirmed[digest]
            ]
            deleted = await self._tier.delete_if(deletes) if deletes else set()
        self._metrics.deleted_chunks.labels(reason="surplus").inc(len(deleted))
        return set(map(bytes.fromhex, deleted))

    def _may_drop(
        self, recorded: int, *, sent: int, epoch: int, confirmed_by: set[str], expected: Sequence[str]
    ) -> bool:
        return may_drop_surplus(
            recorded_start_index=recorded,
            sent_start_index=sent,
            decision_epoch=epoch,
            current_epoch=-1 if self._view.epoch is None else self._view.epoch,
            confirmed_by=confirmed_by,
            expected=expected,
            replica_count=self._view.replica_count,
        )

    async def _ask(
        self,
        holders: dict[bytes, dict[str, StorageNode]],
        start_indexes: dict[bytes, int],
        epoch: int,
        outcome: ExtraOutcome,
    ) -> dict[bytes, set[str]]:
        """Who confirmed what."""
        asked: dict[str, dict[str, int]] = defaultdict(dict)
        nodes: dict[str, StorageNode] = {}
        for digest, expected in holders.items():
            for name, node in expected.items():
                nodes[name] = node
                asked[name][digest.hex()] = start_indexes[digest]
        answers = await outcomes_of([self._peers.confirm(nodes[name], epoch, asked[name]) for name in asked])
        confirmed: dict[bytes, set[str]] = {digest: set() for digest in holders}
        for name, answer in zip(asked, answers, strict=True):
            if isinstance(answer, TrivetError):
                self._complaints.warn("a peer confirmed nothing", name, error=answer.message)
            elif answer.epoch != epoch:
                outcome.is_outdated |= answer.epoch is not None and answer.epoch > epoch
            elif not set(answer.confirmed) <= asked[name].keys():
                self._complaints.warn("a peer confirmed a chunk that it was not asked about", name)
            else:
                for given in answer.confirmed:
                    confirmed[bytes.fromhex(given)].add(name)
        return confirmed


def condemned_delete(digest: bytes, condemned_index: int) -> ConditionalDelete:
    """Delete a chunk that was condemned at that index."""
    return ConditionalDelete(digest.hex(), partial(may_delete_condemned, condemned_index=condemned_index))
