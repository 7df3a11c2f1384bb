"""Gives leadership away when another member reaches a majority much faster: a gray failure, which no election ends (C-79).

The heartbeats of a slow leader arrive late but regularly, so no follower campaigns and CheckQuorum holds, while each proposal and
each read waits for its links. Every member therefore measures how long a majority takes to answer it (`peering.link`) and reports
it to the leader, which compares. Where all links are slow, no member is much faster and leadership stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

import structlog

from services.consensus.member import Member
from services.consensus.raft import decide
from shared.background_tasks import BackgroundTasks

logger = structlog.get_logger(__name__)

CHECK_INTERVAL_S: Final = 1.0
PATIENCE_S: Final = 5.0
"""The leader must have been slower for this long without a break."""
HAND_OVER_INTERVAL_S: Final = 20.0
"""At least this long between its election and a hand-over, and between two: an election costs more than a slow leader."""
TIMES_FASTER: Final = 2


class SlowLeader:
    """Decides when one leadership should end. Pure: monotonic seconds are given.

    Args:
        limit_ms: a leader whose majority answers sooner than this stays.
    """

    def __init__(self, limit_ms: int, began_s: float) -> None:
        self._limit_ms = limit_ms
        self._rests_until_s = began_s + HAND_OVER_INTERVAL_S
        self._slow_since_s: float | None = None

    def successors(self, now_s: float, own_ms: int | None, others_ms: Mapping[str, int | None]) -> list[str]:
        """Members that should lead instead; usually none. A member whose round trip is unknown is not among them."""
        if own_ms is None or own_ms < self._limit_ms:
            self._slow_since_s = None
            return []
        faster = sorted(member for member, ms in others_ms.items() if ms is not None and ms * TIMES_FASTER <= own_ms)
        if not faster:
            self._slow_since_s = None
            return []
        if self._slow_since_s is None:
            self._slow_since_s = now_s
        return faster if now_s >= max(self._rests_until_s, self._slow_since_s + PATIENCE_S) else []

    def tried(self, now_s: float) -> None:
        """A hand-over was begun: the next one waits, also when this one fails."""
        self._rests_until_s = now_s + HAND_OVER_INTERVAL_S


def watch_for_slow_leader(
    tasks: BackgroundTasks, member: Member, round_trip_ms: Callable[[str], int | None], limit_ms: int
) -> asyncio.Task[NoReturn]:
    """Tell the engine what this member measures, and hand over when it leads and should not, again and again.

    `limit_ms` of 0 only measures.
    """
    loop = asyncio.get_running_loop()
    judge: SlowLeader | None = None
    judged_term = 0

    async def look() -> None:
        nonlocal judge, judged_term
        raft = member.raft
        measured = {peer: ms for peer in raft.voters if (ms := round_trip_ms(peer)) is not None}
        own_ms = raft.majority_round_trip_ms = decide.majority_round_trip_ms(member.id, raft.voters, measured)
        role = member.leader_role
        if role is None or limit_ms == 0:
            judge = None
            return
        if judge is None or judged_term != role.term:
            judge, judged_term = SlowLeader(limit_ms, loop.time()), role.term
        others_ms = {peer: progress.majority_round_trip_ms for peer, progress in role.progress.items()}
        successors = judge.successors(loop.time(), own_ms, others_ms)
        if successors:
            target = role.transfer(among=successors)
            if target not in successors:  # nobody can, or another transfer is under way
                return
            judge.tried(loop.time())
            logger.warning(
                "handing over leadership, because others are nearer to a majority",
                to=target,
                own_ms=own_ms,
                others_ms=others_ms,
            )

    return tasks.every("slow leader watch", CHECK_INTERVAL_S, look, on_ticks=True)
