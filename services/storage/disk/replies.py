"""Results that threads deliver to coroutines, a batch in one hop to the loop: a hop costs more than most results."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Reply(Generic[ResultT]):
    """One result to come. A coroutine makes and awaits it; any thread delivers it, once."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[ResultT]

    @classmethod
    def awaited(cls) -> Self:
        """One for the coroutine that runs now; it awaits `future`."""
        loop = asyncio.get_running_loop()
        return cls(loop, loop.create_future())


@dataclass(frozen=True, slots=True)
class Failure:
    """A result that is an error."""

    error: BaseException


Delivery = tuple[Reply[ResultT], ResultT | Failure]
"""A reply and its result."""


def deliver(deliveries: Sequence[Delivery[ResultT]]) -> None:
    """Wake the coroutines. Called by any thread; a cancelled coroutine and a closed loop are skipped."""
    for loop in {reply.loop for reply, _ in deliveries}:
        try:
            loop.call_soon_threadsafe(_resolve, [delivery for delivery in deliveries if delivery[0].loop is loop])
        except RuntimeError:  # the loop is closed
            continue


def _resolve(deliveries: Iterable[Delivery[ResultT]]) -> None:
    for reply, result in deliveries:
        if reply.future.done():
            continue
        if isinstance(result, Failure):
            reply.future.set_exception(result.error)
        else:
            reply.future.set_result(result)
