"""The one supervisor for work that outlives a request: bounded, named, cancelled at shutdown, never silently lost (X-112)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, Self

import structlog

from shared.errors import OverloadedError

logger = structlog.get_logger(__name__)


class BackgroundTasks:
    """Runs coroutines until they end or the owner closes.

    Invariant: at most `limit` run at once. A coroutine that raises is logged with its name and never takes others down;
    work that must not die silently loops inside itself.
    """

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, name: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Run `work` in the background, with no context variable set: it outlives whoever starts it.

        Raises:
            OverloadedError: `limit` coroutines are running; `work` was not started.
        """
        if len(self._tasks) >= self._limit:
            work.close()
            raise OverloadedError("Too much background work is under way.", limit=self._limit)
        # The one place where a task is made outside a TaskGroup: its lifetime is this object's.
        # An empty context, or work for everybody would go on in the name of the request that happened to start it.
        task = asyncio.create_task(work, name=name, context=Context())  # noqa: TID251
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def aclose(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background task failed", task=task.get_name(), exc_info=error)


def next_tick_s(now_s: float, interval_s: float) -> float:
    """The multiple of `interval_s` that lies about that long after `now_s`: between half and one and a half of it."""
    return math.ceil((now_s + interval_s / 2) / interval_s) * interval_s


async def sleep_to_tick(interval_s: float) -> None:
    """Sleep for about `interval_s`, so that what a process does periodically wakes it up together.

    In a process that is idle a wake-up costs more than what is done then.
    """
    now_s = asyncio.get_running_loop().time()
    await asyncio.sleep(next_tick_s(now_s, interval_s) - now_s)
