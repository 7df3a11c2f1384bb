"""The candidate: raftos' election sequence and vote counting, fed with at most one vote per voter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.consensus.raft.follower import FollowerRole
from services.consensus.raft.messages import Received, RequestVoteResponse
from services.consensus.raft.ports import HardStateStore
from services.consensus.raft.seam import BaseCandidate, Timer

if TYPE_CHECKING:
    # It imports the roles.
    from services.consensus.raft.state import RaftState


class CandidateRole(BaseCandidate):
    """Paper, section 5.2.

    Invariant: `vote_count` equals the number of distinct voters, itself included, that granted this term's vote.
    """

    state: RaftState
    storage: HardStateStore

    def __init__(self, state: RaftState) -> None:
        super().__init__(state)
        self._granted = {self.id}
        # raftos goes back to follower and waits for a second timeout; a failed election is tried again at once.
        self.election_timer = Timer(self.election_interval, self._try_again)

    def start(self) -> None:
        """Term and vote become durable in raftos' start, before the first request leaves."""
        super().start()
        # Not at once: raftos is still in the middle of the change to this role.
        self.loop.call_soon(self._win_alone)

    def on_receive_request_vote_response(self, received: Received[RequestVoteResponse]) -> None:
        """One vote per voter; raftos counts it and becomes leader at a majority."""
        voter = received.sender
        if received.message.vote_granted and voter in self.state.voters and voter not in self._granted:
            self._granted.add(voter)
            super().on_receive_request_vote_response(received)

    def _win_alone(self) -> None:
        if self.state.state is self and self.state.is_majority(len(self._granted)):
            self.state.to_leader()

    def _try_again(self) -> None:
        self.state.to_follower()
        role = self.state.state
        assert isinstance(role, FollowerRole)
        role.start_election()
