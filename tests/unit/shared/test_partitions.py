"""The sums that two parties compare, so that they find what differs without listing what does not."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from shared.partitions import (
    GROUP_COUNT,
    PARTITION_COUNT,
    PartitionTable,
    SetSum,
    partition_of,
    prefix_of,
    sum_of,
)

digests = st.binary(min_size=32, max_size=32)
sets = st.dictionaries(digests, st.integers(0, 1 << 20), max_size=40)


def table_of(chunks: dict[bytes, int]) -> PartitionTable:
    table = PartitionTable()
    table.fill(chunks.items())
    return table


@given(digests)
def test_a_digest_belongs_to_the_partition_of_its_first_three_digits(digest) -> None:
    """So that a partition is a range of the inventory."""
    assert digest.hex().startswith(prefix_of(partition_of(digest)))
    assert 0 <= partition_of(digest) < PARTITION_COUNT


@given(sets, st.randoms(use_true_random=False))
def test_the_way_does_not_matter(chunks, source) -> None:
    """One by one, in any order and with detours, ends in the sums that filling at once gives."""
    table = PartitionTable()
    order = list(chunks.items())
    source.shuffle(order)
    for digest, size_bytes in order:
        for difference in (sum_of(digest, size_bytes), -sum_of(digest, size_bytes), sum_of(digest, size_bytes)):
            table.change(partition_of(digest), difference)
    expected = table_of(chunks)
    assert [table.partition(number) for number in range(PARTITION_COUNT)] == [
        expected.partition(number) for number in range(PARTITION_COUNT)
    ]
    assert table.total == expected.total == sum(table.groups(), SetSum())
    assert table.total.chunk_count == len(chunks)
    assert table.total.used_bytes == sum(chunks.values())


@given(sets, digests, st.integers(0, 1 << 20))
def test_one_chunk_more_changes_one_partition_of_one_group(chunks, digest, size_bytes) -> None:
    """The cost of a comparison grows with what differs."""
    chunks.pop(digest, None)
    before, after = table_of(chunks), table_of(chunks | {digest: size_bytes})
    groups = list(zip(before.groups(), after.groups(), strict=True))
    assert len(groups) == GROUP_COUNT
    assert [number for number, (old, new) in enumerate(groups) if old != new] == [digest[0]]
    parts = zip(before.group(digest[0]), after.group(digest[0]), strict=True)
    assert [number for number, (old, new) in enumerate(parts) if old != new] == [digest[1] >> 4]


def test_what_is_put_into_a_partition_replaces_what_it_held() -> None:
    """A partition that is read again is not counted twice, and the others stay as they are."""
    source = random.Random(11)
    one, other = source.randbytes(32), source.randbytes(32)
    table = table_of({one: 10, other: 100})
    assert partition_of(one) != partition_of(other)
    table.put(partition_of(one), sum_of(one, 12))
    assert table.partition(partition_of(one)) == sum_of(one, 12)
    assert table.total == sum_of(one, 12) + sum_of(other, 100)
    table.put(partition_of(one), SetSum())
    assert table.total == sum_of(other, 100)


def test_sets_of_equal_count_and_size_differ_in_their_checksums() -> None:
    """Also when one chunk was exchanged for another."""
    source = random.Random(7)
    chunks = {source.randbytes(32): 1000 for _ in range(1000)}
    left, right = list(chunks)[:-1], list(chunks)[1:]
    sums = [table_of(dict.fromkeys(part, 1000)).total for part in (left, right)]
    assert sums[0].chunk_count == sums[1].chunk_count
    assert sums[0].checksum != sums[1].checksum
    assert all(0 <= found.checksum < 1 << 256 for found in sums)
