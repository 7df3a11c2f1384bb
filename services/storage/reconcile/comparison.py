"""Compares what is held with what is expected, by sums: the cost grows with what differs, not with what exists.

A partition that differs is listed on both sides, once: as long as neither sum changes, the lists know of it already.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.storage.reconcile.expected_chunks import ExpectedChunks, ListedDifferences, MissingChunk
from services.storage.reconcile.pace import Pace
from shared.contracts.chunks import MAX_PAGE_CHUNKS, HeldChunk
from shared.partitions import GROUP_COUNT, PARTITIONS_PER_GROUP, SetSum, prefix_of

_MANY: Final = PARTITIONS_PER_GROUP // 2
"""With more partitions to list the whole group is listed."""
_SMALL_GROUP_CHUNKS: Final = 500
"""A group of so few is listed in less time than two of its partitions, one after the other."""


class ComparedTier(Protocol):
    """The part of `ports.Tier` that is used here."""

    async def sums(self, group: int | None) -> list[SetSum]:
        """See `ports.Tier`."""

    async def list_chunks(self, prefix: str, after: str, limit: int) -> list[HeldChunk]:
        """See `ports.Tier`."""


@dataclass(slots=True)
class FoundDifferences:
    """What one comparison put on the lists that was not known to be there."""

    missing: int = 0
    extra: int = 0


class Comparison:
    """Fills the lists of `expected`."""

    def __init__(self, tier: ComparedTier, expected: ExpectedChunks, pace: Pace) -> None:
        self._tier = tier
        self._expected = expected
        self._pace = pace
        self._listed: dict[int, tuple[SetSum, SetSum]] = {}
        """By partition that is on the lists: what was held and expected then."""

    def forget(self) -> None:
        """The lists are empty, or are to be made anew: list whatever differs."""
        self._listed.clear()

    async def run(self, reference_index: int) -> FoundDifferences:
        """Compare everything. `reference_index`: where in the log the expected set is.

        Raises:
            UnavailableError: the tier, or the file of the set, does not answer.
            DatabaseDamagedError: see `ExpectedChunks`.
        """
        found = FoundDifferences()
        held, expected = await self._tier.sums(None), await self._expected.groups()
        for group in range(GROUP_COUNT):
            if held[group] != expected[group]:
                began_s = time.monotonic()
                await self._compare_group(group, reference_index, found)
                await self._pace.rest(0, began_s)
            else:
                await self._clear(range(group * PARTITIONS_PER_GROUP, (group + 1) * PARTITIONS_PER_GROUP))
        return found

    async def _compare_group(self, group: int, reference_index: int, found: FoundDifferences) -> None:
        first = group * PARTITIONS_PER_GROUP
        held, expected = await self._tier.sums(group), await self._expected.group(group)
        pairs = {first + number: pair for number, pair in enumerate(zip(held, expected, strict=True))}
        await self._clear([partition for partition, (has, wants) in pairs.items() if has == wants])
        changed = [
            partition
            for partition, (has, wants) in pairs.items()
            if has != wants and self._listed.get(partition) != (has, wants)
        ]
        is_small = sum(has.chunk_count for has, _ in pairs.values()) <= _SMALL_GROUP_CHUNKS
        if len(changed) > (1 if is_small else _MANY):
            await self._list(f"{group:02x}", reference_index, found)
        else:
            for partition in changed:
                await self._list(prefix_of(partition), reference_index, found)
        self._listed.update({partition: pairs[partition] for partition in changed})

    async def _clear(self, partitions: Sequence[int]) -> None:
        """Nothing differs there any more."""
        for partition in partitions:
            if self._listed.pop(partition, None) is not None:
                await self._expected.record(ListedDifferences(prefix_of(partition)))

    async def _list(self, prefix: str, reference_index: int, found: FoundDifferences) -> None:
        expected = dict(await self._expected.list_prefix(prefix))
        extra = []
        after = ""
        while page := await self._tier.list_chunks(prefix, after, MAX_PAGE_CHUNKS):
            for chunk in page:
                digest = bytes.fromhex(chunk.digest)
                if expected.pop(digest, None) is None:
                    extra.append((digest, chunk.size_bytes))
            after = page[-1].digest
        missing = [MissingChunk(digest, size_bytes, reference_index) for digest, size_bytes in expected.items()]
        await self._expected.record(ListedDifferences(prefix, missing, extra))
        found.missing += len(missing)
        found.extra += len(extra)
