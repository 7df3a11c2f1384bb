from __future__ import annotations

import tracemalloc

from services.storage.tiered.read_cache import ReadCache
from shared.units import MIB

A, B, C, D = ("aa" * 32, "bb" * 32, "cc" * 32, "dd" * 32)


def test_the_least_recently_used_leave_first():
    """Beyond the limit the chunks that were not read for longest leave, and no more of them than needed."""
    cache = ReadCache(limit_bytes=3 * (1000 + 256))
    for digest in (A, B, C):
        cache.add(digest, 1000)
    assert cache.evict() == []
    cache.touch(A)
    cache.add(D, 1000)
    assert cache.evict() == [B]
    assert A in cache
    assert B not in cache
    assert len(cache) == 3
    assert cache.used_bytes == 3 * (1000 + 256)
    assert cache.evict(reserved_bytes=1) == [C]


def test_copies_are_bounded_by_their_number_too():
    """What an entry costs this process does not shrink with its chunk: tiny ones leave long before Redis is full."""
    cache = ReadCache(limit_bytes=1_000_000, max_entries=3)
    for digest in (A, B, C):
        cache.add(digest, 1)
    assert cache.evict() == []
    cache.touch(A)
    cache.add(D, 1)
    assert cache.evict() == [B]
    assert cache.used_bytes == 3 * 257


def test_a_redis_full_of_tiny_chunks_does_not_fill_this_process():
    """A million copies of 100 bytes fit into the default limit of Redis; their index may not take 200 MiB here."""
    cache = ReadCache(limit_bytes=368 * MIB)
    tracemalloc.start()
    try:
        most_bytes = 0
        for number in range(120_000):
            cache.add(f"{number:064x}", 100)
            cache.evict()
            if number % 10_000 == 0:
                most_bytes = max(most_bytes, tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert len(cache) == 100_000
    assert most_bytes < 32 * MIB


def test_adding_twice_and_removing_what_is_absent_keep_the_sum_right():
    """The bytes counted are those of the chunks that are there."""
    cache = ReadCache(limit_bytes=10_000)
    cache.add(A, 500)
    cache.add(A, 500)
    cache.remove(B)
    cache.touch(B)
    assert cache.used_bytes == 756
    cache.remove(A)
    assert cache.used_bytes == 0
    assert len(cache) == 0


def test_only_the_second_read_promotes():
    """One read of everything does not push out what is read often; memory of single reads is bounded."""
    cache = ReadCache(limit_bytes=10_000)
    assert not cache.should_promote(A)
    assert cache.should_promote(A)
    assert not cache.should_promote(A)
    for number in range(4096):
        cache.should_promote(f"{number:064x}")
    assert not cache.should_promote(A)
