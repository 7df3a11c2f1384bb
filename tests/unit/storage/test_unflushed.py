from __future__ import annotations

import pytest

from services.storage.tiers.unflushed import UnflushedChunk, UnflushedChunks


def chunk(name: str, size_bytes: int, since_ns: int = 0, *, is_acknowledged: bool = True) -> UnflushedChunk:
    return UnflushedChunk(name, bytes(size_bytes), 1, since_ns, is_acknowledged)


def test_room_ends_exactly_at_the_limit():
    """The limit may be reached and not passed; what leaves makes room."""
    chunks = UnflushedChunks(100)
    chunks.add(chunk("a", 60))
    assert chunks.has_room(40)
    assert not chunks.has_room(41)
    assert chunks.is_half_full()
    chunks.add(chunk("b", 40))
    with pytest.raises(ValueError, match="room"):
        chunks.add(chunk("c", 1))
    assert chunks.remove("a")
    assert not chunks.remove("a")
    assert chunks.size_bytes == 40
    assert not chunks.is_half_full()


def test_the_oldest_acknowledged_leave_first():
    """A flush takes acknowledged chunks in order, at least one, and about as many bytes as asked."""
    chunks = UnflushedChunks(1000)
    chunks.add(chunk("pending", 10, 1, is_acknowledged=False))
    for number, name in enumerate("abcd"):
        chunks.add(chunk(name, 100, 10 + number))
    assert [found.digest for found in chunks.oldest(150)] == ["a", "b"]
    assert [found.digest for found in chunks.oldest(1)] == ["a"]
    assert [found.digest for found in chunks.oldest(10_000)] == ["a", "b", "c", "d"]
    assert chunks.lag_ns(101) == 100
    for name in ("pending", "a", "b", "c", "d"):
        chunks.remove(name)
    assert chunks.oldest(100) == []
    assert chunks.lag_ns(101) == 0
    assert chunks.size_bytes == 0
