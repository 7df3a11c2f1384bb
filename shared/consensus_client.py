"""Talks to whichever consensus member leads: proposals that happen once, linearizable reads, honest outcomes.

Concurrent calls share requests: while one batch is under way the next collects, so load makes batches larger and not
requests more numerous. A read is sent after it was asked for, never answered by a batch that had already left, because
the leader's ReadIndex barrier only covers what came before it.

A proposal is retried under one request id until its deadline, at whichever member leads by then; the state machine
makes it happen once. What cannot be learnt in time is said as it is (Maelstrom's *definite*): `OutcomeUnknownError` when
any attempt may have been appended, `LeaderUnavailableError` when certainly none was.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from httpx import Response
from pydantic import ValidationError

from shared.background_tasks import BackgroundTasks
from shared.contracts.metadata import (
    MAX_BATCH,
    Answer,
    Command,
    Proposal,
    ProposalResult,
    ProposalResults,
    Query,
    ReadResults,
)
from shared.contracts.names import check_member_id
from shared.errors import (
    InternalError,
    InvalidNameError,
    LeaderUnavailableError,
    NotLeaderError,
    OutcomeUnknownError,
    OverloadedError,
    PeerUnreachableError,
    SignatureRejectedError,
    TrivetError,
    UnavailableError,
    error_from_problem,
)
from shared.settings import PeerAddress
from shared.units import MIB

DEFAULT_DEADLINE_S: Final = 5.0
DEFAULT_RETAIN_S: Final = 600
ATTEMPT_TIMEOUT_S: Final = 1.5
"""A member that has not answered by then is taken for hung; an election needs 2-4 s, so a deadline allows both."""

MAX_WAITING: Final = 4096
MAX_WAITING_BYTES: Final = 32 * MIB
MAX_BATCH_BYTES: Final = MIB
"""More than that goes alone. Far below what a member takes in one body, and what aiohttp writes without copying it
through a payload stream."""

_REFUSED_SUSPICION_S: Final = 0.5
_HUNG_SUSPICION_S: Final = 2.5
_BACKOFF_BASE_S: Final = 0.05
_BACKOFF_LIMIT_S: Final = 0.25
_MAX_LEARNT_MEMBERS: Final = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReadContext:
    """Where in the log a read was answered: the applied index, the leader's term and the node map's epoch there."""

    log_index: int
    term: int
    epoch: int


class PeerRequester(Protocol):
    """The part of `shared.http_client.PeerClient` that is used here."""

    async def request(
        self, peer: PeerAddress, method: str, path: str, *, timeout_s: float, content: bytes, headers: dict[str, str]
    ) -> Response:
        """One signed call; raises the peer's typed error, or PeerUnreachableError."""


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
        sender = _Sender(client, LeaderTracker(members), attempt_timeout_s)
        self._proposals = _Lane(_PROPOSALS, sender, self._tasks, max_waiting)
        self._reads = _Lane(_READS, sender, self._tasks, max_waiting)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop sending. Calls that still wait end with the error of a passed deadline."""
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
        command: Command,
        *,
        request_id: str | None = None,
        retain_s: int = DEFAULT_RETAIN_S,
        deadline_s: float | None = None,
    ) -> ProposalResult:
        """Have `command` committed on a majority and applied, once.

        Args:
            request_id: makes it happen once across calls of this method too; a random one by default.
            retain_s: for how long the state machine keeps the result under that id.
            deadline_s: from now; the client's own by default.

        Raises:
            OverloadedError: `max_waiting` proposals wait; definite.
            LeaderUnavailableError: the deadline passed and certainly nothing was appended; definite.
            OutcomeUnknownError: the deadline passed and the proposal may have happened, or may yet; not definite.
            TrivetError: the state machine's own rejection; definite.
        """
        proposal = Proposal(request_id=request_id or secrets.token_hex(16), retain_s=retain_s, command=command)
        body = proposal.model_dump_json().encode()
        return await self._proposals.call(body, self._deadline_s if deadline_s is None else deadline_s)

    async def read(self, query: Query, *, deadline_s: float | None = None) -> tuple[Answer, ReadContext]:
        """Answer `query` from a state that contains everything acknowledged before this call.

        Raises:
            OverloadedError: `max_waiting` reads wait.
            LeaderUnavailableError: no leader answered before the deadline.
            TrivetError: the state machine's own rejection of the query.
        """
        body = query.model_dump_json().encode()
        return await self._reads.call(body, self._deadline_s if deadline_s is None else deadline_s)


class LeaderTracker:
    """Whom to ask next. Times are monotonic seconds, given by the caller.

    A member that failed is avoided for a while even when others still name it as leader: they need an election timeout
    to notice, and a hung leader would cost a whole attempt each time.
    """

    def __init__(self, members: Sequence[PeerAddress]) -> None:
        self._members = {member.id: member for member in members}
        self._order = [member.id for member in members]
        self._leader_id: str | None = None
        self._suspect_until_s: dict[str, float] = {}
        self._next = 0
        self._misses = 0

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

    def was_busy(self) -> None:
        """The leader leads and asks for less: keep it, and pause."""
        self._misses = max(self._misses, len(self._order)) + 1

    def pause_s(self) -> float:
        """Upper bound of the pause before the next attempt; 0 until every member has been asked once."""
        rounds = self._misses - len(self._order)
        return 0.0 if rounds < 0 else min(_BACKOFF_LIMIT_S, _BACKOFF_BASE_S * 2.0 ** min(rounds, 8))

    def _is_suspect(self, member_id: str, now_s: float) -> bool:
        return self._suspect_until_s.get(member_id, 0.0) > now_s

    def _knows(self, member_id: str, url: object) -> bool:
        """Whether `member_id` can be called; a member that joined after our start is learnt from the hint."""
        if member_id in self._members:
            return True
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            return False
        if len(self._order) >= _MAX_LEARNT_MEMBERS:
            return False
        try:
            check_member_id(member_id)
        except InvalidNameError:
            return False
        self._members[member_id] = PeerAddress(member_id, url.rstrip("/"))
        self._order.append(member_id)
        return True


@dataclass(slots=True, eq=False)
class _Call(Generic[T]):
    """One waiting caller. Invariant: `is_uncertain` is true while and after any attempt may have been appended."""

    body: bytes
    future: asyncio.Future[T]
    is_uncertain: bool = False
    last_error: str = "none"


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An error instead of a value. `is_final` when asking again would not change it."""

    error: TrivetError
    is_final: bool


