"""When a storage node is left alone, and when it is tried again. Pure: time and chance come from the caller.

A node that failed is *barred*: requests go to others and only a probe goes to it, after full-jitter exponential backoff
(DESIGN.md section 8). Requests themselves never serve as probes, so a dead or hung node costs none of them anything.
A barred node is still used when nothing else is left: a breaker must not be the reason of a failure.
"""

from __future__ import annotations

from typing import Final

from shared.errors import InternalError, NotReadyError, PeerUnreachableError, SignatureRejectedError, TrivetError

DOUBLINGS: Final = 5
"""Backoffs double this often; after that every probe waits for the limit."""

_SOFT_FAILURES_TO_BAR: Final = 2


class CircuitBreaker:
    """One node as one gateway sees it.

    Invariant: `attempts` counts the probes since the last real answer, so a node that only answers probes does not
    flap at full speed.
    """

    def __init__(self, *, base_s: float, limit_s: float) -> None:
        self._base_s = base_s
        self._limit_s = limit_s
        self._soft_failures = 0
        self._attempts = 0
        self.is_barred = False

    def answered(self) -> None:
        """A real request was answered: everything is forgiven."""
        self.is_barred = False
        self._soft_failures = 0
        self._attempts = 0

    def failed(self, error: TrivetError) -> bool:
        """A request failed; whether the node is newly barred by it.

        A connection that could not be made bars at once. One that broke may have been an idle one that its server was
        just closing, so it takes a second. An answer, even a refusal, is a sign of life.
        """
        if not isinstance(error, PeerUnreachableError | InternalError | NotReadyError | SignatureRejectedError):
            self._soft_failures = 0
            return False
        self._soft_failures += 1
        if (
            isinstance(error, PeerUnreachableError)
            and not error.definite
            and self._soft_failures < _SOFT_FAILURES_TO_BAR
        ):
            return False
        return self.bar()

    def bar(self) -> bool:
        """Leave the node alone from now on; whether that is new."""
        is_new = not self.is_barred
        self.is_barred = True
        return is_new

    def readmitted(self) -> None:
        """A probe was answered. The backoff is kept until a real request is."""
        self.is_barred = False
        self._soft_failures = 0

    def next_probe_s(self, chance: float) -> float:
        """Seconds until the next probe; `chance` is uniform in [0, 1) and gives the full jitter."""
        attempt, self._attempts = self._attempts, self._attempts + 1
        if attempt >= DOUBLINGS:
            return self._limit_s
        return chance * min(self._limit_s, self._base_s * 2.0**attempt)
