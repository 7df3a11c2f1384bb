"""A line of JSON for each request that was answered, with the id that it has in all services (X-231).

Written where requests are counted anyway (`RequestMetrics`), so that what is not written costs one comparison.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

import structlog

from shared.request_trace import current_trace, request_ids

logger = structlog.get_logger("shared.web.request_log")

FAILED_LINES_PER_S: Final = 50
"""Of failed requests: a service that refuses thousands must not spend its time on saying so."""


class RequestObserver(Protocol):
    """Hears of every request that was answered, in the context in which it was."""

    def answered(
        self, method: str, handler: str, status: int, *, duration_s: float, received_bytes: int, sent_bytes: int
    ) -> None:
        """See `RequestMetrics.record`."""


class RequestLog:
    """Writes those that failed (status 500 and above), so many a second, or all."""

    def __init__(self, *, is_complete: bool) -> None:
        self._is_complete = is_complete
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def answered(
        self, method: str, handler: str, status: int, *, duration_s: float, received_bytes: int, sent_bytes: int
    ) -> None:
        """See `RequestObserver`."""
        if not self._is_complete and (status < 500 or not self._may_write()):
            return
        left_out, self._left_out = self._left_out, 0
        logger.info(
            "request",
            requests=request_ids(current_trace.get()),
            method=method,
            handler=handler,
            status=status,
            duration_ms=round(duration_s * 1000, 3),
            received_bytes=received_bytes,
            sent_bytes=sent_bytes,
            **({"left_out": left_out} if left_out else {}),
        )

    def _may_write(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        self._left_out += self._lines > FAILED_LINES_PER_S
        return self._lines <= FAILED_LINES_PER_S
