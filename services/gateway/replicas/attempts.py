"""Ends the calls to storage nodes that a request no longer waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any


async def abandon(attempts: Collection[asyncio.Future[Any]]) -> None:
    """Cancel those of `attempts` that are under way and wait until they have ended; their errors are nobody's."""
    for attempt in attempts:
        attempt.cancel()
    if ending := [attempt for attempt in attempts if not attempt.done()]:
        await asyncio.wait(ending)
    for attempt in attempts:
        if not attempt.cancelled():
            attempt.exception()
