"""Exponential back-off with full jitter: how long to wait after attempts that failed one after the other.

Full jitter spreads each pause over everything below its ceiling, so that processes which lost a peer in the same instant do
not come back in the same instant. Pure: chance comes from the caller.
Source: Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_MAX_DOUBLINGS: Final = 32
"""More would only make large numbers: the limit was reached long before."""


def ceiling_s(failures: int, *, base_s: float, limit_s: float) -> float:
    """The longest pause after so many failures in a row: `base_s` after one, twice as much after each more, up to `limit_s`."""
    return min(limit_s, base_s * 2.0 ** min(failures - 1, _MAX_DOUBLINGS))


class Backoff:
    """The pauses between the attempts of one loop.

    Args:
        chance: uniform in [0, 1): `random.random`.
    """

    def __init__(self, base_s: float, limit_s: float, chance: Callable[[], float]) -> None:
        self._base_s = base_s
        self._limit_s = limit_s
        self._chance = chance
        self.failures = 0
        """In a row; 0 after a success."""

    def succeeded(self) -> None:
        """Begin anew."""
        self.failures = 0

    def failed(self) -> float:
        """How long to wait before the next attempt."""
        self.failures += 1
        return self._chance() * ceiling_s(self.failures, base_s=self._base_s, limit_s=self._limit_s)
