"""Calls of concurrent requests to one node share HTTP requests, and nobody's failure or patience is another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from services.gateway.replicas import chunk_batcher
from services.gateway.replicas.chunk_batcher import MAX_UNDER_WAY, ChunkBatcher
from services.gateway.replicas.health import NodeHealth
from shared.background_tasks import BackgroundTasks
from shared.contracts.chunk_batches import MAX_BATCH_BYTES, MAX_BATCH_ITEMS
from shared.errors import InternalError, OverloadedError, PeerUnreachableError
from shared.units import KIB
from tests.unit.gateway.fakes import FakeNodes, node
from tests.waiting import wait_until

pytestmark = pytest.mark.virtual_time


@dataclass(eq=False)
class Call:
    name: str
    item_count: int = 1
    frame_bytes: int = 100
    trace: str = ""
    answered: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Bench:
    """A batcher over a node that answers when it is released."""

    def __init__(self, tasks: BackgroundTasks) -> None:
        self.calls: list[Call] = []
        self.sent: list[list[str]] = []
        self.broken_off: list[list[str]] = []
        self.release = asyncio.Event()
        self.error: BaseException | None = None
        self.batcher = ChunkBatcher[Call]("a", self.send, tasks)

    async def send(self, calls: Sequence[Call]) -> None:
        names = [call.name for call in calls]
        self.sent.append(names)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.broken_off.append(names)
            raise
        if self.error is not None:
            raise self.error
        for call in calls:
            if not call.answered.done():
                call.answered.set_result(f"answer to {call.name}")

    async def submit(self, *calls: Call | str) -> list[Call]:
        made = [Call(call) if isinstance(call, str) else call for call in calls]
        self.calls += made
        for call in made:
            self.batcher.submit(call)
        for _ in range(3):
            await asyncio.sleep(0)
        return made

    async def fill(self) -> list[Call]:
        """A request under way."""
        return await self.submit("first")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with BackgroundTasks() as tasks:
        bench = Bench(tasks)
        yield bench
        bench.batcher.close()
    for call in bench.calls:
        if not call.answered.cancelled():
            call.answered.exception()


async def test_a_call_that_finds_nothing_under_way_goes_at_once(bench: Bench) -> None:
    """Alone: an idle gateway adds no latency."""
    (call,) = await bench.submit("only")
    assert bench.sent == [["only"]]
    bench.release.set()
    assert await call.answered == "answer to only"
    await asyncio.sleep(0)
    assert bench.batcher.is_unused


async def test_calls_that_come_meanwhile_go_together(bench: Bench) -> None:
    """In the order in which they came, and each gets its own answer."""
    first = await bench.fill()
    later = await bench.submit("x", "y", "z")
    assert bench.sent == [["first"]]
    bench.release.set()
    assert await asyncio.gather(*(call.answered for call in later)) == ["answer to x", "answer to y", "answer to z"]
    assert bench.sent[1:] == [["x", "y", "z"]]
    assert all(call.answered.done() for call in first)


@pytest.mark.parametrize(
    ("item_count", "frame_bytes", "most"),
    [(1, 64 * KIB, MAX_BATCH_BYTES // (64 * KIB)), (16, 0, MAX_BATCH_ITEMS // 16), (1, 0, MAX_BATCH_ITEMS)],
)
async def test_a_frame_takes_so_many_and_no_more(bench: Bench, item_count: int, frame_bytes: int, most: int) -> None:
    """The next one takes the rest."""
    await bench.fill()
    later = await bench.submit(*(Call("x", item_count, frame_bytes) for _ in range(most + 1)))
    bench.release.set()
    await asyncio.gather(*(call.answered for call in later))
    assert [len(names) for names in bench.sent[1:]] == [most, 1]


async def test_a_call_cancelled_while_it_waits_is_not_sent(bench: Bench) -> None:
    """Its place in the line is free."""
    await bench.fill()
    withdrawn, kept = await bench.submit("withdrawn", "kept")
    withdrawn.answered.cancel()
    bench.release.set()
    await kept.answered
    assert bench.sent[1:] == [["kept"]]


async def test_a_request_nobody_waits_for_is_broken_off(bench: Bench) -> None:
    """A hung node must not keep the places of those who come later; a call that shares the request keeps it alive."""
    (first,) = await bench.fill()
    together = await bench.submit("y", "z")
    first.answered.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.broken_off == [["first"]]
    assert bench.sent[1:] == [["y", "z"]]
    together[0].answered.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    bench.release.set()
    assert await together[1].answered == "answer to z"
    assert ["y", "z"] not in bench.broken_off


async def test_a_request_that_takes_long_does_not_hold_up_those_behind_it(bench: Bench, monkeypatch) -> None:
    """The next goes beside it; but so many and no more."""
    await bench.fill()
    await bench.submit("behind")
    assert bench.sent == [["first"]]
    monkeypatch.setattr(chunk_batcher, "STALLED_AFTER_S", 0.0)
    await bench.submit("x")
    assert bench.sent == [["first"], ["behind", "x"]]
    for _ in range(2 * MAX_UNDER_WAY):
        await bench.submit("y")
    assert len(bench.sent) == MAX_UNDER_WAY


async def test_what_waits_behind_a_request_that_stalls_goes_without_a_further_call(bench: Bench) -> None:
    """Nothing else has to happen: neither another call nor the end of that request."""
    await bench.fill()
    await bench.submit("behind")
    await wait_until(lambda: len(bench.sent) == 2, "the call behind is sent")
    assert bench.sent == [["first"], ["behind"]]


async def test_a_failed_request_fails_all_its_calls_and_counts_once(bench: Bench) -> None:
    """One broken connection is one failure of the node, however many calls were in it: it takes two to open its circuit."""
    await bench.fill()
    later = await bench.submit("x", "y", "z")
    bench.error = PeerUnreachableError("broken off", peer="a")
    bench.release.set()
    for call in later:
        with pytest.raises(PeerUnreachableError) as caught:
            await call.answered
        assert not caught.value.definite
    async with BackgroundTasks() as tasks:
        health = NodeHealth(FakeNodes(), tasks, reconnect_base_s=100, reconnect_limit_s=100)
        for call in later:
            health.failed(node("a"), call.answered.exception())
        assert not health.statistics()["a"]
        health.failed(node("a"), PeerUnreachableError("again", peer="a"))
        assert health.statistics()["a"]


async def test_no_more_wait_than_may(bench: Bench, monkeypatch) -> None:
    """One more is refused at once; neither count nor bytes grow without bound."""
    monkeypatch.setattr(chunk_batcher, "MAX_WAITING", 2)
    await bench.fill()
    *_, refused = await bench.submit("x", "y", "z")
    with pytest.raises(OverloadedError):
        await refused.answered
    monkeypatch.setattr(chunk_batcher, "MAX_WAITING", 100)
    monkeypatch.setattr(chunk_batcher, "MAX_WAITING_BYTES", 300)
    taken, refused = await bench.submit("v", "w")
    assert not taken.answered.done()
    with pytest.raises(OverloadedError):
        await refused.answered
    taken.answered.cancel()
    await asyncio.sleep(0)
    (again,) = await bench.submit("w")
    assert not again.answered.done()


async def test_a_defect_of_ours_fails_the_calls_and_not_the_batcher(bench: Bench) -> None:
    """The next call is answered."""
    bench.error = RuntimeError("a defect")
    (call,) = await bench.submit("x")
    bench.release.set()
    with pytest.raises(InternalError):
        await call.answered
    bench.error = None
    (call,) = await bench.submit("y")
    assert await call.answered == "answer to y"


async def test_at_the_end_nobody_waits_for_ever() -> None:
    """What was under way, and what waited for it."""
    async with BackgroundTasks() as tasks:
        bench = Bench(tasks)
        calls = [*await bench.fill(), *await bench.submit("x", "y")]
        bench.batcher.close()
    calls += await bench.submit("z")
    for call in calls:
        with pytest.raises(PeerUnreachableError):
            await call.answered
    assert bench.sent == [["first"]]
