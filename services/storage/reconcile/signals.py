"""How the loops of reconcile wake each other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Signals:
    """Set by whoever finds something, cleared by the loop that works on it.

    Attributes:
        round_wanted: follow the log now, not after the interval.
        has_missing: there is something new to fetch.
        has_extra: there is something to drop, maybe.
    """

    round_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    has_missing: asyncio.Event = field(default_factory=asyncio.Event)
    has_extra: asyncio.Event = field(default_factory=asyncio.Event)
