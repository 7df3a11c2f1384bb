"""The loops together: nodes come to hold what they should, say how far they are, and outlive every trouble."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from services.storage.reconcile import extra_chunks, reconciler
from services.storage.reconcile.expected_chunks import Position
from shared import background_tasks
from shared.background_tasks import BackgroundTasks
from shared.contracts.cluster import NodeState
from shared.contracts.reconcile import ReconcileReport
from shared.errors import InternalError
from tests.integration.storage.support import poll
from tests.unit.storage.reconcile.world import Bodies, Node, make_chunks

NOTHING = ReconcileReport(
    epoch=0,
    log_index=0,
    expected_chunks=None,
    expected_bytes=None,
    missing_chunks=None,
    missing_bytes=None,
    surplus_chunks=None,
    orphan_chunks=None,
    bytes_per_s=0,
    is_listing=True,
)


@pytest.fixture
async def run(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[Node], None]]:
    """Starts the loops of nodes."""
    monkeypatch.setattr(reconciler, "_RETRY_BASE_S", 0.01)
    monkeypatch.setattr(reconciler, "_RETRY_CAP_S", 0.02)
    monkeypatch.setattr(background_tasks, "_FAILURE_PAUSE_S", 0.01)
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(BackgroundTasks())
        count = 0

        def start(node: Node) -> None:
            nonlocal count
            stack.push_async_callback(node.reconciler.aclose)
            node.reconciler.start(tasks)
            count += 5

        yield start
        assert len(tasks) == count
        await tasks.aclose()


def report_of(node: Node) -> ReconcileReport:
    """One that knows nothing, before the first."""
    return node.reconciler.report() or NOTHING


def is_right(world, chunks: Bodies, replicas: int = 3) -> Callable[[], bool]:
    """Every chunk is on exactly so many nodes."""
    nodes = world.nodes.values()
    return lambda: (
        set(Counter(digest for node in nodes for digest in node.holds() & set(chunks)).values()) == {replicas}
    )


async def cluster(world, count: int, chunks: Bodies) -> list[Node]:
    """Nodes that hold what they should of one file."""
    nodes = await world.add_all(count)
    world.log.publish(chunks)
    for node in nodes:
        await node.follower.follow()
        await node.hold({digest: chunks[digest] for digest in node.wants()})
        await node.close()
        node.make()
    return nodes


@pytest.mark.parametrize("count", [3, 4])
async def test_a_wiped_node_is_refilled(count, world, run):
    """With a spare node and without."""
    chunks = make_chunks(100)
    nodes = await cluster(world, count, chunks)
    nodes[0].tier.wipe()
    for node in nodes:
        run(node)
    await poll(is_right(world, chunks))
    await poll(lambda: report_of(nodes[0]).missing_chunks == 0)
    report = report_of(nodes[0])
    assert report.expected_chunks == len(nodes[0].holds())
    assert (report.epoch, report.is_listing, report.drained_index) == (world.log.epoch, False, None)
    gauge = ("trivet_storage_reconcile_chunks", {"kind": "expected"})
    await poll(lambda: nodes[0].registry.get_sample_value(*gauge) == len(nodes[0].holds()))


async def test_a_spare_node_stands_in_and_hands_back(world, run):
    """Inactive: N replicas on the others; back: N again, and no more."""
    chunks = make_chunks(80)
    nodes = await cluster(world, 4, chunks)
    for node in nodes[:3]:
        run(node)
    lost = nodes[3]
    lost.is_away = True
    world.log.set_node("n4", NodeState.INACTIVE)
    await poll(lambda: all(node.holds() == set(chunks) for node in nodes[:3]))
    lost.is_away = False
    world.log.set_node("n4")
    run(lost)
    await poll(is_right(world, chunks))
    await poll(lambda: all(report_of(node).surplus_chunks == 0 for node in nodes))


async def test_a_draining_node_empties_and_says_since_when(world, run):
    """The index is one at which it was draining already; a cancelled drain fills it again."""
    chunks = make_chunks(80)
    nodes = await cluster(world, 4, chunks)
    for node in nodes:
        run(node)
    world.log.set_node("n4", NodeState.DRAINING)
    began = world.log.index
    await poll(lambda: report_of(nodes[3]).drained_index is not None)
    report = report_of(nodes[3])
    assert report.drained_index >= began
    assert report.epoch == world.log.epoch
    assert nodes[3].holds() == set()
    assert is_right(world, chunks)()
    world.log.set_node("n4")
    await poll(lambda: nodes[3].holds() == nodes[3].wants() != set())
    assert report_of(nodes[3]).drained_index is None


async def test_a_draining_node_that_holds_referenced_chunks_is_not_drained(world, run):
    """Nobody else has one of them."""
    chunks = make_chunks(50)
    nodes = await cluster(world, 4, chunks)
    sole = make_chunks(1)
    world.log.publish(sole)
    await nodes[3].hold(sole)
    for node in nodes:
        if node is not nodes[3]:
            node.lies = {digest.hex(): b"" for digest in sole}
    world.log.set_node("n4", NodeState.DRAINING)
    run(nodes[3])
    await poll(lambda: report_of(nodes[3]).surplus_chunks not in {None, 0})
    assert report_of(nodes[3]).drained_index is None
    for node in nodes[:3]:
        run(node)
    await poll(lambda: report_of(nodes[3]).drained_index is not None)
    assert nodes[3].holds() == set()
    assert all(set(sole) <= node.holds() for node in nodes[:3])


@pytest.mark.parametrize("compares", [False, True])
async def test_a_walk_proves_no_drain_while_everything_is_listed_anew(compares, world, monkeypatch):
    """A listing empties the lists: what they do not name may be held, and nowhere else."""
    monkeypatch.setattr(extra_chunks, "_PAGE", 1)
    nodes = await cluster(world, 4, {})
    chunks = make_chunks(2)
    world.log.publish(chunks)
    first, sole = sorted(chunks)
    await nodes[3].hold(chunks)
    for node in nodes[:3]:
        await node.hold({first: chunks[first]})
    world.log.set_node("n4", NodeState.DRAINING)
    for node in nodes:
        await node.open()
        await node.follower.follow()
    node = nodes[3]
    await node.reconciler._follow_once(0)
    confirm, is_listed = node.confirm, False

    async def list_first(*question):
        nonlocal is_listed
        if not is_listed:
            is_listed = True
            node.follower.list_again()
            await node.follower.follow()
            if compares:
                await node.reconciler._follow_once(0)
        return await confirm(*question)

    monkeypatch.setattr(node, "confirm", list_first)
    for _ in range(2):
        await node.reconciler._drop()
        assert node.holds() == {sole}
        assert report_of(node).drained_index is None


async def test_deleted_files_leave_all_nodes_and_orphans_too(world, run):
    """Also while one node was away; the file is not fetched again."""
    chunks, kept = make_chunks(100), make_chunks(50)
    nodes = await cluster(world, 4, chunks | kept)
    version = max(world.log.versions)
    world.log.publish(kept)
    await nodes[0].hold(make_chunks(10), 1)
    for node in nodes[:3]:
        run(node)
    world.log.forget(version)
    world.log.aged_index = world.log.index
    await poll(lambda: all(node.holds() <= set(kept) for node in nodes[:3]))
    run(nodes[3])
    await poll(lambda: not any(node.holds() & set(chunks) for node in nodes))
    await poll(is_right(world, kept))


async def test_what_no_node_has_is_expected_only_while_files_refer_to_it(world, run):
    """A reference that went away before the log told of it."""
    chunks = make_chunks(30)
    nodes = await cluster(world, 3, chunks)
    for node in nodes:
        node.tier.wipe()
        run(node)
    await poll(lambda: all(report_of(node).missing_chunks == 30 for node in nodes))
    world.log.versions.clear()
    await poll(lambda: all(report_of(node).missing_chunks == 0 for node in nodes))
    assert all(report_of(node).expected_chunks == 0 for node in nodes)


@pytest.mark.parametrize("is_published", [False, True])
async def test_an_answer_that_the_log_has_passed_ends_no_expectation(is_published, world, monkeypatch):
    """A chunk that no file refers to is uploaded again, and the log followed to there, before the answer is acted on."""
    chunks = make_chunks(1)
    nodes = await cluster(world, 3, chunks)
    node = nodes[0]
    node.tier.wipe()
    for each in nodes[1:]:
        each.tier.wipe()
    await node.open()
    await node.reconciler._follow_once(0)
    world.log.versions.clear()
    check = node.reconciler._references.check

    async def check_late(digests):
        checked = await check(digests)
        if is_published:
            world.log.publish(chunks)
            for each in nodes[1:]:
                await each.hold(chunks, world.log.index)
        await node.follower.follow()
        return checked

    monkeypatch.setattr(node.reconciler._references, "check", check_late)
    assert await node.reconciler._pull() == (not is_published)
    await node.reconciler._pull()
    assert node.holds() == (set(chunks) if is_published else set())
    assert node.expected.total.chunk_count == len(node.holds())


async def test_nothing_is_said_that_is_not_known(world, run):
    """No report before the first listing; without consensus the old one, with its index."""
    node, *_ = await world.add_all(1)
    await node.close()
    node.make()
    world.log.is_away = True
    run(node)
    assert node.reconciler.report() is None
    chunks = make_chunks(10)
    await node.hold(chunks)
    world.log.publish(chunks)
    world.log.is_away = False
    await poll(lambda: report_of(node).missing_chunks == 0)
    before = report_of(node)
    world.log.is_away = True
    world.log.publish(make_chunks(10))
    await asyncio.sleep(0)
    assert report_of(node).log_index == before.log_index < world.log.index
    assert node.holds() == set(chunks)
    world.log.is_away = False
    await poll(lambda: report_of(node).missing_chunks == 10)


async def test_a_damaged_file_is_made_anew_while_the_node_runs(world, run):
    """Everything is listed again."""
    chunks = make_chunks(50)
    nodes = await cluster(world, 3, chunks)
    run(nodes[0])
    await poll(lambda: report_of(nodes[0]).missing_chunks == 0)

    def tear(sql):
        sql.execute("PRAGMA writable_schema=ON")
        sql.execute("DELETE FROM sqlite_master WHERE name = 'expected'")
        import sqlite3

        raise sqlite3.DatabaseError("torn")

    await nodes[0].reconciler._guarded("test", nodes[0].database.read(tear))
    await poll(lambda: report_of(nodes[0]).expected_chunks == 50)


async def test_no_defect_ends_a_loop(world, run, monkeypatch):
    """Whatever it was, in this code or in what a peer sent: without the loop nothing heals any more."""
    chunks = make_chunks(50)
    nodes = await cluster(world, 3, chunks)
    nodes[0].tier.wipe()
    left = {"follow": 2, "walk": 2}

    def failing(name, method):
        async def call():
            left[name] -= 1
            if left[name] >= 0:
                raise ValueError("a defect")
            return await method()

        return call

    monkeypatch.setattr(nodes[0].follower, "follow", failing("follow", nodes[0].follower.follow))
    puller = nodes[0].reconciler._puller
    monkeypatch.setattr(puller, "walk", failing("walk", puller.walk))
    for node in nodes:
        run(node)
    await poll(is_right(world, chunks))
    assert max(left.values()) < 0


async def test_lists_that_do_not_fit_together_are_an_invalid_answer(world):
    """A number for every condemned chunk."""
    node, *_ = await world.add_all(1)
    read = world.log.read

    async def cut(query):
        answer, context = await read(query)
        return answer.model_copy(update={"condemned": b"c" * 32}), context

    world.log.read = cut
    with pytest.raises(InternalError):
        await node.reconciler._references.changes(Position(world.log.index))


def test_a_gauge_of_what_is_not_known_is_no_number(world):
    """0 would be believed."""
    node = Node("n9", world.log, world._folder, world.nodes)
    node.reconciler._publish()
    value = node.registry.get_sample_value("trivet_storage_reconcile_chunks", {"kind": "missing"})
    assert value is not None
    assert math.isnan(value)
