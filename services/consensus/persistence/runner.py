"""Blocking work off the event loop: one thread, in order, answers on the loop.

Not an executor: its futures, their locks and their callbacks cost several times as much as the hand-over itself, and every
proposal crosses to threads twice on every member.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

Done = Callable[[Any, BaseException | None], None]


class ThreadRunner:
    """A `BlockingRunner` with a thread of its own. After `close` nothing is answered any more, but calls of `run`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: SimpleQueue[tuple[Callable[[], Any], Done] | None] = SimpleQueue()
        self._is_closed = False
        self._thread = Thread(target=self._run_all, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], Any], done: Done) -> None:
        """See `BlockingRunner`."""

        def answer(result: Any, error: BaseException | None) -> None:
            if not self._is_closed:
                done(result, error)

        self._put(work, answer)

    async def run(self, work: Callable[[], Any]) -> Any:
        """Run `work` behind what was submitted before, and wait for it."""
        waiting: asyncio.Future[Any] = self._loop.create_future()

        def answer(result: Any, error: BaseException | None) -> None:
            if waiting.done():
                return
            if error is None:
                waiting.set_result(result)
            else:
                waiting.set_exception(error)

        self._put(work, answer)
        return await waiting

    def close(self) -> None:
        """Finish what was submitted; its answers are dropped."""
        if not self._is_closed:
            self._is_closed = True
            self._work.put(None)
        self._thread.join()

    def _put(self, work: Callable[[], Any], done: Done) -> None:
        if self._is_closed:
            raise RuntimeError("this runner is closed")
        self._work.put((work, done))

    def _run_all(self) -> None:
        while (item := self._work.get()) is not None:
            work, done = item
            try:
                result, error = work(), None
            except BaseException as raised:  # noqa: BLE001 whoever asked for the work is told
                result, error = None, raised
            self._loop.call_soon_threadsafe(done, result, error)
            # Or the last piece of work would be held until the next one comes.
            del item, work, done, result, error
