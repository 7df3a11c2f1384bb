"""An asyncio loop whose time jumps to the next timer: hours of cluster life in seconds, the same for the same seed."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Coroutine
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """Never waits: when nothing is ready, the clock moves to the earliest timer."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s
        super().__init__()

    def time(self) -> float:
        return self._now_s

    def stand_still(self, seconds: float) -> None:
        """Run nothing for so long: every timer that is due until then comes late."""
        self._now_s += seconds

    def _run_once(self) -> None:
        if not self._ready:
            while self._scheduled and self._scheduled[0]._cancelled:
                heapq.heappop(self._scheduled)._scheduled = False
                self._timer_cancelled_count -= 1
            if self._scheduled:
                self._now_s = max(self._now_s, self._scheduled[0]._when)
        super()._run_once()


def run_simulation(seed: int, main: Coroutine[Any, Any, Any]) -> Any:
    """Run `main` on a fresh virtual loop with Python's own random generator seeded: raftos draws from it."""
    random.seed(seed)
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        asyncio.set_event_loop(None)
        loop.close()
