"""Waits for a condition that another task, thread or process brings about: looks again and again, never sleeps a fixed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

_PAUSE_S = 0.005
_BLOCKING_PAUSE_S = 0.02


async def wait_until(
    condition: Callable[[], object | Awaitable[object]], what: str = "the condition holds", within_s: float = 10.0
) -> None:
    """Return once `condition`, a function or a coroutine function, holds; fail with `what` after `within_s`."""
    deadline_s = time.monotonic() + within_s
    while True:
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            return
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {what}"
        await asyncio.sleep(_PAUSE_S)


def block_until(condition: Callable[[], object], what: str, within_s: float = 20.0) -> float:
    """As `wait_until`, in a thread without a loop; gives the seconds that it took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() < began_s + within_s, f"not within {within_s} s: {what}"
        time.sleep(_BLOCKING_PAUSE_S)
    return time.monotonic() - began_s
