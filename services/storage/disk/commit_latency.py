"""Whether this node's disk has become slow, judged by the commits that every write waits for."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from services.storage.metrics import StorageMetrics

logger = structlog.get_logger(__name__)

WINDOW_S: Final = 30.0
MIN_COMMITS: Final = 5
_MAX_COMMITS: Final = 16


class CommitLatency:
    """The median of the last commits of the last `WINDOW_S`. May be used from any thread.

    A slow disk breaks no promise: the node goes on, and says that it is degraded; gateways meet W with its peers.
    """

    def __init__(self, slow_s: float, metrics: StorageMetrics, now_s: Callable[[], float] = time.monotonic) -> None:
        self._slow_s = slow_s
        self._metrics = metrics
        self._now_s = now_s
        self._commits: deque[tuple[float, float]] = deque(maxlen=_MAX_COMMITS)
        self._lock = threading.Lock()
        self._was_slow = False
        metrics.disk_is_slow.set_function(lambda: float(self.slow_median_s() is not None))

    def observe(self, duration_s: float) -> None:
        """Take in one commit that succeeded."""
        self._metrics.commit_duration_s.observe(duration_s)
        with self._lock:
            self._commits.append((self._now_s(), duration_s))
        median_s = self.slow_median_s()
        if median_s is not None and not self._was_slow:
            self._was_slow = True
            logger.warning("the disk is slow", median_commit_s=round(median_s, 3), slow_s=self._slow_s)
        elif median_s is None and self._was_slow and duration_s < self._slow_s:
            self._was_slow = False
            logger.info("the disk is as quick as it should be again")

    def slow_median_s(self) -> float | None:
        """How long a commit takes now, when that is too long; None when it is not, or when there were too few."""
        oldest_s = self._now_s() - WINDOW_S
        with self._lock:
            recent_s = [duration_s for at_s, duration_s in self._commits if at_s >= oldest_s]
        # A disk that takes ever so long has few commits behind it, which took most of the time.
        if len(recent_s) < MIN_COMMITS and sum(recent_s) < WINDOW_S / 3:
            return None
        median_s = statistics.median(recent_s)
        return median_s if median_s >= self._slow_s else None
