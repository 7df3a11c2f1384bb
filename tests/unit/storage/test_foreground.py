"""A node serves pulls a few at a time, and rests between them while requests come."""

from __future__ import annotations

import asyncio

from services.storage import foreground as module
from services.storage.foreground import Foreground, PullTurns


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_few_pulls_are_served_at_once():
    """The others wait for a place."""
    turns = PullTurns(Foreground())
    inside, gate = [], asyncio.Event()

    async def pull(number: int) -> None:
        async with turns.turn():
            inside.append(number)
            await gate.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(pull(number))
        await asyncio.sleep(0)
        assert inside == [0, 1]
        gate.set()
    assert sorted(inside) == [0, 1, 2, 3, 4]


async def rests_of(took_s: float, *, is_busy: bool, monkeypatch) -> list[float]:
    rests: list[float] = []

    async def record(pause_s: float) -> None:
        rests.append(pause_s)

    clock = Clock()
    foreground = Foreground(clock)
    monkeypatch.setattr(module.asyncio, "sleep", record)
    async with PullTurns(foreground, clock).turn():
        clock.now_s += took_s
        if is_busy:
            foreground.record()
    return [round(rest, 3) for rest in rests]


async def test_it_rests_as_long_as_the_pull_took_while_requests_come(monkeypatch):
    """But never so long that the next one gives up."""
    assert await rests_of(0.02, is_busy=True, monkeypatch=monkeypatch) == [0.02]
    assert await rests_of(5.0, is_busy=True, monkeypatch=monkeypatch) == [0.1]
    assert await rests_of(0.02, is_busy=False, monkeypatch=monkeypatch) == []
