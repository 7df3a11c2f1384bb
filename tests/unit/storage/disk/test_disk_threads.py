"""Threads that answer many short questions per hop: every question gets its own answer, whatever its neighbours do."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial

import pytest

from services.storage.disk.disk_threads import DiskThreads


@pytest.fixture
def threads():
    found = DiskThreads(2, "test", 16)
    found.open()
    yield found
    found.close()


async def test_everyone_gets_the_own_answer(threads):
    """Among a thousand at once, some of which fail."""

    def half(number: int) -> int:
        if number % 3 == 0:
            raise ValueError(number)
        return number * 2

    answers = await asyncio.gather(
        *(threads.run(partial(half, number)) for number in range(1000)), return_exceptions=True
    )
    for number, answer in enumerate(answers):
        if number % 3 == 0:
            assert isinstance(answer, ValueError)
            assert answer.args == (number,)
        else:
            assert answer == number * 2


async def test_what_waits_is_shared_out_between_the_threads(threads):
    """Two slow questions run at the same time, also when they were asked together."""
    both = threading.Barrier(2)
    await asyncio.gather(*(threads.run(partial(both.wait, 20)) for _ in range(2)))


async def test_who_goes_away_takes_nobody_along(threads):
    """A cancelled question is not answered; the others in its batch are."""
    gate = threading.Event()
    blocked = [asyncio.ensure_future(threads.run(partial(gate.wait, 20))) for _ in range(2)]
    waiting = [asyncio.ensure_future(threads.run(partial(int, str(number)))) for number in range(20)]
    await asyncio.sleep(0)
    for task in waiting[::2]:
        task.cancel()
    gate.set()
    assert await asyncio.gather(*waiting[1::2]) == list(range(1, 20, 2))
    assert await asyncio.gather(*blocked) == [True, True]
    assert all(task.cancelled() for task in waiting[::2])


async def test_closing_finishes_what_was_asked():
    """Nobody is left waiting; afterwards nothing is taken."""
    threads = DiskThreads(2, "test", 16)
    with pytest.raises(RuntimeError):
        await threads.run(int)
    threads.open()
    asked = [asyncio.ensure_future(threads.run(partial(time.sleep, 0.001))) for _ in range(30)]
    await asyncio.sleep(0)
    await asyncio.to_thread(threads.close)
    await asyncio.gather(*asked)
    with pytest.raises(RuntimeError):
        await threads.run(int)
