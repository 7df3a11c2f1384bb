"""Answers that threads owe to coroutines. A batch of them reaches the loop in one hop: a hop costs more than most answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Answer(Generic[ResultT]):
    """Made by the coroutine that waits; given, once, by whichever thread finds it out."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[ResultT]

    @classmethod
    def awaited(cls) -> Self:
        """One for the coroutine that runs now; it awaits `future`."""
        loop = asyncio.get_running_loop()
        return cls(loop, loop.create_future())


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that is an error."""

    error: BaseException


Given = tuple[Answer[ResultT], ResultT | Failure]
"""An answer and what it is."""


def give(answers: Sequence[Given[ResultT]]) -> None:
    """Wake everybody who waits. Called by any thread; who went away meanwhile, or whose loop is closed, is not told."""
    for loop in {answer.loop for answer, _ in answers}:
        try:
            loop.call_soon_threadsafe(_resolve, [given for given in answers if given[0].loop is loop])
        except RuntimeError:  # the loop is closed
            continue


def _resolve(answers: Iterable[Given[ResultT]]) -> None:
    for answer, found in answers:
        if answer.future.done():
            continue
        if isinstance(found, Failure):
            answer.future.set_exception(found.error)
        else:
            answer.future.set_result(found)
