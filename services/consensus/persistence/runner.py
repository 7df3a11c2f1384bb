"""Blocking work off the event loop: one thread, in order, answers on the loop.

Not an executor: its futures, their locks and their callbacks cost several times as much as the hand-over itself, and every
proposal crosses to threads twice on every member.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

ResultT = TypeVar("ResultT")
Done = Callable[[ResultT | None, BaseException | None], None]
Job = Callable[[], Callable[[], None]]
"""Runs on the thread, and returns what the loop has to call then."""


class ThreadRunner:
    """A `BlockingRunner` with a thread of its own. After `close` nothing is answered any more, but calls of `run`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: SimpleQueue[Job | None] = SimpleQueue()
        self._is_closed = False
        self._thread = Thread(target=self._run_all, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], ResultT], done: Done[ResultT]) -> None:
        """See `BlockingRunner`."""

        def job() -> Callable[[], None]:
            try:
                return partial(self._answer, done, work(), None)
            except BaseException as raised:  # noqa: BLE001 whoever asked for the work is told
                return partial(self._answer, done, None, raised)

        self._put(job)

    def run(self, work: Callable[[], ResultT]) -> asyncio.Future[ResultT]:
        """Run `work` behind what was submitted before; what it gives or raises, also when this runner is closed meanwhile."""
        waiting: asyncio.Future[ResultT] = self._loop.create_future()

        def job() -> Callable[[], None]:
            try:
                return partial(_succeed, waiting, work())
            except BaseException as raised:  # noqa: BLE001 whoever asked for the work is told
                return partial(_fail, waiting, raised)

        self._put(job)
        return waiting

    def close(self) -> None:
        """Finish what was submitted; its answers are dropped."""
        if not self._is_closed:
            self._is_closed = True
            self._work.put(None)
        self._thread.join()

    def _put(self, job: Job) -> None:
        if self._is_closed:
            raise RuntimeError("this runner is closed")
        self._work.put(job)

    def _answer(self, done: Done[ResultT], result: ResultT | None, error: BaseException | None) -> None:
        if not self._is_closed:
            done(result, error)

    def _run_all(self) -> None:
        while (job := self._work.get()) is not None:
            self._loop.call_soon_threadsafe(job())
            # Or the last piece of work would be held until the next one comes.
            del job


def _succeed(waiting: asyncio.Future[ResultT], result: ResultT) -> None:
    if not waiting.done():
        waiting.set_result(result)


def _fail(waiting: asyncio.Future[ResultT], error: BaseException) -> None:
    if not waiting.done():
        waiting.set_exception(error)
