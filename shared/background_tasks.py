"""The one supervisor for work that outlives a request: bounded, named, cancelled at shutdown, never silently lost (X-112)."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
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

_FAILURE_PAUSE_S: Final = 1.0
"""Up to that after the first failure of what has no interval."""

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
        self,
        name: str,
        interval_s: float | None,
        step: Step,
        *,
        first_after_s: float | None = None,
        on_ticks: bool = False,
        wake: asyncio.Event | None = None,
        failure_pause_max_s: float = FAILURE_PAUSE_MAX_S,
    ) -> asyncio.Task[NoReturn]:
        """Take `step` again and again, with about `interval_s` between two, until the owner closes.

        A step that raises is logged and counted, shows in `degradations` until one
        succeeds, and is tried again after pauses that grow: nothing that it raises ends the work.

        Args:
            interval_s: None: whenever it is woken, and as long after a step as that said.
            first_after_s: until the first step; None: the interval.
            on_ticks: wakes the process up together with what else is on ticks; not for what all processes of a host would then
                do in one instant.
            wake: ends a pause, but none after a failure; cleared before each step.

        Raises:
            OverloadedError: as `start`.
        """
        pauses = _Pauses(interval_s, wake, on_ticks=on_ticks)
        backoff = Backoff(interval_s or _FAILURE_PAUSE_S, max(interval_s or 0.0, failure_pause_max_s), random.random)
        return self.start(name, self._repeat(name, step, first_after_s, pauses, backoff))

    async def _repeat(
        self, name: str, step: Step, first_after_s: float | None, pauses: _Pauses, backoff: Backoff
    ) -> NoReturn:
        pause_s = first_after_s
        while True:
            await pauses.take(pause_s, is_failing=backoff.failures > 0)
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


@dataclass(frozen=True, slots=True)
class _Pauses:
    """Those between the steps of what is periodic; see `BackgroundTasks.every`."""

    interval_s: float | None
    wake: asyncio.Event | None
    on_ticks: bool

    async def take(self, asked_s: float | None, *, is_failing: bool) -> None:
        """One of `asked_s`, or of an interval."""
        pause_s = self.interval_s if asked_s is None else asked_s
        if self.wake is not None and not is_failing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self.wake.wait()
        else:
            assert pause_s is not None, "what has no interval is woken"
            await (sleep_to_tick(pause_s) if asked_s is None and self.on_ticks else asyncio.sleep(pause_s))
        if self.wake is not None:
            self.wake.clear()


def next_tick_s(now_s: float, interval_s: float) -> float:
    """The multiple of `interval_s` that lies about that long after `now_s`: between half and one and a half of it."""
    return math.ceil((now_s + interval_s / 2) / interval_s) * interval_s


async def sleep_to_tick(interval_s: float) -> None:
    """Sleep for about `interval_s`, so that what a process does periodically wakes it up together.

    In a process that is idle a wake-up costs more than what is done then.
    """
    now_s = asyncio.get_running_loop().time()
    await asyncio.sleep(next_tick_s(now_s, interval_s) - now_s)
