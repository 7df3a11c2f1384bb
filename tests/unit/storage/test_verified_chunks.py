from __future__ import annotations

import tracemalloc

from services.storage.verified_chunks import VerifiedChunks
from shared.units import MIB

A, B, C = ("aa" * 32, "bb" * 32, "cc" * 32)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_replica_is_verified_up_to_the_maximum_age():
    """Both sides of the edge; what is verified again begins anew."""
    clock = Clock()
    verified = VerifiedChunks(10.0, 100, clock)
    verified.record([A])
    assert A in verified
    assert B not in verified
    clock.now_s += 10.0
    assert A in verified
    clock.now_s += 0.1
    assert A not in verified
    verified.record([A])
    assert A in verified


def test_a_removed_replica_is_not_verified():
    """One by one, or all of them."""
    verified = VerifiedChunks(10.0, 100)
    verified.record([A, B, C])
    verified.forget([A, A])
    assert [digest in verified for digest in (A, B, C)] == [False, True, True]
    verified.clear()
    assert len(verified) == 0


def test_the_times_are_bounded_and_the_oldest_are_forgotten():
    """A node with many chunks forgets when it wrote the first; that costs a read, and no memory."""
    verified = VerifiedChunks(10.0, 2)
    verified.record([A, B])
    verified.record([A])
    verified.record([C])
    assert [digest in verified for digest in (A, B, C)] == [True, False, True]
    many = VerifiedChunks(10.0, 20_000)
    tracemalloc.start()
    try:
        many.record(f"{number:064x}" for number in range(40_000))
        taken_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(many) == 20_000
    assert taken_bytes < 10 * MIB


def test_a_read_that_a_removal_overtook_is_not_recorded():
    """The chunk may be the one that was removed meanwhile, and what is verified counts as held."""
    verified = VerifiedChunks()
    before = verified.forgets()
    verified.record_read("aa" * 32, before)
    assert "aa" * 32 in verified
    verified.forget(["bb" * 32])
    verified.record_read("cc" * 32, before)
    assert "cc" * 32 not in verified
    verified.record_read("cc" * 32, verified.forgets())
    assert "cc" * 32 in verified
