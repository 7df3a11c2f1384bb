"""What clients did and saw, as the checkers judge it. Times are monotonic nanoseconds of the one driver."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NEVER = float("inf")


class Outcome(StrEnum):
    """UNKNOWN: no answer, or one that does not say that it certainly did not happen. FAILED: it certainly did not."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Act(StrEnum):
    """What was asked for."""

    WRITE = "write"
    READ = "read"
    DELETE = "delete"


@dataclass(slots=True)
class Operation:
    """One operation on one key.

    Attributes:
        value: what was written or read; unique per write; None is absence.
        version: what the answer said; 0 for a key that never was. None without an answer.
        returned: NEVER while it is unknown.
        expected: of a conditional write: the value that it builds on, None for "there is none".
        is_conditional: whether `expected` counts.
        where: for people: which gateway, which answer.
    """

    act: Act
    key: str
    value: str | None
    called: float
    returned: float = NEVER
    outcome: Outcome = Outcome.UNKNOWN
    version: int | None = None
    expected: str | None = None
    is_conditional: bool = False
    where: str = ""

    def __str__(self) -> str:
        took = "never returned" if self.returned == NEVER else f"{self.called / 1e9:.4f}..{self.returned / 1e9:.4f}"
        condition = f" if {self.expected}" if self.is_conditional else ""
        return f"{took} {self.act} {self.key} {self.value}{condition} -> {self.outcome} v{self.version} {self.where}"


def explain(operations: list[Operation], limit: int = 60) -> str:
    """The last operations of one key, in the order of their calls."""
    return "\n".join(f"    {operation}" for operation in sorted(operations, key=lambda one: one.called)[-limit:])
