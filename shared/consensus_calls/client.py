"""Talks to whichever consensus member leads: proposals that happen once, linearizable reads, honest outcomes.

Concurrent calls share requests: while one batch is under way the next collects, so load makes batches larger and not
requests more numerous. A read is sent after it was asked for, never answered by a batch that had already left, because
the leader's ReadIndex barrier only covers what came before it.

A proposal is retried under one request id until its deadline, at whichever member leads by then; the state machine
makes it happen once. What cannot be learnt in time is said as it is (Maelstrom's *definite*): `OutcomeUnknownError` when
any attempt may have been appended, `LeaderUnavailableError` when certainly none was.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, cast

from shared.background_tasks import BackgroundTasks
from shared.consensus_calls.batching import CallBatcher, CallKind, Refusal, Sender, is_retryable
from shared.consensus_calls.leader_tracker import LeaderTracker
from shared.consensus_calls.majority_watch import MajorityWatch
from shared.consensus_calls.peer_requester import PeerRequester
from shared.contracts.access import Requester
from shared.contracts.calls import AnswerT, Command, Proposed, Query, ResultT, answer_to
from shared.contracts.metadata import Answer, AnyCommand, Proposal, ProposalResult, ProposalResults
from shared.contracts.read_results import decode_read_results
from shared.errors import error_from_problem
from shared.peer_address import PeerAddress

DEFAULT_DEADLINE_S: Final = 5.0
DEFAULT_RETAIN_S: Final = 600
ATTEMPT_TIMEOUT_S: Final = 1.5
"""A member that has not answered by then is taken for hung; an election needs 2-4 s, so a deadline allows both."""

MAX_WAITING: Final = 4096
PROPOSALS_GATHER_S: Final = 0.002
READS_GATHER_S: Final = 0.001
"""Under load only: a round of consensus costs several times what one more call in it does."""


@dataclass(frozen=True, slots=True)
class ReadContext:
    """Where in the log a read was answered: the applied index, the leader's term and the node map's epoch there.

    `hlc` is the leader's hybrid timestamp then, not below any stamp in the log. `cluster_id` is the cluster's: what was learnt
    from another one counts no more. None from a member of an earlier version. `access_index`: see `ReadResults`.
    """

    log_index: int
    term: int
    epoch: int
    hlc: int
    cluster_id: str | None = None
    access_index: int = 0


class ConsensusClient:
    """One per process. Open it with `async with`; closing fails what still waits."""

    def __init__(
        self,
        members: Sequence[PeerAddress],
        client: PeerRequester,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        if not members:
            raise ValueError("at least one consensus member is needed")
        self._deadline_s = deadline_s
        self._tasks = BackgroundTasks(limit=8)
        tracker = LeaderTracker(members)
        sender = Sender(client, tracker, attempt_timeout_s)
        self._majority = MajorityWatch(client, tracker.members, self._tasks)
        self._proposals = CallBatcher(_PROPOSALS, sender, self._majority, self._tasks, max_waiting)
        self._reads = CallBatcher(_READS, sender, self._majority, self._tasks, max_waiting)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop sending. Calls that still wait end with the error of a passed deadline."""
        self._majority.close()
        await self._tasks.aclose()
        self._proposals.close()
        self._reads.close()

    def statistics(self) -> dict[str, int]:
        """Requests sent and calls they carried, by kind, and calls that wait now."""
        return {
            "proposal_requests": self._proposals.request_count,
            "proposals": self._proposals.call_count,
            "read_requests": self._reads.request_count,
            "reads": self._reads.call_count,
            "calls_waiting": self._proposals.waiting + self._reads.waiting,
        }

    async def propose(
        self,
        command: Command[ResultT],
        *,
        request_id: str | None = None,
        retain_s: int = DEFAULT_RETAIN_S,
        fingerprint: str | None = None,
        requester: Requester | None = None,
        deadline_s: float | None = None,
    ) -> Proposed[ResultT]:
        """Have `command` committed on a majority and applied, once.

        Args:
            request_id: makes it happen once across calls of this method too; a random one by default.
            retain_s: for how long the state machine keeps the result under that id.
            fingerprint: what is asked for, when the id comes from a client; see `Proposal`.
            requester: whom it is made for; None for what the proposer does by itself.
            deadline_s: from now; the client's own by default.

        Raises:
            OverloadedError: `max_waiting` proposals wait; definite.
            LeaderUnavailableError: the deadline passed and certainly nothing was appended; definite.
            OutcomeUnknownError: the deadline passed and the proposal may have happened, or may yet; not definite.
            InternalError: it was applied, and its result is none of such a command; not definite.
            TrivetError: the state machine's own rejection; definite.
        """
        proposal = Proposal(
            request_id=request_id or secrets.token_hex(16),
            retain_s=retain_s,
            fingerprint=fingerprint,
            attempt_id=None if fingerprint is None else secrets.token_hex(16),
            requester=requester,
            command=cast("AnyCommand", command),
        )
        body = proposal.model_dump_json().encode()
        outcome = await self._proposals.call(body, self._deadline_s if deadline_s is None else deadline_s)
        return Proposed.of(type(command), outcome.log_index, outcome.term, outcome.result)

    async def read(self, query: Query[AnswerT], *, deadline_s: float | None = None) -> tuple[AnswerT, ReadContext]:
        """Answer `query` from a state that contains everything acknowledged before this call.

        Raises:
            OverloadedError: `max_waiting` reads wait.
            LeaderUnavailableError: no leader answered before the deadline.
            InternalError: a member answered another question.
            TrivetError: the state machine's own rejection of the query.
        """
        # A field that is not set is left out: members of an older version refuse those that they do not know.
        body = query.model_dump_json(exclude_none=True).encode()
        answer, context = await self._reads.call(body, self._deadline_s if deadline_s is None else deadline_s)
        return answer_to(query, answer), context


def _parse_proposals(content: bytes | bytearray) -> list[ProposalResult | Refusal]:
    return [
        # What stands in the log is decided; asking again would only be told the same.
        result if result.problem is None else _refusal(result.problem, is_decided=result.log_index > 0)
        for result in ProposalResults.parse_answer(content).results
    ]


def _parse_reads(content: bytes | bytearray) -> list[tuple[Answer, ReadContext] | Refusal]:
    batch = decode_read_results(content)
    context = ReadContext(batch.log_index, batch.term, batch.epoch, batch.hlc, batch.cluster_id, batch.access_index)
    return [
        _refusal(result.problem or {}) if result.answer is None else (result.answer, context)
        for result in batch.results
    ]


def _refusal(problem: dict[str, Any], *, is_decided: bool = False) -> Refusal:
    error = error_from_problem(problem)
    return Refusal(error, is_final=is_decided or not is_retryable(error), is_decided=is_decided)


_PROPOSALS: Final = CallKind(
    "proposal", "/v1/proposals", "proposals", _parse_proposals, has_effect=True, gather_s=PROPOSALS_GATHER_S
)
_READS: Final = CallKind("read", "/v1/reads", "queries", _parse_reads, has_effect=False, gather_s=READS_GATHER_S)
