"""The switch that stops acknowledgements for good once the disk has broken its word (S-22).

After a failed fsync the kernel may drop the dirty pages and report success the next time (PostgreSQL's "fsyncgate",
2018), so no later success proves anything about earlier writes. The gate never opens again in this process.
"""

from __future__ import annotations

import structlog

from shared.errors import UnavailableError

logger = structlog.get_logger(__name__)


class WriteGate:
    """Invariant: once closed, stays closed until the process ends. May be used from any thread."""

    def __init__(self) -> None:
        self._reason: str | None = None

    @property
    def reason(self) -> str | None:
        """Why it is closed, or None."""
        return self._reason

    def close(self, reason: str) -> None:
        """Refuse all further writes; the first reason is kept."""
        if self._reason is None:
            self._reason = reason
            logger.error("writes stopped until restart", reason=reason)

    def check(self) -> None:
        """Pass while open.

        Raises:
            UnavailableError: it is closed; definite, nothing was tried.
        """
        if self._reason is not None:
            raise UnavailableError(f"This node takes no writes: {self._reason}.", retry_after_s=60)
