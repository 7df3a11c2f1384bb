"""A verify pass counts what is missing, bad, surplus and orphaned, once, and goes on after a restart."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from services.storage.reconcile import verify
from services.storage.reconcile.database import DatabaseDamagedError
from shared.background_tasks import BackgroundTasks
from shared.contracts.reconcile import VerifyState
from shared.errors import ChunkCorruptError, ConflictError, TrivetError, UnavailableError
from tests.integration.storage.support import poll
from tests.unit.storage.reconcile.world import Bodies, Node, make_chunks


async def damaged(world) -> tuple[Node, Bodies]:
    """n1 of four nodes: two chunks missing, three bad, an orphan, and surplus that nobody else has."""
    nodes = await world.add_all(4)
    node = nodes[0]
    chunks = make_chunks(200)
    world.log.publish(chunks)
    await node.follower.follow()
    for peer in nodes:
        await peer.follower.follow()
        await peer.hold({digest: chunks[digest] for digest in peer.wants()})
    wanted = sorted(node.wants())
    for digest in wanted[:2]:
        await node.tier.delete(digest.hex())
    for digest in wanted[2:5]:
        node.tier.bodies[digest.hex()] = b"x" * 100
    foreign = next(digest for digest in chunks if digest not in node.wants())
    await node.hold({foreign: chunks[foreign]} | make_chunks(1))
    return node, chunks


async def running(node: Node) -> AsyncExitStack:
    """The loops of the node, until they are ended."""
    await node.close()
    loops = AsyncExitStack()
    loops.push_async_callback(node.reconciler.aclose)
    node.reconciler.start(await loops.enter_async_context(BackgroundTasks()))
    await poll(lambda: node.reconciler.report() is not None)
    return loops


async def test_everything_is_counted_and_then_repaired(world):
    """Each of the four kinds; what is missing and bad comes back from the others."""
    node, _ = await damaged(world)
    await node.verifier.start()
    loops = await running(node)
    await poll(lambda: node.verifier.report().state == VerifyState.FINISHED)
    report = node.verifier.report()
    counts = (report.missing_chunks, report.bad_chunks, report.surplus_chunks, report.orphaned_chunks)
    assert counts == (2, 3, 1, 1)
    assert report.expected_chunks == report.checked_chunks == len(node.wants())
    assert report.checked_bytes == 100 * len(node.wants())
    assert (report.progress, report.eta_s, report.epoch) == (1.0, None, world.log.epoch)
    await poll(lambda: node.holds() >= node.wants())
    await loops.aclose()


async def test_a_count_beside_a_hung_peer_does_not_keep_the_node_from_following_the_log(world):
    """Who is asked for confirmations may answer late; what is published meanwhile is fetched all the same."""
    node, _ = await damaged(world)
    confirm, may_answer = node.confirm, asyncio.Event()
    is_asked = asyncio.Event()

    async def hang(*question: object) -> object:
        is_asked.set()
        await may_answer.wait()
        return await confirm(*question)

    node.confirm = hang
    await node.verifier.start()
    loops = await running(node)
    await asyncio.wait_for(is_asked.wait(), 10)
    more = make_chunks(20)
    for name in ("n2", "n3", "n4"):
        await world.nodes[name].hold(more)
    world.log.publish(more)
    await poll(lambda: node.holds() >= node.wants())
    assert node.verifier.report().expected_chunks is None
    may_answer.set()
    await poll(lambda: node.verifier.report().state == VerifyState.FINISHED)
    report = node.verifier.report()
    assert (report.missing_chunks, report.surplus_chunks, report.orphaned_chunks) == (2, 1, 1)
    await loops.aclose()


async def test_one_pass_at_a_time(world):
    """A second start is refused until the first is over, or ended."""
    node, _ = await damaged(world)
    assert node.verifier.report().state == VerifyState.NEVER
    assert (await node.verifier.cancel()).state == VerifyState.NEVER
    assert (await node.verifier.start()).state == VerifyState.RUNNING
    with pytest.raises(ConflictError):
        await node.verifier.start()
    assert (await node.verifier.cancel()).state == VerifyState.CANCELLED
    assert (await node.verifier.start()).state == VerifyState.RUNNING


async def test_a_restart_in_the_middle_goes_on(world):
    """What was counted is not counted again, what was read is not read again."""
    node, _ = await damaged(world)
    await node.verifier.start()
    reread, read = node.tier.get, []
    stop_after = len(node.wants()) // 2
    stopped = asyncio.Event()

    async def count(digest: str) -> bytes:
        if len(read) >= stop_after:
            stopped.set()
            await asyncio.Event().wait()
        read.append(digest)
        return await reread(digest)

    node.tier.get = count
    loops = await running(node)
    await stopped.wait()
    before = node.verifier.report()
    assert 0 < before.progress < 1
    await loops.aclose()
    stop_after = 10_000
    node.make()
    loops = await running(node)
    await poll(lambda: node.verifier.report().state == VerifyState.FINISHED)
    report = node.verifier.report()
    assert report.checked_chunks == len(node.wants())
    assert (report.missing_chunks, report.bad_chunks) == (2, 3)
    assert before.checked_chunks > 0
    # A few of the partition in which it was stopped.
    assert len(read) <= len(node.wants()) + 10

    async def is_kept() -> bool:
        return await node.verifier._expected.get_note(verify._NOTE) == node.verifier._note.model_dump_json()

    # The end is told before it is on disk; what is ended in between goes on with the last partition.
    await poll(is_kept)
    await loops.aclose()
    await node.open()
    assert node.verifier.report() == report


async def test_a_pass_that_is_ended_stays_ended(world):
    """With what it found so far; also after a restart."""
    node, _ = await damaged(world)
    await node.verifier.start()
    stopped = asyncio.Event()

    async def wait(_: str) -> bytes:
        stopped.set()
        await asyncio.sleep(0.01)
        return b""

    node.tier.get = wait
    loops = await running(node)
    await stopped.wait()
    report = await node.verifier.cancel()
    assert (report.state, report.missing_chunks) == (VerifyState.CANCELLED, 2)
    await loops.aclose()
    node.make()
    await node.open()
    assert node.verifier.report().state == VerifyState.CANCELLED


async def test_trouble_interrupts_a_pass_and_does_not_end_it(monkeypatch, world):
    """It goes on when the disk can be read again."""
    monkeypatch.setattr("services.storage.reconcile.verify._RETRY_S", 0.01)
    node, _ = await damaged(world)
    get, failures = node.tier.get, 3

    async def fail(digest: str) -> bytes:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise TrivetError("the disk does not answer")
        return await get(digest)

    node.tier.get = fail
    await node.verifier.start()
    loops = await running(node)
    await poll(lambda: node.verifier.report().state == VerifyState.FINISHED)
    assert node.verifier.report().checked_chunks == len(node.wants())
    await loops.aclose()


@pytest.mark.parametrize("trouble", ["list", "disk"])
async def test_a_part_that_fails_is_counted_once(trouble, monkeypatch, world):
    """Its bad replicas are quarantined by the first reading, so another one would find them good, or gone."""
    monkeypatch.setattr("services.storage.reconcile.verify._RETRY_S", 0.01)
    monkeypatch.setattr("services.storage.reconcile.verify.PARTITION_COUNT", 1)
    monkeypatch.setattr("services.storage.reconcile.verify.prefix_of", lambda _: "")
    node, _ = await damaged(world)
    await node.verifier.start()
    apply, get, failures = node.expected.apply, node.tier.get, 2
    has_read = 0

    def is_failing() -> bool:
        nonlocal failures
        failures -= 1
        return failures >= 0

    async def fail_list(**changes: object) -> None:
        if changes.keys() == {"missing"} and is_failing():
            raise UnavailableError("the disk is full")
        await apply(**changes)

    async def quarantine(digest: str) -> bytes:
        nonlocal has_read
        has_read += 1
        if trouble == "disk" and has_read > 100 and is_failing():
            raise UnavailableError("the disk does not answer")
        try:
            return await get(digest)
        except ChunkCorruptError:
            node.tier.bodies.pop(digest, None)
            raise

    if trouble == "list":
        node.expected.apply = fail_list
    node.tier.get = quarantine
    loops = await running(node)
    await poll(lambda: node.verifier.report().state == VerifyState.FINISHED)
    report = node.verifier.report()
    assert (report.checked_chunks, report.bad_chunks) == (len(node.wants()), 3)
    assert failures < 2
    await poll(lambda: node.holds() >= node.wants())
    await loops.aclose()


@pytest.mark.parametrize("trouble", [UnavailableError("the disk is full"), DatabaseDamagedError("torn")])
async def test_what_cannot_be_written_down_is_refused_and_changes_nothing(trouble, world):
    """Neither a start nor a cancellation."""
    node, _ = await damaged(world)
    set_note = node.expected.set_note

    async def fail(*_: str) -> None:
        raise trouble

    node.expected.set_note = fail
    with pytest.raises(UnavailableError):
        await node.verifier.start()
    assert node.verifier.report().state == VerifyState.NEVER
    node.expected.set_note = set_note
    await node.verifier.start()
    node.expected.set_note = fail
    with pytest.raises(UnavailableError):
        await node.verifier.cancel()
    assert node.verifier.report().state == VerifyState.RUNNING


async def test_a_count_that_cannot_be_written_down_does_not_stop_the_pass(world):
    """The second part begins all the same."""
    node, _ = await damaged(world)
    await node.verifier.start()
    set_note, failures = node.expected.set_note, 1

    async def fail(name: str, value: str) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise UnavailableError("the disk is full")
        await set_note(name, value)

    node.expected.set_note = fail
    loops = await running(node)
    await poll(lambda: node.verifier.report().state == VerifyState.FINISHED)
    assert failures < 0
    await loops.aclose()


async def test_a_pass_begins_again_when_what_reconcile_knows_is_damaged(monkeypatch, world):
    """An empty list of chunks is not taken for all of them, and the loops go on."""
    monkeypatch.setattr("services.storage.reconcile.verify._RETRY_S", 0.01)
    node, _ = await damaged(world)
    await node.verifier.start()
    list_prefix, failures = node.expected.list_prefix, 1

    async def fail(prefix: str) -> object:
        nonlocal failures
        # Not of the comparison, which lists groups.
        if node.verifier.report().progress > 0.5 and failures > 0:
            failures -= 1
            asyncio.get_running_loop().call_soon(tear.set)
            raise DatabaseDamagedError("torn")
        return await list_prefix(prefix)

    tear = asyncio.Event()
    node.expected.list_prefix = fail
    loops = await running(node)
    await tear.wait()
    await node.reconciler._begin_anew()
    await poll(lambda: node.verifier.report().state == VerifyState.FINISHED)
    assert node.verifier.report().checked_chunks == len(node.wants())
    await loops.aclose()
