"""Whether a majority of the consensus members may be at work, asked of all of them at once while calls wait (X-76).

An election costs a caller waiting and no failure, so calls wait for seconds. Without a majority waiting is in vain: then
they are refused early. The members know it (each says whether it is connected to a majority), or none of them answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from shared.background_tasks import BackgroundTasks
from shared.consensus_calls.peer_requester import PeerRequester
from shared.errors import PeerUnreachableError, TrivetError
from shared.peer_address import PeerAddress
from shared.stalls import STALL_S

STATUS_PATH: Final = "/v1/status"
CHECK_AFTER_S: Final = 0.5
"""A call that took longer makes us ask."""

PATIENCE_S: Final = 1.75
"""How long a call waits at least; with CHECK_AFTER_S and ANSWER_WITHIN_S below it, the first check is over by then."""

CHECK_AGAIN_S: Final = 0.25
ANSWER_WITHIN_S: Final = 1.0


class MajorityWatch:
    """What the last check found. In doubt a majority is taken for possible: then callers merely wait longer."""

    def __init__(
        self, client: PeerRequester, members: Callable[[], Sequence[PeerAddress]], tasks: BackgroundTasks
    ) -> None:
        self._client = client
        self._members = members
        self._tasks = tasks
        self._check: asyncio.Task[None] | None = None
        self._lost_as_of_s: float | None = None
        """Monotonic: when the last check began, if it found nobody."""
        self._is_closed = False

    def check(self) -> None:
        """Ask all members, unless that is under way."""
        if not self._is_closed and (self._check is None or self._check.done()):
            self._check = self._tasks.start("majority watch", self._ask_all())

    def was_lost_since(self, since_s: float) -> bool:
        """Whether the last check, begun at or after `since_s` (monotonic seconds), found that no majority is possible."""
        return self._lost_as_of_s is not None and self._lost_as_of_s >= since_s

    def close(self) -> None:
        """Begin no further check."""
        self._is_closed = True

    async def _ask_all(self) -> None:
        began_at_s = time.monotonic()
        answers = await asyncio.gather(*(self._may_be_in_a_majority(member) for member in self._members()))
        # Had this process itself stood still, answers could be waiting unread.
        is_conclusive = time.monotonic() - began_at_s < ANSWER_WITHIN_S + STALL_S
        self._lost_as_of_s = began_at_s if is_conclusive and not any(answers) else None

    async def _may_be_in_a_majority(self, member: PeerAddress) -> bool:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                response = await self._client.request(member, "GET", STATUS_PATH, timeout_s=ANSWER_WITHIN_S)
                status = response.json()
        except (PeerUnreachableError, TimeoutError):
            return False
        except (TrivetError, ValueError):
            return True  # it is there; why it does not say more is not known
        return not isinstance(status, dict) or status.get("reaches_majority") is not False
