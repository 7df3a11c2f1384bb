"""What is remembered of storage nodes, when it counts, and that it stays small."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from blake3 import blake3

from services.gateway.replicas.confirmations import MAX_CONFIRMATIONS, Confirmations
from shared.units import MIB
from tests.unit.gateway.fakes import node

CHUNK = "c" * 64
OTHER = "d" * 64


class Clock:
    """Monotonic seconds, set by the test."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def read_s(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock) -> Confirmations:
    return Confirmations(max_age_s=60, read_s=clock.read_s)


def holders(memory: Confirmations, digest: str = CHUNK, incarnation: int = 0) -> list[tuple[str, float]]:
    nodes = [node(name).model_copy(update={"incarnation": incarnation}) for name in ("a", "b", "c")]
    return [(found.node.id, found.age_s) for found in memory.holders(digest, nodes)]


def test_a_confirmation_counts_up_to_its_age_limit_and_no_longer(memory, clock) -> None:
    """The age is that of the question: what came of it in between is not known."""
    memory.confirm("a", [CHUNK], 3, clock.now_s)
    clock.now_s += 60
    assert holders(memory) == [("a", 60)]
    clock.now_s += 0.001
    assert holders(memory) == []


def test_the_youngest_comes_first(memory, clock) -> None:
    """So that as few as possible need be asked again."""
    for name in ("b", "a", "c"):
        memory.confirm(name, [CHUNK], 3, clock.now_s)
        clock.now_s += 1
    assert holders(memory) == [("c", 1), ("a", 2), ("b", 3)]


def test_an_older_answer_does_not_make_a_younger_one_older(memory, clock) -> None:
    """Answers come in any order."""
    memory.confirm("a", [CHUNK], 3, clock.now_s)
    memory.confirm("a", [CHUNK], 3, clock.now_s - 30)
    assert holders(memory) == [("a", 0)]


def test_an_answer_with_another_fence_drops_all_of_its_node(memory, clock) -> None:
    """Another disk or Redis: what the one before held says nothing, and neither does what other nodes did."""
    memory.confirm("a", [CHUNK, OTHER], 3, clock.now_s)
    memory.confirm("b", [CHUNK], 3, clock.now_s)
    memory.confirm("a", [], 4, clock.now_s)
    assert holders(memory) == [("b", 0)]
    assert holders(memory, OTHER) == []


def test_a_confirmation_of_an_older_incarnation_does_not_count(memory, clock) -> None:
    """The node map names the disk that counts; a fence is never below the incarnation of the disk that gave it."""
    memory.confirm("a", [CHUNK], 3, clock.now_s)
    memory.confirm("b", [CHUNK], 5, clock.now_s)
    memory.confirm("c", [CHUNK], 7, clock.now_s)
    assert sorted(holders(memory, incarnation=5)) == [("b", 0), ("c", 0)]


def test_an_answer_without_a_fence_is_not_remembered(memory, clock) -> None:
    """Nothing would tell that the disk has changed."""
    memory.confirm("a", [CHUNK], None, clock.now_s)
    assert holders(memory) == []


def test_what_a_node_turned_out_to_lack_is_dropped_at_once(memory, clock) -> None:
    """That chunk of that node, and nothing else."""
    memory.confirm("a", [CHUNK, OTHER], 3, clock.now_s)
    memory.confirm("b", [CHUNK], 3, clock.now_s)
    memory.refute("a", CHUNK)
    memory.refute("unknown", CHUNK)
    assert holders(memory) == [("b", 0)]
    assert holders(memory, OTHER) == [("a", 0)]


def test_another_cluster_begins_with_an_empty_memory(memory, clock) -> None:
    """And an answer to what was asked before is not remembered for it either."""
    memory.confirm("a", [CHUNK], 3, clock.now_s)
    clock.now_s += 1
    memory.forget()
    assert holders(memory) == []
    memory.confirm("a", [CHUNK], 3, clock.now_s - 0.5)
    assert holders(memory) == []
    memory.confirm("a", [CHUNK], 3, clock.now_s)
    assert holders(memory) == [("a", 0)]


def test_an_age_limit_of_zero_remembers_nothing(clock) -> None:
    """That switches it off."""
    memory = Confirmations(max_age_s=0, read_s=clock.read_s)
    memory.confirm("a", [CHUNK], 3, clock.now_s)
    assert (holders(memory), len(memory)) == ([], 0)


def test_those_confirmed_longest_ago_are_evicted_first(clock) -> None:
    """From the node of which most is remembered, and never more than the limit stay."""
    memory = Confirmations(max_age_s=60, max_count=3, read_s=clock.read_s)
    for name, digest in (("a", CHUNK), ("a", OTHER), ("b", CHUNK), ("a", CHUNK)):
        memory.confirm(name, [digest], 3, clock.now_s)
        clock.now_s += 1
    memory.confirm("a", ["e" * 64], 3, clock.now_s)
    assert len(memory) == 3
    assert [name for name, _ in holders(memory)] == ["a", "b"], "confirmed again, so younger than the other one"
    assert holders(memory, OTHER) == []


def test_the_memory_is_bounded_in_bytes() -> None:
    """As many as it takes, each under a digest of its own: less than half of the default budget for chunks."""
    tracemalloc.start()
    try:
        memory = Confirmations(max_age_s=60)
        for number in range(MAX_CONFIRMATIONS + 1000):
            memory.confirm("abc"[number % 3], [blake3(number.to_bytes(8)).hexdigest()], 3, time.monotonic())
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(memory) == MAX_CONFIRMATIONS
    assert used_bytes < 32 * MIB
