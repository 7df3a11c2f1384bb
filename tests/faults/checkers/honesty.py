"""Was every refusal honest: the right status, in time, saying when to come back and whether it certainly did not happen?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SMALL_DEADLINE_S = 10.0
LARGE_DEADLINE_S = 30.0
LARGE_BYTES = 1024 * 1024
SLOWEST_BYTES_PER_S = 5 * 1000 * 1000
_MAY_HAPPEN = {200, 201, 204, 206, 304, 404, 409, 412, 429, 503, 507}
_MAY_BE_REFUSED = frozenset({"copy_onto_itself"})
"""Whoever restores a version cannot know whether it is current by then."""

_COME_BACK = {429, 503}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a gateway, or the lack of one: `status` 0, `error` saying why.

    `is_disturbed`: something was done to this gateway, or to the way to it, about then, so that a lost connection proves nothing.
    """

    gateway: str
    request: str
    status: int
    called: float
    returned: float
    size_bytes: int = 0
    error: str = ""
    is_disturbed: bool = False
    retry_after: str | None = None
    problem: dict[str, Any] = field(default_factory=dict)

    @property
    def took_s(self) -> float:
        """From call to the last byte."""
        return (self.returned - self.called) / 1e9

    def __str__(self) -> str:
        code = self.problem.get("code", self.error)
        return f"{self.request} at {self.gateway}: {self.status} {code} after {self.took_s:.2f} s"


def deadline_s(size_bytes: int) -> float:
    """By when an operation has ended, whatever happens (V6)."""
    return SMALL_DEADLINE_S if size_bytes < LARGE_BYTES else LARGE_DEADLINE_S + size_bytes / SLOWEST_BYTES_PER_S


def honesty_violations(answers: list[Answer], *, slack_s: float = 1.0) -> list[str]:
    """`slack_s` is for the client's own lateness, which a canary measures."""
    found: list[str] = []
    for answer in answers:
        if answer.is_disturbed:
            continue
        if answer.took_s > deadline_s(answer.size_bytes) + slack_s:
            found.append(f"past its deadline: {answer}")
        if answer.status == 0:
            found.append(f"no answer from a gateway that nothing was done to: {answer}")
        elif answer.status not in _MAY_HAPPEN and answer.problem.get("code") not in _MAY_BE_REFUSED:
            found.append(f"a status that must not happen: {answer} {answer.problem}")
        elif answer.status >= 400 and answer.problem and not isinstance(answer.problem.get("definite"), bool):
            found.append(f"does not say whether it happened: {answer} {answer.problem}")
        if answer.status in _COME_BACK and not _is_positive(answer.retry_after):
            found.append(f"does not say when to come back: {answer}")
    return found


def _is_positive(value: str | None) -> bool:
    return value is not None and value.isdecimal() and int(value) >= 1
