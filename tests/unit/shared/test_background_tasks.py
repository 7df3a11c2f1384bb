"""Work in the background begins in an empty context; what is periodic in a process wakes it up together."""

from __future__ import annotations

import asyncio
import random
from contextvars import ContextVar

import pytest
from prometheus_client import REGISTRY

from shared.background_tasks import BackgroundTasks, next_tick_s, sleep_to_tick
from tests.simulation.virtual_loop import run_simulation


@pytest.mark.parametrize("interval_s", [0.1, 0.5, 1.0, 7.0])
@pytest.mark.parametrize("now_s", [0.0, 0.2, 0.4999, 0.5, 0.5001, 0.9999, 1.0, 123456.789])
def test_a_tick_is_a_multiple_that_is_neither_at_once_nor_far(now_s, interval_s) -> None:
    """Half an interval at least, so that a timer that fires early does not fire twice."""
    tick_s = next_tick_s(now_s, interval_s)
    assert tick_s / interval_s == pytest.approx(round(tick_s / interval_s))
    assert 0.499 * interval_s <= tick_s - now_s <= 1.501 * interval_s


def test_what_began_at_different_times_goes_on_at_the_same() -> None:
    """From the second time on."""

    async def life() -> None:
        loop = asyncio.get_running_loop()
        seen: list[list[float]] = []

        async def work(begins_at_s: float) -> None:
            await asyncio.sleep(begins_at_s)
            seen.append([])
            own = seen[-1]
            for _ in range(5):
                await sleep_to_tick(1.0)
                own.append(loop.time())

        await asyncio.gather(*(work(begins_at_s) for begins_at_s in (0.0, 0.3, 0.49)))
        assert seen == [[1.0, 2.0, 3.0, 4.0, 5.0]] * 3

    run_simulation(1, life())


async def test_work_in_the_background_begins_in_an_empty_context() -> None:
    """It outlives the request that starts it, so nothing of that request may be left in it."""
    variable: ContextVar[str] = ContextVar("variable", default="empty")
    variable.set("of a request")

    async def work() -> str:
        return variable.get()

    async with BackgroundTasks() as tasks:
        assert await tasks.start("work", work()) == "empty"


async def test_what_is_periodic_outlives_every_error_and_shows_it(monkeypatch) -> None:
    """A step that raises is counted, named until one succeeds, and tried again after pauses that grow and are bounded."""
    pauses: list[float] = []
    shown: list[list[str]] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        shown.append(tasks.degradations())
        if len(pauses) == 14:
            raise asyncio.CancelledError
        await real_sleep(0)

    outcomes = iter([None, *[ValueError("broken")] * 10, 5.0, None])

    async def step() -> float | None:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    before = REGISTRY.get_sample_value("trivet_background_failures_total", {"task": "work"}) or 0.0
    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(random, "random", lambda: 1.0)
    tasks = BackgroundTasks()
    with pytest.raises(asyncio.CancelledError):
        await tasks.every("work", 1.0, step, first_after_s=0, on_ticks=True)
    assert pauses[0] == 0
    assert all(0.5 <= pause <= 1.5 for pause in (pauses[1], pauses[13])), "ticks"
    assert pauses[2:12] == [1, 2, 4, 8, 16, 30, 30, 30, 30, 30]
    assert pauses[12] == 5, "as the step said"
    assert shown == [[]] * 2 + [["work: fails again and again (ValueError)"]] * 10 + [[]] * 2
    assert REGISTRY.get_sample_value("trivet_background_failures_total", {"task": "work"}) == before + 10


def test_what_can_be_woken_goes_on_at_once_but_not_after_a_failure(monkeypatch) -> None:
    """Without an interval it waits until it is woken, or as long as its step said; after a failure it backs off all the same."""
    monkeypatch.setattr(random, "random", lambda: 1.0)
    outcomes = iter([None, ValueError("broken"), 2.0, None])

    async def life() -> None:
        loop, wake = asyncio.get_running_loop(), asyncio.Event()
        times: list[float] = []

        async def step() -> float | None:
            assert not wake.is_set()
            times.append(loop.time())
            outcome = next(outcomes)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        async with BackgroundTasks() as tasks:
            tasks.every("work", None, step, wake=wake)
            await asyncio.sleep(5)
            assert times == []
            wake.set()
            await asyncio.sleep(1)
            wake.set()
            await asyncio.sleep(0.25)
            wake.set()
            await asyncio.sleep(20)
            assert times == [5, 6, 7, 9]
            assert tasks.degradations() == []

    run_simulation(1, life())


def test_a_pause_of_an_interval_is_cut_short_by_waking() -> None:
    """The next interval begins there."""

    async def life() -> None:
        loop, wake = asyncio.get_running_loop(), asyncio.Event()
        times: list[float] = []

        async def step() -> None:
            times.append(loop.time())

        async with BackgroundTasks() as tasks:
            tasks.every("work", 4.0, step, first_after_s=0, wake=wake)
            await asyncio.sleep(5)
            wake.set()
            await asyncio.sleep(5)
            assert times == [0, 4, 5, 9]

    run_simulation(1, life())
