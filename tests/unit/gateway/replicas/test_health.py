"""Which nodes requests turn to, and how a failed one comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from types import SimpleNamespace

import pytest

from services.gateway.replicas import health
from services.gateway.replicas.health import NodeHealth
from shared.background_tasks import BackgroundTasks
from shared.contracts.cluster import NodeMap, NodeState
from shared.errors import ChunkNotFoundError, DiskFullError
from tests.unit.gateway.fakes import FakeNodes, node, node_map, unreachable
from tests.waiting import wait_until

pytestmark = pytest.mark.virtual_time


class Bench:
    """Health over fake nodes; `base_s` is long, so that nothing comes back by itself unless a test wants it."""

    def __init__(self, tasks: BackgroundTasks) -> None:
        self.nodes = FakeNodes()
        self.tasks = tasks
        self.health = NodeHealth(self.nodes, tasks, reconnect_base_s=1000, reconnect_limit_s=1000)

    def preferred(self) -> list[str]:
        return [known.id for known in self.health.split([node("a"), node("b")])[0]]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with BackgroundTasks() as tasks:
        yield Bench(tasks)


async def test_a_dead_node_is_avoided_and_kept_for_need(bench) -> None:
    """It moves from the first list to the second, in the same order."""
    bench.health.failed(node("a"), unreachable("a"))
    preferred, avoided = bench.health.split([node("a"), node("b")])
    assert ([known.id for known in preferred], [known.id for known in avoided]) == (["b"], ["a"])


async def test_a_full_node_is_avoided_for_writes_only(bench) -> None:
    """It answers, so reads still go to it first."""
    bench.health.failed(node("a"), DiskFullError("full"))
    assert bench.preferred() == ["a", "b"]
    assert [known.id for known in bench.health.split_for_write([node("a"), node("b")])[0]] == ["b"]


async def test_a_node_that_lacked_a_chunk_is_read_from_last_for_a_while(bench, monkeypatch) -> None:
    """It is used all the same, and written to as before: so it gets back what it lacks."""
    now_s = 100.0
    monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: now_s))
    bench.health.failed(node("a"), ChunkNotFoundError("absent"))
    assert bench.preferred() == ["b", "a"]
    assert [known.id for known in bench.health.split_for_write([node("a"), node("b")])[0]] == ["a", "b"]
    now_s += health.LACKING_NODE_PAUSE_S
    assert bench.preferred() == ["a", "b"]


async def test_a_suspect_that_answers_its_probe_stays(bench) -> None:
    """Losing one race is no proof."""
    bench.health.suspect(node("a"))
    await wait_until(lambda: len(bench.tasks) == 0)
    assert bench.nodes.calls["probe", "a"] == 1
    assert bench.preferred() == ["a", "b"]


async def test_a_suspect_that_does_not_answer_is_avoided(bench, monkeypatch) -> None:
    """A hung node is found by one probe, and only one at a time."""
    monkeypatch.setattr("services.gateway.replicas.health.PROBE_TIMEOUT_S", 0.05)
    bench.nodes.hanging.add("a")
    for _ in range(5):
        bench.health.suspect(node("a"))
    await wait_until(lambda: bench.preferred() == ["b"])
    assert bench.nodes.calls["probe", "a"] == 1


async def test_a_circuit_opened_during_a_probe_closes_again() -> None:
    """A request fails while the probe of a suspect is under way; the probe finds the node ready, and so does the next."""
    async with BackgroundTasks() as tasks:
        bench = Bench(tasks)
        bench.health = NodeHealth(bench.nodes, tasks, reconnect_base_s=0.01, reconnect_limit_s=0.02)
        bench.nodes.hanging.add("a")
        bench.health.suspect(node("a"))
        await wait_until(lambda: bench.nodes.under_way == 1)
        bench.health.failed(node("a"), unreachable("a"))
        assert bench.preferred() == ["b"]
        bench.nodes.hanging.clear()
        bench.nodes.released.set()
        await wait_until(lambda: bench.preferred() == ["a", "b"])
        assert bench.nodes.calls["probe", "a"] == 2, "ready once is an old answer: it failed since"


async def test_news_in_the_node_map_are_probed_at_once(bench) -> None:
    """A node that the log calls active again is used within moments, whatever the backoff."""
    bench.health.failed(node("a"), unreachable("a"))
    bench.health.node_map_changed(node_map("a", "b"))
    assert bench.preferred() == ["b"], "nothing is new about it"
    changed = [node("a", state=NodeState.INACTIVE), node("b")]
    bench.health.node_map_changed(NodeMap(epoch=2, nodes=changed))
    await wait_until(lambda: bench.preferred() == ["a", "b"])


async def test_nodes_that_do_not_answer_are_told_and_nothing_changes_by_that(bench) -> None:
    """Asked when somebody wants to know, with how long requests have avoided them."""
    nodes = [node("a"), node("b"), node("c")]
    assert await bench.health.unserved_s(nodes) == {}
    bench.nodes.errors["a"] = unreachable("a")
    bench.nodes.hanging.add("b")
    began_s = time.monotonic()
    assert await bench.health.unserved_s(nodes) == {"a": 0.0, "b": 0.0}
    assert time.monotonic() - began_s == pytest.approx(health.PROBE_TIMEOUT_S)
    assert bench.preferred() == ["a", "b"], "a probe that is late is no reason to avoid a node"
    bench.health.failed(node("a"), unreachable("a"))
    await asyncio.sleep(6)
    assert await bench.health.unserved_s([node("a")]) == {"a": pytest.approx(6.0)}
    bench.nodes.errors.clear()
    assert await bench.health.unserved_s([node("a")]) == {}, "it answers, whatever its circuit"


async def test_a_real_answer_ends_the_probing(bench) -> None:
    """A request that had to use the node and succeeded is the best proof."""
    bench.health.failed(node("a"), unreachable("a"))
    assert len(bench.tasks) == 1
    bench.health.answered(node("a"))
    assert bench.preferred() == ["a", "b"]
    await wait_until(lambda: len(bench.tasks) == 0)


async def test_a_node_that_left_is_forgotten(bench) -> None:
    """No probe goes to it for ever."""
    bench.health.failed(node("a"), unreachable("a"))
    bench.health.node_map_changed(node_map("b"))
    await wait_until(lambda: len(bench.tasks) == 0)
    assert "a" not in bench.health.statistics()


async def test_a_dead_node_is_probed_after_growing_pauses_and_then_every_minute(monkeypatch) -> None:
    """Base 5 s, five of them doubling, with full jitter, then 60 s for ever; one probe after each."""
    began_s = time.monotonic()
    probed_s: list[float] = []
    is_done = asyncio.Event()

    def record(_what: str, _node_id: str) -> None:
        probed_s.append(time.monotonic())
        if len(probed_s) == 8:
            is_done.set()

    nodes = FakeNodes()
    nodes.errors["a"] = unreachable("a")
    nodes.on_call = record
    monkeypatch.setattr("services.gateway.replicas.health.random.random", lambda: 0.5)
    async with BackgroundTasks() as tasks:
        health = NodeHealth(nodes, tasks, reconnect_base_s=5, reconnect_limit_s=60)
        health.failed(node("a"), unreachable("a"))
        await is_done.wait()
    pauses_s = [after - before for before, after in pairwise([began_s, *probed_s])]
    assert pauses_s == pytest.approx([2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 60.0, 60.0])
