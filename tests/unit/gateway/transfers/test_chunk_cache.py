"""Small chunks are kept within their bytes, and those in use outlive a scan."""

from __future__ import annotations

import random
import tracemalloc

from blake3 import blake3

from services.gateway.transfers.chunk_cache import MAX_CHUNK_BYTES, ChunkCache
from shared.units import KIB, MIB


def chunk(number: int, size_bytes: int = 4 * KIB) -> tuple[str, bytes]:
    data = number.to_bytes(8) + bytes(size_bytes - 8)
    return blake3(data).hexdigest(), data


def test_what_was_put_is_found_until_it_is_evicted() -> None:
    """And counted."""
    cache = ChunkCache(MIB)
    digest, data = chunk(1)
    assert cache.get(digest) is None
    cache.put(digest, data)
    cache.put(digest, data)
    assert cache.get(digest) == data
    assert cache.get(digest) == data
    found = cache.statistics()
    assert (found["hits"], found["misses"], found["evictions"], found["chunks"]) == (2, 1, 0, 1)
    cache.forget()
    assert cache.get(digest) is None
    assert (cache.statistics()["bytes"], cache.statistics()["chunks"]) == (0, 0)


def test_a_scan_does_not_push_out_what_is_read_again_and_again() -> None:
    """However many chunks it reads once: those that were read twice before stay."""
    cache = ChunkCache(MIB)
    hot = [chunk(number) for number in range(100)]
    for _ in range(2):
        for digest, data in hot:
            if cache.get(digest) is None:
                cache.put(digest, data)
    for number in range(1000, 11_000):
        digest, data = chunk(number)
        assert cache.get(digest) is None
        cache.put(digest, data)
    assert all(cache.get(digest) == data for digest, data in hot)


def test_the_set_that_is_used_can_change() -> None:
    """What was protected and is not read any more makes room for what is."""
    cache = ChunkCache(MIB)
    for first in (0, 1000):
        for _ in range(3):
            for number in range(first, first + 150):
                digest, data = chunk(number)
                if cache.get(digest) is None:
                    cache.put(digest, data)
    assert all(cache.get(chunk(number)[0]) is not None for number in range(1000, 1150))


def test_a_chunk_that_is_too_large_is_not_kept() -> None:
    """The edge is exact; and a cache without bytes keeps none."""
    cache = ChunkCache(MIB)
    for size_bytes in (MAX_CHUNK_BYTES, MAX_CHUNK_BYTES + 1):
        cache.put(*chunk(size_bytes, size_bytes))
    assert cache.get(chunk(MAX_CHUNK_BYTES, MAX_CHUNK_BYTES)[0]) is not None
    assert cache.get(chunk(MAX_CHUNK_BYTES + 1, MAX_CHUNK_BYTES + 1)[0]) is None
    off = ChunkCache(0)
    off.put(*chunk(1))
    assert off.statistics()["chunks"] == 0


def test_its_bytes_are_bounded_with_what_python_adds(seed: int) -> None:
    """The sum that it shows is never more than its limit, and what it really takes is not much more than that."""
    draw = random.Random(seed)
    tracemalloc.start()
    try:
        cache = ChunkCache(4 * MIB)
        for _ in range(60_000):
            digest = f"{draw.randrange(40_000):064x}"
            if cache.get(digest) is None:
                cache.put(digest, bytes(draw.choice([1, 100, 4 * KIB, 10 * KIB])))
            assert cache.statistics()["bytes"] <= 4 * MIB
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.statistics()["evictions"] > 1000
    assert used_bytes < 1.1 * 4 * MIB
