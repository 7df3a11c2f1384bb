"""The follower: raftos' life cycle and election timer; log matching, votes and pre-votes of our own."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from services.consensus.raft import decide
from services.consensus.raft.decide import LogPosition
from services.consensus.raft.log import RaftLog
from services.consensus.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    Message,
    Received,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from services.consensus.raft.ports import HardStateStore
from services.consensus.raft.seam import BaseFollower

if TYPE_CHECKING:
    # It imports the roles.
    from services.consensus.raft.state import RaftState

PRE_VOTE_RETRY_S = (0.15, 0.3)
STATELESS_TIMEOUTS = 3
"""Election timeouts without a leader, after which a member whose state is lost campaigns after all."""


class FollowerRole(BaseFollower):
    """Paper, section 5.2 and 5.3, with pre-vote (thesis, 9.6).

    Invariant: a success answer names an index up to which this log is durable and equal to the leader's.
    """

    state: RaftState
    storage: HardStateStore
    log: RaftLog

    def __init__(self, state: RaftState) -> None:
        super().__init__(state)
        self._pre_votes: set[str] = set()
        self._is_pre_voting = False
        self._silent_timeouts = 0

    def init_storage(self) -> None:
        """raftos forgets the vote here, which elects two leaders in one term; the vote stays."""

    def election_interval(self) -> float:  # type: ignore[override] # raftos calls it on the role
        """raftos' randomised timeout; a short one while a refused pre-vote is tried again."""
        if self._is_pre_voting:
            return random.uniform(*PRE_VOTE_RETRY_S)  # noqa: S311 jitter is not a secret
        return BaseFollower.election_interval()

    def start_election(self, *, is_forced: bool = False) -> None:
        """The election timer fired, or (forced) the leader asked for a transfer (thesis, 3.10)."""
        state = self.state
        if not is_forced and state.lacks_only_its_state():
            # Others are better leaders. But when they lack entries that stand in this log, only this member can win; it
            # leads just long enough to bring them there.
            self._silent_timeouts += 1
            if self._silent_timeouts < STATELESS_TIMEOUTS:
                return
        elif not state.may_campaign():
            return
        if is_forced:
            super().start_election()
            return
        self._is_pre_voting = True
        self._pre_votes = {self.id}
        state.set_leader(None)
        state.broadcast(
            RequestPreVote(
                term=self.storage.term + 1,
                last_log_index=self.log.last_log_index,
                last_log_term=self.log.last_log_term,
            )
        )
        self._campaign_if_promised()

    def on_receive_request_pre_vote_response(self, received: Received[RequestPreVoteResponse]) -> None:
        """Somebody would vote for us."""
        if self._is_pre_voting and received.message.term == self.storage.term + 1:
            self._pre_votes.add(received.sender)
            self._campaign_if_promised()

    def _campaign_if_promised(self) -> None:
        if decide.has_majority(self._pre_votes, self.state.voters):
            self._is_pre_voting = False
            super().start_election()

    def on_receive_timeout_now(self, received: Received[TimeoutNow]) -> None:
        """The leader hands over to us."""
        if received.sender == self.state.get_leader() and self.state.may_campaign():
            self.state.is_transfer = True
            self.start_election(is_forced=True)

    def on_receive_request_vote(self, received: Received[RequestVote]) -> None:
        """Figure 2, RequestVote. The vote is durable before the answer."""
        message = received.message
        end = LogPosition(message.last_log_term, message.last_log_index)
        candidate = message.candidate_id
        is_granted = decide.grant_vote(self.storage.voted_for, candidate, end, self.log.end)
        if is_granted:
            self.storage.update({"voted_for": candidate})
            self.election_timer.reset()
        self.state.post(RequestVoteResponse(self.storage.term, is_granted), received.sender)

    def on_receive_append_entries(self, received: Received[AppendEntries]) -> None:
        """Figure 2, AppendEntries. The answer waits until what it confirms is durable."""
        log, message = self.log, received.message
        self._hear(message)
        if self.state.snapshots.is_installing:
            # The log is about to be replaced, so nothing is taken; that the leader was heard counts for its round.
            self.state.post(
                AppendEntriesResponse(
                    term=self.storage.term,
                    request_id=message.request_id,
                    prev_log_index=message.prev_log_index,
                    success=False,
                    is_low_on_disk=self.state.is_low_on_disk,
                    is_installing=True,
                ),
                received.sender,
            )
            return
        entries = message.entries
        decision = decide.match_append(
            base_index=log.base.index,
            last_index=log.last_log_index,
            commit_index=log.commit_index,
            term_at=log.term_at,
            previous=LogPosition(message.prev_log_term, message.prev_log_index),
            entry_terms=[entry.term for entry in entries],
        )
        answer = partial(
            AppendEntriesResponse,
            term=self.storage.term,
            request_id=message.request_id,
            prev_log_index=message.prev_log_index,
            success=decision.is_accepted,
            is_low_on_disk=self.state.is_low_on_disk or self.state.has_stopped_applying,
            majority_round_trip_ms=self.state.majority_round_trip_ms,
            needs_snapshot=log.base.index if log.is_behind_base else 0,
        )
        if not decision.is_accepted:
            self.state.post(answer(hint=decision.hint_index), received.sender)
            return
        if decision.erase_from is not None:
            log.erase_from(decision.erase_from)
        if decision.skip < len(entries):
            log.append(entries[decision.skip :])
            self.state.configuration_may_have_changed()
        if not entries and decision.match_index > log.durable_index:
            # A heartbeat asks who leads, and must not wait for a slow disk: confirm what is durable, and no more.
            self.state.post(answer(last_log_index=log.durable_index), received.sender)
        else:
            confirmed = answer(last_log_index=decision.match_index)
            self._answer_when_durable(decision.match_index, confirmed, received)
        # What the leader committed beyond the entries that this message verified may differ from ours: not yet.
        self.state.commit(min(message.commit_index, decision.match_index))

    def on_receive_install_snapshot(self, received: Received[InstallSnapshot]) -> None:
        """Section 7: a piece of the state of a leader whose log no longer has what this member lacks."""
        self._hear(received.message)

        def answer(response: InstallSnapshotResponse) -> None:
            self._answer(response, received)

        self.state.snapshots.receive(received.message, answer)

    def _hear(self, message: AppendEntries | InstallSnapshot) -> None:
        self._is_pre_voting = False
        self._silent_timeouts = 0
        self.state.heard_from_leader(message.leader_id)
        self.election_timer.reset()

    def _answer_when_durable(self, index: int, answer: Message, received: Received[Message]) -> None:
        self.log.when_durable(index, lambda: self._answer(answer, received))

    def _answer(self, answer: Message, received: Received[Message]) -> None:
        """Unless the term has passed meanwhile."""
        if self.storage.term == received.message.term:
            self.state.post(answer, received.sender)
