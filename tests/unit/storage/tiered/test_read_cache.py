from __future__ import annotations

import tracemalloc

from services.storage.tiered.read_cache import HotChunks
from shared.units import MIB

A, B, C, D = ("aa" * 32, "bb" * 32, "cc" * 32, "dd" * 32)


def test_the_least_recently_used_leave_first():
    """Beyond the limit the chunks that were not read for longest leave, and no more of them than needed."""
    hot = HotChunks(limit_bytes=3 * (1000 + 256))
    for digest in (A, B, C):
        hot.add(digest, 1000)
    assert hot.surplus() == []
    hot.touch(A)
    hot.add(D, 1000)
    assert hot.surplus() == [B]
    assert A in hot
    assert B not in hot
    assert len(hot) == 3
    assert hot.used_bytes == 3 * (1000 + 256)
    assert hot.surplus(reserved_bytes=1) == [C]


def test_copies_are_bounded_by_their_number_too():
    """What an entry costs this process does not shrink with its chunk: tiny ones leave long before Redis is full."""
    hot = HotChunks(limit_bytes=1_000_000, max_entries=3)
    for digest in (A, B, C):
        hot.add(digest, 1)
    assert hot.surplus() == []
    hot.touch(A)
    hot.add(D, 1)
    assert hot.surplus() == [B]
    assert hot.used_bytes == 3 * 257


def test_a_redis_full_of_tiny_chunks_does_not_fill_this_process():
    """A million copies of 100 bytes fit into the default limit of Redis; their index may not take 200 MiB here."""
    hot = HotChunks(limit_bytes=368 * MIB)
    tracemalloc.start()
    try:
        most_bytes = 0
        for number in range(120_000):
            hot.add(f"{number:064x}", 100)
            hot.surplus()
            if number % 10_000 == 0:
                most_bytes = max(most_bytes, tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert len(hot) == 100_000
    assert most_bytes < 32 * MIB


def test_adding_twice_and_removing_what_is_absent_keep_the_sum_right():
    """The bytes counted are those of the chunks that are there."""
    hot = HotChunks(limit_bytes=10_000)
    hot.add(A, 500)
    hot.add(A, 500)
    hot.remove(B)
    hot.touch(B)
    assert hot.used_bytes == 756
    hot.remove(A)
    assert hot.used_bytes == 0
    assert len(hot) == 0


def test_only_the_second_read_earns_a_place():
    """One read of everything does not push out what is read often; memory of single reads is bounded."""
    hot = HotChunks(limit_bytes=10_000)
    assert not hot.earns_place(A)
    assert hot.earns_place(A)
    assert not hot.earns_place(A)
    for number in range(4096):
        hot.earns_place(f"{number:064x}")
    assert not hot.earns_place(A)
