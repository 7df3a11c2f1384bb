"""Is a register with conditional writes linearizable? The search of Wing, Gong and Lowe with memory of the states seen.

Zones cannot judge it: a refused condition says something about the state without naming it. Keep histories short (some hundred
operations, few of them at a time and few without an answer): the search grows with what is concurrent.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.faults.checkers.history import NEVER, Act, Operation, Outcome


def is_conditional_history_linearizable(operations: Iterable[Operation]) -> bool:
    """Whether some order of the operations on one key respects real time and explains every answer.

    A conditional write that FAILED is one whose condition did not hold; other refusals say nothing and are left out here.
    """
    known = sorted((one for one in operations if _says_something(one)), key=lambda one: one.called)
    everything = (1 << len(known)) - 1
    optional = sum(1 << number for number, one in enumerate(known) if one.returned == NEVER)
    seen: set[tuple[int, str | None]] = set()
    stack: list[tuple[int, str | None]] = [(0, None)]
    while stack:
        state = done, value = stack.pop()
        if state in seen:
            continue
        seen.add(state)
        if done | optional == everything:
            return True
        number = (~done & (done + 1)).bit_length() - 1
        earliest = NEVER
        candidates = []
        while number < len(known):
            one = known[number]
            if not done >> number & 1:
                if one.called > earliest:
                    break
                earliest = min(earliest, one.returned)
                candidates.append(number)
            number += 1
        for number in candidates:
            one = known[number]
            # A candidate after another's return was cut off only by what came before it in the order of calls.
            if one.called <= earliest and _fits(one, value):
                stack.append((done | 1 << number, _after(one, value)))
    return False


def _says_something(one: Operation) -> bool:
    if one.act == Act.READ:
        return one.outcome == Outcome.OK
    return one.is_conditional or one.outcome != Outcome.FAILED


def _fits(one: Operation, value: str | None) -> bool:
    if one.act == Act.READ:
        return one.value == value
    if not one.is_conditional:
        return one.outcome != Outcome.FAILED
    return (one.expected == value) == (one.outcome != Outcome.FAILED)


def _after(one: Operation, value: str | None) -> str | None:
    if one.act == Act.READ or one.outcome == Outcome.FAILED:
        return value
    return None if one.act == Act.DELETE else one.value
