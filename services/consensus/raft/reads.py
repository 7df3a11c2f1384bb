"""ReadIndex (thesis, section 6.4): a read is linearizable when leadership was proven after it arrived. Pure (C-8).

One heartbeat round proves it for every read that waited when the round began; reads that arrive meanwhile wait for the next
one. No lease, because a lease would let a clock decide.
"""

from __future__ import annotations

from typing import Generic, TypeVar

ReadT = TypeVar("ReadT")


class ReadRounds(Generic[ReadT]):
    """Reads that wait for a proof of leadership, grouped by the heartbeat round that will bring it."""

    def __init__(self) -> None:
        self._collecting: list[ReadT] = []
        self._proving: dict[int, list[ReadT]] = {}

    def join(self, read: ReadT) -> None:
        """Let `read` wait for the next round."""
        self._collecting.append(read)

    @property
    def wants_round(self) -> bool:
        """Whether reads wait and no round is under way."""
        return bool(self._collecting) and not self._proving

    def begin(self, request_id: int) -> None:
        """The round `request_id` goes out; all that collected so far wait for it."""
        self._proving[request_id] = self._collecting
        self._collecting = []

    def proven(self, request_id: int) -> list[ReadT]:
        """A majority answered round `request_id`. Returns the reads that it proves: its own and those of earlier rounds."""
        begun = [number for number in self._proving if number <= request_id]
        return [read for number in begun for read in self._proving.pop(number)]

    def fail(self) -> list[ReadT]:
        """Leadership was lost. Returns every read that waits, and forgets them."""
        waiting = [*self._collecting, *(read for reads in self._proving.values() for read in reads)]
        self._collecting = []
        self._proving.clear()
        return waiting
