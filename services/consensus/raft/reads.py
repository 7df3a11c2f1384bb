"""ReadIndex (thesis, section 6.4): a read is linearizable when leadership was proven after it arrived.

One heartbeat round proves it for every read that waited when the round began; reads that arrive meanwhile wait for the next
one. No lease, because a lease would let a clock decide.
"""

from __future__ import annotations

import asyncio

from shared.errors import LeaderUnavailableError


class ReadRounds:
    """Reads that wait for a proof of leadership, grouped by the heartbeat round that will bring it."""

    def __init__(self) -> None:
        self._collecting: list[asyncio.Future[None]] = []
        self._proving: dict[int, list[asyncio.Future[None]]] = {}

    def join(self) -> asyncio.Future[None]:
        """Wait for the next round."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._collecting.append(waiting)
        return waiting

    @property
    def wants_round(self) -> bool:
        """Whether reads wait and no round is under way."""
        return bool(self._collecting) and not self._proving

    def begin(self, request_id: int) -> None:
        """The round `request_id` goes out; all that collected so far wait for it."""
        self._proving[request_id] = self._collecting
        self._collecting = []

    def proven(self, request_id: int) -> None:
        """A majority answered round `request_id`; it proves every earlier round too."""
        for begun in [number for number in self._proving if number <= request_id]:
            for waiting in self._proving.pop(begun):
                if not waiting.done():
                    waiting.set_result(None)

    def fail(self) -> None:
        """Leadership was lost; a read that failed certainly changed nothing."""
        for waiting in [*self._collecting, *(w for group in self._proving.values() for w in group)]:
            if not waiting.done():
                waiting.set_exception(LeaderUnavailableError("This member stopped leading."))
        self._collecting.clear()
        self._proving.clear()
