"""Sums up a set of chunks by partition, so that two sets that should be equal are compared without listing either (S-49).

A chunk belongs to the partition of its digest's first three hex digits; sixteen partitions with the first two in common
are a group. Two parties compare the sums of all groups, then the partitions of the groups that differ, then list those:
the cost grows with what differs. Pure, because a node sums up what it holds and others what it should hold.

The checksum of a set is the sum of its digests as integers, modulo 2^256 (Bellare & Micciancio 1997, AdHash). A change
costs one addition, order does not matter, and the checksum of a union of disjoint sets is the sum of theirs. It finds
differences that nobody made on purpose; who stores chunks could choose some that cancel out, and would only hide that his
own are missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

DIGEST_BYTES: Final = 32
GROUP_COUNT: Final = 256
PARTITIONS_PER_GROUP: Final = 16
PARTITION_COUNT: Final = GROUP_COUNT * PARTITIONS_PER_GROUP
_MASK: Final = (1 << 256) - 1


@dataclass(frozen=True, slots=True)
class SetSum:
    """A set of chunks in three numbers. `checksum` is below 2^256."""

    chunk_count: int = 0
    used_bytes: int = 0
    checksum: int = 0

    def __add__(self, other: SetSum) -> SetSum:
        """Of the union, when the two sets have nothing in common."""
        return SetSum(
            self.chunk_count + other.chunk_count,
            self.used_bytes + other.used_bytes,
            (self.checksum + other.checksum) & _MASK,
        )

    def __neg__(self) -> SetSum:
        """What takes the set away again when it is added."""
        return SetSum(-self.chunk_count, -self.used_bytes, -self.checksum & _MASK)


def sum_of(digest: bytes, size_bytes: int) -> SetSum:
    """The sum of one chunk."""
    return SetSum(1, size_bytes, int.from_bytes(digest))


def partition_of(digest: bytes) -> int:
    """The number of a digest's partition, 0 to `PARTITION_COUNT` - 1."""
    return digest[0] << 4 | digest[1] >> 4


def prefix_of(partition: int) -> str:
    """The three hex digits with which the digests of a partition begin."""
    return f"{partition:03x}"


class PartitionTable:
    """The sum of every partition of one set. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._sums = [SetSum()] * PARTITION_COUNT
        self._total = SetSum()

    @property
    def total(self) -> SetSum:
        """Of the whole set."""
        return self._total

    def change(self, partition: int, difference: SetSum) -> None:
        """Add `difference` to one partition."""
        self._sums[partition] += difference
        self._total += difference

    def put(self, partition: int, found: SetSum) -> None:
        """Say what one partition holds."""
        self.change(partition, found + -self._sums[partition])

    def fill(self, chunks: Iterable[tuple[bytes, int]]) -> None:
        """Add many chunks (digest, length); much faster than one by one."""
        counts, sizes, checksums = [0] * PARTITION_COUNT, [0] * PARTITION_COUNT, [0] * PARTITION_COUNT
        for digest, size_bytes in chunks:
            partition = digest[0] << 4 | digest[1] >> 4
            counts[partition] += 1
            sizes[partition] += size_bytes
            checksums[partition] += int.from_bytes(digest)
        for partition, count in enumerate(counts):
            if count:
                self.change(partition, SetSum(count, sizes[partition], checksums[partition] & _MASK))

    def partition(self, number: int) -> SetSum:
        """The sum of one partition."""
        return self._sums[number]

    def group(self, group: int) -> list[SetSum]:
        """The sums of the partitions of one group, in order."""
        return self._sums[group * PARTITIONS_PER_GROUP : (group + 1) * PARTITIONS_PER_GROUP]

    def groups(self) -> Iterator[SetSum]:
        """The sums of all groups, in order."""
        for group in range(GROUP_COUNT):
            yield sum(self.group(group), SetSum())
