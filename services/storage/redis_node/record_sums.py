"""The partition sums of what Redis has recorded, in mode `redis`: read from Redis, and only where something changed since.

Redis cannot add 256-bit numbers, so this process keeps the sums and marks a group of partitions whenever it sends a change
of it. A marked group is read again from the index when it is asked for.
After a restart, or when Redis was away, every group counts as changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from shared.contracts.chunks import HeldChunk
from shared.partitions import GROUP_COUNT, PARTITIONS_PER_GROUP, PartitionTable, SetSum, partition_of, sum_of

_PAGE: Final = 1000

ListChunks = Callable[[str, str, int], Awaitable[list[HeldChunk]]]
"""As `ports.Tier.list_chunks`."""


class RecordSums:
    """Invariant: a group whose `_known` equals its `_changes` has the sums that Redis had after its last change."""

    def __init__(self, list_chunks: ListChunks) -> None:
        self._list_chunks = list_chunks
        self._table = PartitionTable()
        self._changes = [0] * GROUP_COUNT
        self._known = [-1] * GROUP_COUNT
        self._refreshing = asyncio.Lock()

    @contextmanager
    def changing(self, digests: Sequence[str]) -> Iterator[None]:
        """Around every change of chunks, whatever comes of it."""
        groups = {int(digest[:2], 16) for digest in digests}
        # Before, so that a refresh that reads the old state does not count as new; after, because one may have.
        self._record_change(groups)
        try:
            yield
        finally:
            self._record_change(groups)

    def forget(self) -> None:
        """Redis was away: what it holds now must be read again."""
        self._record_change(range(GROUP_COUNT))

    async def sums(self, group: int | None) -> list[SetSum]:
        """See `ports.Tier.sums`."""
        async with self._refreshing:
            for number in range(GROUP_COUNT) if group is None else [group]:
                if self._known[number] != self._changes[number]:
                    await self._refresh(number)
        return list(self._table.groups()) if group is None else self._table.group(group)

    def _record_change(self, groups: Iterable[int]) -> None:
        for group in groups:
            self._changes[group] += 1

    async def _refresh(self, group: int) -> None:
        changes = self._changes[group]
        first = group * PARTITIONS_PER_GROUP
        found = [SetSum()] * PARTITIONS_PER_GROUP
        after = ""
        while True:
            chunks = await self._list_chunks(f"{group:02x}", after, _PAGE)
            for chunk in chunks:
                digest = bytes.fromhex(chunk.digest)
                found[partition_of(digest) - first] += sum_of(digest, chunk.size_bytes)
            if len(chunks) < _PAGE:
                break
            after = chunks[-1].digest
        for offset, partition_sum in enumerate(found):
            self._table.put(first + offset, partition_sum)
        self._known[group] = changes
