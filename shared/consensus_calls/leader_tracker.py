"""Which consensus member to ask next. Pure: monotonic seconds are given.

Kept apart from sending, because what goes wrong here goes wrong over time (a hung leader that others still name, two
members that name each other) and is tested without any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shared.backoff import ceiling_s
from shared.contracts.names import check_member_id
from shared.errors import InvalidNameError
from shared.peer_address import PeerAddress
from shared.roles import Role

_BACKOFF_BASE_S: Final = 0.05
_BACKOFF_LIMIT_S: Final = 0.25
_MAX_LEARNT_MEMBERS: Final = 16


class LeaderTracker:
    """Whom to ask next. Times are monotonic seconds, given by the caller.

    A member that failed is avoided for a while even when others still name it as leader: they need an election timeout
    to notice, and a hung leader would cost a whole attempt each time.
    """

    def __init__(self, members: Sequence[PeerAddress]) -> None:
        self._members = {member.id: member for member in members}
        self._order = [member.id for member in members]
        self._configured_count = len(self._order)
        self._leader_id: str | None = None
        self._suspect_until_s: dict[str, float] = {}
        self._last_named = ""
        self._next = 0
        self._misses = 0

    def members(self) -> list[PeerAddress]:
        """Everybody known now."""
        return list(self._members.values())

    def choose(self, now_s: float) -> PeerAddress:
        """The believed leader, else the members in turn, those under suspicion last."""
        if self._leader_id is not None:
            return self._members[self._leader_id]
        for _ in self._order:
            member_id = self._order[self._next % len(self._order)]
            self._next += 1
            if not self._is_suspect(member_id, now_s):
                return self._members[member_id]
        self._next += 1
        return self._members[self._order[self._next % len(self._order)]]

    def led(self, member: PeerAddress) -> None:
        """`member` answered as leader."""
        self._leader_id = member.id
        self._suspect_until_s.pop(member.id, None)
        self._misses = 0

    def redirected(self, member: PeerAddress, leader_id: object, leader_url: object, now_s: float) -> None:
        """`member` does not lead; it may have named the one that does."""
        self._misses += 1
        self._leader_id = None
        if isinstance(leader_id, str) and leader_id != member.id and self._knows(leader_id, leader_url):
            self._leader_id = None if self._is_suspect(leader_id, now_s) else leader_id

    def failed(self, member: PeerAddress, now_s: float, suspicion_s: float) -> None:
        """`member` could not serve; avoid it for `suspicion_s`."""
        self._misses += 1
        if self._leader_id == member.id:
            self._leader_id = None
        self._suspect_until_s[member.id] = now_s + suspicion_s

    def members_are(self, members: str) -> None:
        """The leader named everybody (`MEMBERS_HEADER`): who is not among them and not configured here is forgotten.

        Without this, a client that outlives every member it knew would never find the group again.
        """
        if members == self._last_named:
            return
        self._last_named = members
        current = dict(part.partition("=")[::2] for part in members.split(","))
        for gone in self._order[self._configured_count :]:
            if gone not in current and gone != self._leader_id:
                self._order.remove(gone)
                del self._members[gone]
                self._suspect_until_s.pop(gone, None)
        for member_id, url in current.items():
            self._knows(member_id, url)

    def was_busy(self) -> None:
        """The leader leads and asks for less: keep it, and pause."""
        self._misses = max(self._misses, len(self._order)) + 1

    def pause_s(self) -> float:
        """Upper bound of the pause before the next attempt; 0 until every member has been asked once."""
        rounds = self._misses - len(self._order)
        return 0.0 if rounds < 0 else ceiling_s(rounds + 1, base_s=_BACKOFF_BASE_S, limit_s=_BACKOFF_LIMIT_S)

    def _is_suspect(self, member_id: str, now_s: float) -> bool:
        return self._suspect_until_s.get(member_id, 0.0) > now_s

    def _knows(self, member_id: str, url: object) -> bool:
        """Whether `member_id` can be called; a member that joined after our start is learnt from the hint."""
        if member_id in self._members:
            return True
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            return False
        try:
            check_member_id(member_id)
        except InvalidNameError:
            return False
        if len(self._order) - self._configured_count >= _MAX_LEARNT_MEMBERS:
            # The one learnt first has most likely left since; members that are replaced again and again are not all kept.
            forgotten = self._order.pop(self._configured_count)
            del self._members[forgotten]
            self._suspect_until_s.pop(forgotten, None)
        self._members[member_id] = PeerAddress(member_id, url.rstrip("/"), Role.CONSENSUS)
        self._order.append(member_id)
        return True
