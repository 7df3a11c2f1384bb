"""Blocking work off the event loop: one thread, in order, answers on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class ThreadRunner:
    """A `BlockingRunner` with a thread of its own. After `close` nothing is answered any more."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._loop = asyncio.get_running_loop()
        self._is_closed = False

    def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """See `BlockingRunner`."""

        def finished(future: Future[Any]) -> None:
            error = future.exception()
            result = None if error is not None else future.result()
            if not self._is_closed:
                self._loop.call_soon_threadsafe(self._answer, done, result, error)

        self._executor.submit(work).add_done_callback(finished)

    async def run(self, work: Callable[[], Any]) -> Any:
        """Run `work` behind what was submitted before, and wait for it."""
        return await self._loop.run_in_executor(self._executor, work)

    def close(self) -> None:
        """Finish what was submitted; its answers are dropped."""
        self._is_closed = True
        self._executor.shutdown(wait=True)

    def _answer(
        self, done: Callable[[Any, BaseException | None], None], result: Any, error: BaseException | None
    ) -> None:
        if not self._is_closed:
            done(result, error)