@dataclass(frozen=True, slots=True)
class _Kind(Generic[T]):
    """What differs between proposals and reads. `parse` gives one outcome per call of the batch."""

    name: str
    path: str
    field: str
    parse: Callable[[bytes], list[T | _Refusal]]
    has_effect: bool


@dataclass(slots=True)
class _Sender:
    """One attempt at a time per lane: choose a member, send, tell the tracker what came of it."""

    client: PeerRequester
    tracker: LeaderTracker
    attempt_timeout_s: float

    async def attempt(self, path: str, content: bytes) -> tuple[PeerAddress, bytes]:
        """The leader and its answer to `content`.

        Raises:
            TrivetError: as the member answered, or PeerUnreachableError; `definite` says whether it may have happened.
        """
        began_at_s = time.monotonic()
        member = self.tracker.choose(began_at_s)
        try:
            response = await self._request(member, path, content)
        except TrivetError as error:
            self.note(member, error, time.monotonic() - began_at_s)
            raise
        self.tracker.led(member)
        return member, response.content

    async def _request(self, member: PeerAddress, path: str, content: bytes) -> Response:
        timeout_s = self.attempt_timeout_s
        headers = {"content-type": "application/json"}
        try:
            async with asyncio.timeout(timeout_s):
                return await self.client.request(
                    member, "POST", path, timeout_s=timeout_s, content=content, headers=headers
                )
        except TimeoutError as error:
            raise PeerUnreachableError(f"{member.id} did not answer in time.", peer=member.id) from error

    def note(self, member: PeerAddress, error: TrivetError, cost_s: float = 0.0) -> None:
        """Learn from a member's error; one that was long in coming is avoided for long."""
        if isinstance(error, NotLeaderError):
            facts = error.facts
            self.tracker.redirected(member, facts.get("leader_id"), facts.get("leader_url"), time.monotonic())
        elif isinstance(error, OverloadedError):
            self.tracker.was_busy()
        elif _is_retryable(error):
            suspicion_s = _REFUSED_SUSPICION_S if cost_s < self.attempt_timeout_s / 2 else _HUNG_SUSPICION_S
            self.tracker.failed(member, time.monotonic(), suspicion_s)

    async def pause(self) -> None:
        """Full jitter, once every member has been asked in vain."""
        if (limit_s := self.tracker.pause_s()) > 0:
            # Spreads retries; nothing secret depends on it.
            await asyncio.sleep(random.uniform(0, limit_s))  # noqa: S311


