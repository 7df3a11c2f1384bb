"""Whether, and when, a request is sent again. Pure.

A request that changes nothing may always be sent again, and so may one under an Idempotency-Key: the store makes the change
once and gives the repeat the first answer. Any other is sent again only where it certainly did not happen (`definite`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from trivet.errors import ConnectionFailed, ProblemError, ServerError, TooManyRequests, TrivetError, Unavailable

_TRANSIENT_CODES: Final = frozenset({
    "bucket_recreated",
    "chunk_condemned",
    "node_removed",
    "node_replaced",
    "node_draining",
    "access_changed",
    "request_in_progress",
    "promotion_deferred",
})  # fmt: skip
"""Conflicts that another attempt may get past, by what the store says of them."""

_NEVER_CODES: Final = frozenset({"upgrade_unfinished"})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and how fast, a request is repeated within its deadline.

    Attributes:
        attempts: at most, the first included; 1 for no repeat.
        first_delay_s: the upper bound of the first pause; each later one is twice as long, up to `max_delay_s`. A pause is
            drawn evenly from 0 to its bound ("full jitter"), so that many clients do not come back at one moment.
    """

    attempts: int = 10
    first_delay_s: float = 0.1
    max_delay_s: float = 5.0

    def delay_s(self, attempt: int, error: TrivetError, draw: float) -> float:
        """The pause after the failed attempt `attempt`, counted from 1. `draw` is of chance, from 0 to 1.

        Where the answer said Retry-After, no shorter than that.
        """
        bound_s = min(self.max_delay_s, self.first_delay_s * 2.0 ** (attempt - 1))
        said_s = error.retry_after_s if isinstance(error, ProblemError) else None
        return draw * bound_s if said_s is None else said_s + draw * self.first_delay_s


def may_repeat(error: TrivetError, *, is_repeatable: bool) -> bool:
    """Whether a request that ended in `error` may be sent again, and whether that makes sense.

    Args:
        is_repeatable: it changes nothing, or has an Idempotency-Key, or happening twice is as good as once.
    """
    if isinstance(error, ConnectionFailed):
        return is_repeatable or error.definite
    if not isinstance(error, ProblemError) or error.code in _NEVER_CODES:
        return False
    if isinstance(error, Unavailable | TooManyRequests) or error.code in _TRANSIENT_CODES:
        return is_repeatable or error.definite
    # A defect may be of one gateway or one moment. A second try of what is safe to try is worth it.
    return isinstance(error, ServerError) and error.status in {500, 520, 521, 522, 523, 524} and is_repeatable
