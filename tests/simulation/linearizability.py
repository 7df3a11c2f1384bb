"""Is a history of one register linearizable? The search of Wing, Gong and Lowe, with memory of the states seen.

An operation that never returned may have happened at any time after its call, or never.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NEVER = float("inf")


@dataclass(slots=True)
class Operation:
    """One call on a register: `value` is what was written, or what was read."""

    called_at: float
    returned_at: float
    is_write: bool
    value: Any


def is_linearizable(history: list[Operation], initial: Any = None) -> bool:
    """Whether some order of the operations respects real time and explains every read."""
    operations = sorted((o for o in history if o.is_write or o.returned_at < NEVER), key=lambda o: o.called_at)
    everything = (1 << len(operations)) - 1
    seen: set[tuple[int, Any]] = set()
    stack: list[tuple[int, Any]] = [(0, initial)]
    while stack:
        done, value = state = stack.pop()
        if state in seen:
            continue
        seen.add(state)
        waiting = [i for i in range(len(operations)) if not done >> i & 1]
        if done == everything or all(operations[i].returned_at == NEVER for i in waiting):
            return True
        earliest_return = min(operations[i].returned_at for i in waiting)
        for i in waiting:
            operation = operations[i]
            if operation.called_at > earliest_return:
                break
            if operation.is_write:
                stack.append((done | 1 << i, operation.value))
            elif operation.value == value:
                stack.append((done | 1 << i, value))
    return False
