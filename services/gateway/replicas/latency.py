"""How long an operation usually takes, so that "too slow" follows the machine and not a constant."""

from __future__ import annotations

from collections import deque
from typing import Final

_WINDOW: Final = 128
_REFRESH_EVERY: Final = 16


class RecentLatency:
    """The 95th percentile of the last observations, in seconds; `initial_s` until there is a first one."""

    def __init__(self, initial_s: float) -> None:
        self._samples_s: deque[float] = deque(maxlen=_WINDOW)
        self._p95_s = initial_s
        self._unread = 0

    @property
    def p95_s(self) -> float:
        """Recomputed every few observations: a sort per chunk would buy nothing."""
        return self._p95_s

    def observe(self, elapsed_s: float) -> None:
        """Take in one successful operation."""
        self._samples_s.append(elapsed_s)
        self._unread += 1
        if self._unread >= _REFRESH_EVERY or len(self._samples_s) < _REFRESH_EVERY:
            self._unread = 0
            ordered = sorted(self._samples_s)
            self._p95_s = ordered[(len(ordered) * 95) // 100]
