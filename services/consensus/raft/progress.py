"""What a leader knows about one follower, and how much it may send it (etcd calls this Progress).

PROBE sends one batch and waits; REPLICATE pipelines; SNAPSHOT sends none, because the log no longer has the follower's next
entry. A follower that lost only its state gets a snapshot beside its entries. Flow control counts batches and bytes in
flight, so that a follower that is slow or gone costs the leader bounded memory.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from services.consensus.raft import decide
from shared.units import MIB

MAX_IN_FLIGHT_BATCHES = 8
MAX_IN_FLIGHT_BYTES = 8 * MIB


class Mode(Enum):
    """How sure the leader is of where the follower's log ends."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class FollowerProgress:
    """One follower's place.

    Invariant: match_index < next_index, and match_index never goes back within a leadership.
    """

    def __init__(self, next_index: int) -> None:
        self.match_index = 0
        self.next_index = next_index
        self.mode = Mode.PROBE
        self.is_low_on_disk = False
        self.lacks_state = False
        self.majority_round_trip_ms: int | None = None
        self.heard_at_s = float("-inf")
        self._in_flight: deque[tuple[int, int]] = deque()
        self._in_flight_bytes = 0

    def may_send(self) -> bool:
        """Whether another batch of entries may go out now."""
        if self.mode is not Mode.REPLICATE:
            return self.mode is Mode.PROBE and not self._in_flight
        return len(self._in_flight) < MAX_IN_FLIGHT_BATCHES and self._in_flight_bytes < MAX_IN_FLIGHT_BYTES

    def sent(self, last_index: int, size_bytes: int) -> None:
        """A batch that ends at `last_index` went out; go on behind it without waiting."""
        self.next_index = last_index + 1
        self._in_flight.append((last_index, size_bytes))
        self._in_flight_bytes += size_bytes

    def accepted(self, match_index: int) -> bool:
        """The follower's log is durable and equal up to `match_index`. True if that is news."""
        self.mode = Mode.REPLICATE
        while self._in_flight and self._in_flight[0][0] <= match_index:
            self._in_flight_bytes -= self._in_flight.popleft()[1]
        if match_index <= self.match_index:
            return False
        self.match_index = match_index
        self.next_index = max(self.next_index, match_index + 1)
        return True

    def rejected(self, rejected_previous: int, hint_index: int) -> bool:
        """The follower lacks the entry at `rejected_previous`. False if the rejection is older than what is known."""
        if rejected_previous <= self.match_index:
            return False
        self._forget_in_flight()
        self.next_index = decide.next_index_after_rejection(
            match_index=self.match_index, rejected_previous=rejected_previous, hint_index=hint_index
        )
        return True

    def connection_lost(self) -> None:
        """Whatever was in flight may be gone: go back to what is known and probe."""
        if self.mode is Mode.SNAPSHOT:
            return
        self._forget_in_flight()
        self.next_index = self.match_index + 1 if self.match_index else self.next_index

    def needs_snapshot(self) -> None:
        """Entries alone do not help this follower; until `accepted` says otherwise it gets none."""
        self._forget_in_flight()
        self.mode = Mode.SNAPSHOT

    def installed(self, index: int) -> None:
        """The follower became a snapshot that ends at `index`: probe from there. Its log may reach further; it may not."""
        self._forget_in_flight()
        self.match_index = max(self.match_index, index)
        self.next_index = self.match_index + 1

    def _forget_in_flight(self) -> None:
        self.mode = Mode.PROBE
        self._in_flight.clear()
        self._in_flight_bytes = 0
