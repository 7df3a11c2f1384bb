from __future__ import annotations

import tracemalloc

import pytest

from services.storage.tiered.write_behind import BufferedChunk, WriteBehindBuffer
from shared.units import MIB

ENTRY = 512
"""What an entry is counted with, beside its body."""


def chunk(name: str, size_bytes: int, since_ns: int = 0, *, is_acknowledged: bool = True) -> BufferedChunk:
    return BufferedChunk(name, bytes(size_bytes), 1, since_ns, is_acknowledged)


def test_room_ends_exactly_at_the_limit():
    """The limit may be reached and not passed; what leaves makes room."""
    chunks = WriteBehindBuffer(100 + 2 * ENTRY)
    chunks.add(chunk("a", 60))
    assert chunks.has_room(40)
    assert not chunks.has_room(41)
    assert chunks.is_half_full()
    chunks.add(chunk("b", 40))
    with pytest.raises(ValueError, match="room"):
        chunks.add(chunk("c", 1))
    assert chunks.remove("a")
    assert not chunks.remove("a")
    assert chunks.size_bytes == 40 + ENTRY
    assert not chunks.is_half_full()


def test_tiny_chunks_do_not_take_more_memory_than_the_limit():
    """A disk that hangs while chunks of a few bytes come in: objects and table are part of what is bounded."""
    chunks = WriteBehindBuffer(4 * MIB)
    tracemalloc.start()
    try:
        number = 0
        while chunks.has_room(20):
            chunks.add(BufferedChunk(f"{number:064x}", number.to_bytes(20), number, number + 2**40))
            number += 1
        taken_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert number > 5000
    assert taken_bytes < 4 * MIB


def test_the_oldest_acknowledged_leave_first():
    """A flush takes acknowledged chunks in order, at least one, and about as many bytes as asked."""
    chunks = WriteBehindBuffer(10_000)
    chunks.add(chunk("pending", 10, 1, is_acknowledged=False))
    for number, name in enumerate("abcd"):
        chunks.add(chunk(name, 100, 10 + number))
    assert [found.digest for found in chunks.oldest(150 + ENTRY)] == ["a", "b"]
    assert [found.digest for found in chunks.oldest(1)] == ["a"]
    assert [found.digest for found in chunks.oldest(10_000)] == ["a", "b", "c", "d"]
    assert chunks.lag_ns(101) == 100
    for name in ("pending", "a", "b", "c", "d"):
        chunks.remove(name)
    assert chunks.oldest(100) == []
    assert chunks.lag_ns(101) == 0
    assert chunks.size_bytes == 0
