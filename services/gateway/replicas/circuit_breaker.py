"""When requests avoid a storage node, and when it is probed. Pure: time and chance come from the caller.

The circuit of a node that failed is open: requests go to other nodes, and only probes go to it, after exponential backoff
with full jitter (G-25). So a dead or hung node costs no request anything. A probe that is answered makes
the circuit half-open: requests go to the node again, and the first one that it answers closes the circuit.
A node whose circuit is open is still asked when no other is left: a breaker must not be the reason of a failure.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from shared.backoff import ceiling_s
from shared.errors import (
    InternalError,
    NotReadyError,
    PeerAnswerInvalidError,
    PeerUnreachableError,
    SignatureRejectedError,
    TrivetError,
)

DOUBLINGS: Final = 5
"""Backoffs double this often; after that every probe waits for the limit."""

_PASSING_FAILURES_TO_OPEN: Final = 2
_NODE_FAILURES: Final = (
    PeerUnreachableError,
    PeerAnswerInvalidError,
    InternalError,
    NotReadyError,
    SignatureRejectedError,
)


class CircuitState(StrEnum):
    """Requests avoid a node while its circuit is open."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """One node as one gateway sees it.

    Invariant: `_attempts` counts the probes since the last answer to a request, so a node that answers only probes is
    not tried more and more often.
    """

    def __init__(self, *, base_s: float, limit_s: float) -> None:
        self._base_s = base_s
        self._limit_s = limit_s
        self._passing_failures = 0
        self._attempts = 0
        self.state = CircuitState.CLOSED

    @property
    def is_open(self) -> bool:
        """Requests avoid the node."""
        return self.state is CircuitState.OPEN

    def answered(self) -> None:
        """A request was answered: close the circuit."""
        self.state = CircuitState.CLOSED
        self._passing_failures = 0
        self._attempts = 0

    def failed(self, error: TrivetError) -> bool:
        """A request failed; returns whether that opened the circuit.

        A connection that could not be made opens it at once. One that broke may have been an idle one that its server was
        just closing, and an answer may be damaged on the way, so these take two in a row. Any other answer, even a refusal,
        shows that the node is alive.
        """
        if not isinstance(error, _NODE_FAILURES):
            self._passing_failures = 0
            return False
        self._passing_failures += 1
        may_pass = isinstance(error, PeerUnreachableError | PeerAnswerInvalidError) and not error.definite
        if may_pass and self._passing_failures < _PASSING_FAILURES_TO_OPEN:
            return False
        return self.open()

    def open(self) -> bool:
        """Have requests avoid the node; returns whether they did not before."""
        was_open = self.is_open
        self.state = CircuitState.OPEN
        return not was_open

    def half_open(self) -> None:
        """A probe was answered. The backoff stays as it is until a request is answered."""
        self.state = CircuitState.HALF_OPEN
        self._passing_failures = 0

    def next_probe_s(self, chance: float) -> float:
        """Seconds until the next probe; `chance` is uniform in [0, 1) and gives the full jitter."""
        attempt, self._attempts = self._attempts, self._attempts + 1
        if attempt >= DOUBLINGS:
            return self._limit_s
        return chance * ceiling_s(self._attempts, base_s=self._base_s, limit_s=self._limit_s)
