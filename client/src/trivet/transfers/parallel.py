"""Several at a time, and the first failure ends all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

ItemT = TypeVar("ItemT")


async def in_parallel(items: Iterable[ItemT], count: int, act: Callable[[ItemT], Awaitable[None]]) -> None:
    """`act` on every item, in their order, on at most `count` at a time.

    Raises:
        Exception: what the first `act` that failed raised; the others were cancelled.
    """
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            await act(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(max(1, count)):
                group.create_task(work())
    except BaseExceptionGroup as failed:
        raise _first(failed) from None


def _first(failed: BaseException) -> BaseException:
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    return failed
