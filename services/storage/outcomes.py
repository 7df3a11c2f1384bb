"""Results of which each may be an error: what one of several calls that were made together came to."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from shared.errors import PayloadTooLargeError, TrivetError

ResultT = TypeVar("ResultT")


def result_of(outcome: ResultT | TrivetError) -> ResultT:
    """The result. Raises the error that stands in its place."""
    if not isinstance(outcome, TrivetError):
        return outcome
    try:
        raise outcome
    finally:
        del outcome  # an error holds this frame, which must not hold the error


async def outcomes_of(calls: Sequence[Coroutine[Any, Any, ResultT]]) -> list[ResultT | TrivetError]:
    """Make `calls` at the same time. What is no TrivetError is raised when all have ended."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    outcomes: list[ResultT | TrivetError] = []
    for outcome in found:
        if isinstance(outcome, BaseException) and not isinstance(outcome, TrivetError):
            raise outcome
        outcomes.append(outcome)
    return outcomes


def too_large_for_a_batch(max_bytes: int) -> PayloadTooLargeError:
    """The refusal of a chunk above `max_bytes`."""
    return PayloadTooLargeError("A chunk in a batch is at most this large; ask for it alone.", limit_bytes=max_bytes)
