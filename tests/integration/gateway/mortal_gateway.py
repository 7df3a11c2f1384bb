"""A gateway that kills itself at a chosen step of a copy: `python -m tests.integration.gateway.mortal_gateway STEP`.

Patched in from here; the shipped code has no such switch. `STEPS` says which there are.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any, Final

from services.gateway.api import copies
from services.gateway.main import main
from services.gateway.transfers.idempotency import IdempotencyStore

STEPS: Final = ("before it is proposed", "while it is proposed", "once it is applied", "before the answer is sent")


def die() -> None:
    """At once, as with the plug pulled."""
    os.kill(os.getpid(), signal.SIGKILL)


def patch(step: str) -> None:
    """Have the first copy end the process at `step`."""
    propose, receipt = IdempotencyStore.propose, copies._receipt

    async def mortal_propose(self: IdempotencyStore, *arguments: Any, **named: Any) -> Any:
        if step == STEPS[0]:
            die()
        under_way = asyncio.ensure_future(propose(self, *arguments, **named))
        if step == STEPS[1]:
            # The batch of proposals leaves as soon as the loop has turned; consensus needs a disk or two to answer.
            for _ in range(5):
                await asyncio.sleep(0)
            die()
        outcome = await under_way
        if step == STEPS[2]:
            die()
        return outcome

    def mortal_receipt(*arguments: Any, **named: Any) -> Any:
        answer = receipt(*arguments, **named)
        if step == STEPS[3]:
            die()
        return answer

    IdempotencyStore.propose = mortal_propose  # type: ignore[method-assign,assignment]
    copies._receipt = mortal_receipt


if __name__ == "__main__":
    patch(sys.argv[1])
    main()