class _Lane(Generic[T]):
    """Collects calls of one kind and sends them in batches, one batch at a time.

    Invariant: a call is in `_waiting`, in the batch under way, or its future is done.
    Invariant: `_waiting_bytes` is the sum of the bodies in `_waiting`.
    """

    def __init__(self, kind: _Kind[T], sender: _Sender, tasks: BackgroundTasks, max_waiting: int) -> None:
        self._kind = kind
        self._sender = sender
        self._tasks = tasks
        self._max_waiting = max_waiting
        self._waiting: deque[_Call[T]] = deque()
        self._waiting_bytes = 0
        self._task: asyncio.Task[Any] | None = None
        self.request_count = 0
        self.call_count = 0

    @property
    def waiting(self) -> int:
        """Calls that are not under way."""
        return len(self._waiting)

    async def call(self, body: bytes, deadline_s: float) -> T:
        """The outcome of one call, or the honest error of a passed deadline."""
        if len(self._waiting) >= self._max_waiting or self._waiting_bytes + len(body) > MAX_WAITING_BYTES:
            raise OverloadedError(
                f"Too many {self._kind.name}s wait for the consensus leader.", limit=self._max_waiting
            )
        call = _Call[T](body, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._waiting_bytes += len(body)
        if self._task is None or self._task.done():
            self._task = self._tasks.start(f"consensus {self._kind.name}s", self._drain())
        try:
            async with asyncio.timeout(deadline_s):
                return await call.future
        except TimeoutError:
            raise self._too_late(call) from None

    def close(self) -> None:
        """Fail what still waits. The drain has been cancelled before."""
        while self._waiting:
            call = self._waiting.popleft()
            _fail(call, self._too_late(call))
        self._waiting_bytes = 0

    async def _drain(self) -> None:
        batch: list[_Call[T]] = []
        try:
            while batch := self._take():
                if again := await self._send(batch):
                    self._waiting.extendleft(reversed(again))
                    self._waiting_bytes += sum(len(call.body) for call in again)
                    batch = []
                    await self._sender.pause()
        finally:
            for call in batch:
                _fail(call, self._too_late(call))

    def _take(self) -> list[_Call[T]]:
        """The next batch, oldest first, without those whose caller has gone."""
        batch: list[_Call[T]] = []
        size_bytes = 0
        while self._waiting and len(batch) < MAX_BATCH:
            call = self._waiting[0]
            if batch and size_bytes + len(call.body) > MAX_BATCH_BYTES:
                break
            self._waiting.popleft()
            self._waiting_bytes -= len(call.body)
            if not call.future.done():
                batch.append(call)
                size_bytes += len(call.body)
        return batch

    async def _send(self, batch: list[_Call[T]]) -> list[_Call[T]]:
        """Send once; settle what was decided and return the calls to send again."""
        before = [call.is_uncertain for call in batch]
        for call in batch:
            call.is_uncertain = True
        self.request_count += 1
        self.call_count += len(batch)
        content = b'{"%s":[%s]}' % (self._kind.field.encode(), b",".join(call.body for call in batch))
        try:
            member, answer = await self._sender.attempt(self._kind.path, content)
        except TrivetError as error:
            refusal = _Refusal(error, is_final=not _is_retryable(error))
            if refusal.is_final and len(batch) > 1:
                return await self._send_singly(batch, before)
            outcomes: list[T | _Refusal] = [refusal] * len(batch)
        else:
            outcomes = self._parse(answer, len(batch))
            self._learn(member, outcomes)
        return [
            call
            for call, was_uncertain, outcome in zip(batch, before, outcomes, strict=True)
            if not _settle(call, outcome, was_uncertain)
        ]

    async def _send_singly(self, batch: list[_Call[T]], before: list[bool]) -> list[_Call[T]]:
        """A batch was refused as a whole: find the one to blame instead of failing its neighbours."""
        again: list[_Call[T]] = []
        for call, was_uncertain in zip(batch, before, strict=True):
            call.is_uncertain = was_uncertain
        for call in batch:
            again += await self._send([call])
        return again

    def _learn(self, member: PeerAddress, outcomes: list[T | _Refusal]) -> None:
        """A leader that steps down in mid-batch says so for single calls."""
        for outcome in outcomes:
            if isinstance(outcome, _Refusal) and not outcome.is_final:
                self._sender.note(member, outcome.error)
                return

    def _parse(self, content: bytes, count: int) -> list[T | _Refusal]:
        """One outcome per call. An answer that cannot be read leaves every outcome unknown."""
        try:
            outcomes = self._kind.parse(content)
        except ValidationError:
            outcomes = []
        if len(outcomes) != count:
            error = InternalError("A consensus member sent an answer that cannot be understood.")
            return [_Refusal(error, is_final=False)] * count
        return outcomes

    def _too_late(self, call: _Call[T]) -> TrivetError:
        if self._kind.has_effect and call.is_uncertain:
            return OutcomeUnknownError(
                "The proposal was sent and its outcome was not learnt in time; a retry with the same id is safe.",
                last_error=call.last_error,
            )
        return LeaderUnavailableError(
            "No consensus leader answered in time; nothing was changed.", last_error=call.last_error
        )


def _settle(call: _Call[T], outcome: T | _Refusal, was_uncertain: bool) -> bool:
    """Give the caller its outcome; false when the call must be sent again."""
    if not isinstance(outcome, _Refusal):
        if not call.future.done():
            call.future.set_result(outcome)
        return True
    call.last_error = outcome.error.code
    if not outcome.is_final:
        call.is_uncertain = was_uncertain or not outcome.error.definite
        return call.future.done()
    _fail(call, outcome.error)
    return True


def _fail(call: _Call[T], error: TrivetError) -> None:
    if not call.future.done():
        call.future.set_exception(error)
        # A caller that was cancelled in this very turn never fetches it.
        call.future.exception()


def _is_retryable(error: TrivetError) -> bool:
    """Whether another attempt or member may do better. 401 is: a member that restarts has a new boot id."""
    return isinstance(error, NotLeaderError | UnavailableError | InternalError | SignatureRejectedError)


def _parse_proposals(content: bytes) -> list[ProposalResult | _Refusal]:
    return [
        # What stands in the log is decided; asking again would only be told the same.
        result if result.problem is None else _refusal(result.problem, is_decided=result.log_index > 0)
        for result in ProposalResults.model_validate_json(content).results
    ]


def _parse_reads(content: bytes) -> list[tuple[Answer, ReadContext] | _Refusal]:
    batch = ReadResults.model_validate_json(content)
    context = ReadContext(batch.log_index, batch.term, batch.epoch)
    return [
        _refusal(result.problem or {}) if result.answer is None else (result.answer, context)
        for result in batch.results
    ]


def _refusal(problem: dict[str, Any], *, is_decided: bool = False) -> _Refusal:
    error = error_from_problem(problem)
    return _Refusal(error, is_final=is_decided or not _is_retryable(error))


_PROPOSALS: Final = _Kind("proposal", "/v1/proposals", "proposals", _parse_proposals, has_effect=True)
_READS: Final = _Kind("read", "/v1/reads", "queries", _parse_reads, has_effect=False)
