"""The one supervisor for work that outlives a request: bounded, named, cancelled at shutdown, never silently lost (X-112)."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import structlog
from prometheus_client import Counter

from shared.backoff import Backoff
from shared.errors import OverloadedError
from shared.request_trace import current_trace

logger = structlog.get_logger(__name__)

FAILURE_PAUSE_MAX_S: Final = 30.0
"""What is periodic and fails is tried again after that at the latest, or after its interval where that is longer."""

_FAILURES = Counter(
    "trivet_background_failures", "Periodic work that ended with an unexpected error and is tried again.", ["task"]
)

Step = Callable[[], Awaitable[float | None]]
"""One time of what is periodic. It may return the seconds until the next time; None: the interval."""


class BackgroundTasks:
    """Runs coroutines until they end or the owner closes.

    Invariant: at most `limit` run at once. A coroutine that raises is logged with its name and never takes others down;
    work that must not die silently is made of steps (`every`).
    """

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failing: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, name: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Run `work` in the background, with no context variable set but the trace: it outlives whoever starts it.

        Raises:
            OverloadedError: `limit` coroutines are running; `work` was not started.
        """
        if len(self._tasks) >= self._limit:
            work.close()
            raise OverloadedError("Too much background work is under way.", limit=self._limit)
        # The one place where a task is made outside a TaskGroup: its lifetime is this object's.
        # An empty context, or work for everybody would go on in the name of the request that happened to start it.
        # By which request it was started is shown in logs, and decides nothing.
        context = Context()
        if trace := current_trace.get():
            context.run(current_trace.set, trace)
        task = asyncio.create_task(work, name=name, context=context)  # noqa: TID251
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def every(
        self, name: str, interval_s: float, step: Step, *, first_after_s: float | None = None, on_ticks: bool = False
    ) -> asyncio.Task[NoReturn]:
        """Take `step` again and again, with about `interval_s` between two, until the owner closes.

        A step that raises is logged and counted, shows in `degradations` until one
        succeeds, and is tried again after pauses that grow: nothing that it raises ends the work.

        Args:
            first_after_s: until the first step; None: the interval.
            on_ticks: wakes the process up together with what else is on ticks; not for what all processes of a host would then
                do in one instant.

        Raises:
            OverloadedError: as `start`.
        """
        return self.start(name, self._repeat(name, interval_s, step, first_after_s, on_ticks=on_ticks))

    async def _repeat(
        self, name: str, interval_s: float, step: Step, first_after_s: float | None, *, on_ticks: bool
    ) -> NoReturn:
        backoff = Backoff(interval_s, max(interval_s, FAILURE_PAUSE_MAX_S), random.random)
        pause_s = first_after_s
        while True:
            if pause_s is None and on_ticks:
                await sleep_to_tick(interval_s)
            else:
                await asyncio.sleep(interval_s if pause_s is None else pause_s)
            try:
                pause_s = await step()
            except Exception as error:
                logger.exception("periodic work failed", task=name)
                _FAILURES.labels(name).inc()
                self._failing[name] = type(error).__name__
                pause_s = backoff.failed()
            else:
                backoff.succeeded()
                self._failing.pop(name, None)

    def degradations(self) -> list[str]:
        """What is periodic and fails, a sentence each."""
        return [f"{name}: fails again and again ({error})" for name, error in self._failing.items()]

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
