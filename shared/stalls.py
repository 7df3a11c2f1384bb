"""Time in which this process stood still: its machine was paused, or it got no processor.

Nobody could be heard in it, so it says nothing about peers, and deadlines of ours are put off by it.
"""

from __future__ import annotations

from typing import Final

STALL_S: Final = 0.5
"""A timer that comes later than this was not held up by its event loop's work."""

_HEAR_OUT_S: Final = 1.0
"""For what had not come yet when we stood still, and for peers that stood still with us."""

MAX_STALLS: Final = 3
"""Of one deadline. More of them are no accident: this process has too much to do."""


def put_off_s(due_s: float, now_s: float, stalls: int) -> float:
    """By how many seconds to put off a deadline, told by a timer that was due at `due_s` (monotonic): 0 as a rule.

    `stalls`: how often this deadline was put off before.
    """
    late_s = now_s - due_s
    return late_s + _HEAR_OUT_S if late_s > STALL_S and stalls < MAX_STALLS else 0.0
