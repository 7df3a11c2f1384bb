"""Coalesces concurrent calls to the consensus leader into batches, and retries each until its caller's deadline (X-107).

One batch is under way at a time while the next collects. Every call knows whether any attempt may have had an effect, so
that a deadline ends it with an honest error.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from shared.background_tasks import BackgroundTasks
from shared.consensus_calls.leader_tracker import LeaderTracker
from shared.consensus_calls.majority_watch import CHECK_AFTER_S, CHECK_AGAIN_S, PATIENCE_S, MajorityWatch
from shared.consensus_calls.peer_requester import Answered, PeerRequester
from shared.contracts.cluster import MEMBERS_HEADER
from shared.contracts.metadata import MAX_BATCH
from shared.errors import (
    InternalError,
    LeaderUnavailableError,
    NotLeaderError,
    OutcomeUnknownError,
    OverloadedError,
    PeerUnreachableError,
    SignatureRejectedError,
    TrivetError,
    UnavailableError,
)
from shared.peer_address import PeerAddress
from shared.request_trace import current_trace, joined
from shared.stalls import put_off_s
from shared.units import KIB, MIB

MAX_WAITING_BYTES: Final = 32 * MIB
MAX_BATCH_BYTES: Final = MIB - 4 * KIB
"""A larger call goes alone. A member takes several times that in one body."""

_REFUSED_SUSPICION_S: Final = 0.5
_HUNG_SUSPICION_S: Final = 2.5

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Call(Generic[T]):
    """One waiting caller, with monotonic seconds.

    Invariant: `is_uncertain` is true while and after any attempt may have been appended.
    Invariant: `timer` is armed for `due_at_s`, never after `ends_at_s`, until the future is done.
    """

    body: bytes
    future: asyncio.Future[T]
    began_at_s: float
    ends_at_s: float
    due_at_s: float = 0.0
    stalls: int = 0
    timer: asyncio.TimerHandle | None = None
    is_uncertain: bool = False
    last_error: TrivetError | None = None
    trace: str = field(default_factory=current_trace.get)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error instead of a value. `is_final` when asking again would not change it.

    `is_decided` when it stands in the log: then it is the fate of every attempt. Otherwise it is that of this one only.
    """

    error: TrivetError
    is_final: bool
    is_decided: bool = False


@dataclass(frozen=True, slots=True)
class CallKind(Generic[T]):
    """What differs between proposals and reads.

    Attributes:
        parse: gives one outcome per call of the batch, or raises ValueError.
        gather_s: for how long calls that came while a batch was under way wait for more, once it is answered.
    """

    name: str
    path: str
    field: str
    parse: Callable[[bytes | bytearray], list[T | Refusal]]
    has_effect: bool
    gather_s: float


@dataclass(slots=True)
class Sender:
    """One attempt at a time per batcher: choose a member, send, tell the tracker what came of it."""

    client: PeerRequester
    tracker: LeaderTracker
    attempt_timeout_s: float
    answered_at_s: float = 0.0
    """Monotonic, when a leader last answered."""

    async def attempt(self, path: str, content: bytes) -> tuple[PeerAddress, bytes | bytearray]:
        """The leader and its answer to `content`.

        Raises:
            TrivetError: as the member answered, or PeerUnreachableError; `definite` says whether it may have happened.
        """
        began_at_s = time.monotonic()
        member = self.tracker.choose(began_at_s)
        try:
            response = await self._request(member, path, content)
        except TrivetError as error:
            self.record_error(member, error, time.monotonic() - began_at_s)
            raise
        self.tracker.led(member)
        self.answered_at_s = time.monotonic()
        if (members := response.headers.get(MEMBERS_HEADER)) is not None:
            self.tracker.members_are(members)
        return member, response.content

    async def _request(self, member: PeerAddress, path: str, content: bytes) -> Answered:
        timeout_s = self.attempt_timeout_s
        headers = {"content-type": "application/json"}
        try:
            async with asyncio.timeout(timeout_s):
                return await self.client.request(
                    member, "POST", path, timeout_s=timeout_s, content=content, headers=headers
                )
        except TimeoutError as error:
            raise PeerUnreachableError(f"{member.id} did not answer in time.", peer=member.id) from error

    def record_error(self, member: PeerAddress, error: TrivetError, cost_s: float = 0.0) -> None:
        """Learn from a member's error; one that was long in coming is avoided for long."""
        if isinstance(error, NotLeaderError):
            facts = error.facts
            self.tracker.redirected(member, facts.get("leader_id"), facts.get("leader_url"), time.monotonic())
        elif isinstance(error, OverloadedError):
            self.tracker.was_busy()
        elif is_retryable(error):
            suspicion_s = _REFUSED_SUSPICION_S if cost_s < self.attempt_timeout_s / 2 else _HUNG_SUSPICION_S
            self.tracker.failed(member, time.monotonic(), suspicion_s)

    async def pause(self) -> None:
        """Full jitter, once every member has been asked in vain."""
        if (limit_s := self.tracker.pause_s()) > 0:
            # Spreads retries; nothing secret depends on it.
            await asyncio.sleep(random.uniform(0, limit_s))  # noqa: S311


class CallBatcher(Generic[T]):
    """Collects calls of one kind and sends them in batches, one batch at a time.

    Invariant: a call is in `_waiting`, in the batch under way, or its future is done.
    Invariant: `_waiting_bytes` is the sum of the bodies in `_waiting`.
    """

    def __init__(
        self, kind: CallKind[T], sender: Sender, majority: MajorityWatch, tasks: BackgroundTasks, max_waiting: int
    ) -> None:
        self._kind = kind
        self._sender = sender
        self._majority = majority
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
        """The outcome of one call, or the honest error of a passed deadline or of a majority that is not there.

        Time in which this process stood still is not counted: nobody was given a chance to answer in it.
        """
        if len(self._waiting) >= self._max_waiting or self._waiting_bytes + len(body) > MAX_WAITING_BYTES:
            raise OverloadedError(
                f"Too many {self._kind.name}s wait for the consensus leader.", limit=self._max_waiting
            )
        loop = asyncio.get_running_loop()
        now_s = time.monotonic()
        call = _Call[T](body, loop.create_future(), now_s, now_s + deadline_s)
        self._waiting.append(call)
        self._waiting_bytes += len(body)
        if self._task is None or self._task.done():
            self._task = self._tasks.start(f"consensus {self._kind.name}s", self._drain())
        self._look_after(call, now_s, CHECK_AFTER_S)
        try:
            return await call.future
        finally:
            if call.timer is not None:
                call.timer.cancel()

    def close(self) -> None:
        """Fail what still waits. The drain has been cancelled before."""
        while self._waiting:
            call = self._waiting.popleft()
            _fail(call, self._too_late(call))
        self._waiting_bytes = 0

    def _look_after(self, call: _Call[T], now_s: float, pause_s: float) -> None:
        call.due_at_s = min(now_s + pause_s, call.ends_at_s)
        call.timer = asyncio.get_running_loop().call_later(call.due_at_s - now_s, self._look_at, call)

    def _look_at(self, call: _Call[T]) -> None:
        """`call` takes long: end it when its time is over; else find out whether waiting is in vain, again and again."""
        if call.future.done():
            return
        now_s = time.monotonic()
        if late_s := put_off_s(call.due_at_s, now_s, call.stalls):
            call.ends_at_s += late_s
            call.stalls += 1
        waited_s = now_s - call.began_at_s
        # A leader that answers others is not lost, however long members take to say who they are.
        is_lost = waited_s >= PATIENCE_S and self._majority.was_lost_since(
            max(call.began_at_s, self._sender.answered_at_s)
        )
        if is_lost or now_s >= call.ends_at_s:
            _fail(call, self._too_late(call))
            return
        self._majority.check()
        self._look_after(
            call, now_s, CHECK_AGAIN_S if waited_s >= PATIENCE_S else min(CHECK_AGAIN_S, PATIENCE_S - waited_s)
        )

    async def _drain(self) -> None:
        batch: list[_Call[T]] = []
        try:
            while batch := self._next_batch():
                if again := await self._send(batch):
                    self._waiting.extendleft(reversed(again))
                    self._waiting_bytes += sum(len(call.body) for call in again)
                    batch = []
                    await self._sender.pause()
                elif self._is_worth_gathering():
                    await asyncio.sleep(self._kind.gather_s)
        finally:
            for call in batch:
                _fail(call, self._too_late(call))

    def _is_worth_gathering(self) -> bool:
        """Calls came while a batch was under way, so others will; a lone call finds nothing under way and never waits."""
        return 0 < len(self._waiting) < MAX_BATCH and self._waiting_bytes < MAX_BATCH_BYTES

    def _next_batch(self) -> list[_Call[T]]:
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
        """Send once; deliver what was decided and return the calls to send again."""
        current_trace.set(joined([call.trace for call in batch]))
        before = [call.is_uncertain for call in batch]
        for call in batch:
            call.is_uncertain = True
        self.request_count += 1
        self.call_count += len(batch)
        content = b'{"%s":[%s]}' % (self._kind.field.encode(), b",".join(call.body for call in batch))
        try:
            member, answer = await self._sender.attempt(self._kind.path, content)
        except TrivetError as error:
            refusal = Refusal(error, is_final=not is_retryable(error))
            if refusal.is_final and len(batch) > 1:
                return await self._send_singly(batch, before)
            outcomes: list[T | Refusal] = [refusal] * len(batch)
        else:
            outcomes = self._parse(answer, len(batch))
            self._learn(member, outcomes)
        return [
            call
            for call, was_uncertain, outcome in zip(batch, before, outcomes, strict=True)
            if not _deliver(call, outcome, was_uncertain and self._kind.has_effect)
        ]

    async def _send_singly(self, batch: list[_Call[T]], before: list[bool]) -> list[_Call[T]]:
        """A batch was refused as a whole: find the one to blame instead of failing its neighbours."""
        again: list[_Call[T]] = []
        for call, was_uncertain in zip(batch, before, strict=True):
            call.is_uncertain = was_uncertain
        for call in batch:
            if not call.future.done():  # meanwhile it may have been told that it was not sent
                again += await self._send([call])
        return again

    def _learn(self, member: PeerAddress, outcomes: list[T | Refusal]) -> None:
        """A leader that steps down in mid-batch says so for single calls.

        One that answered some and calls itself overloaded for the rest had no room left in its answer: no reason to pause.
        """
        is_answering = any(not isinstance(outcome, Refusal) for outcome in outcomes)
        for outcome in outcomes:
            if isinstance(outcome, Refusal) and not outcome.is_final:
                if is_answering and isinstance(outcome.error, OverloadedError):
                    return
                self._sender.record_error(member, outcome.error)
                return

    def _parse(self, content: bytes | bytearray, count: int) -> list[T | Refusal]:
        """One outcome per call. An answer that cannot be read leaves every outcome unknown."""
        try:
            outcomes = self._kind.parse(content)
        except ValueError:
            outcomes = []
        if len(outcomes) != count:
            error = InternalError("A consensus member sent an answer that cannot be understood.")
            return [Refusal(error, is_final=False)] * count
        return outcomes

    def _too_late(self, call: _Call[T]) -> TrivetError:
        late: TrivetError
        if self._kind.has_effect and call.is_uncertain:
            late = OutcomeUnknownError(
                "The proposal was sent and its outcome was not learnt in time; a retry with the same id is safe.",
                last_error=_code(call.last_error),
            )
        else:
            late = LeaderUnavailableError(
                "No consensus leader answered in time; nothing was changed.", last_error=_code(call.last_error)
            )
        # For whoever has to find out why; clients are told the code.
        late.__cause__ = call.last_error
        return late


def _code(error: TrivetError | None) -> str:
    return "none" if error is None else error.code


def _deliver(call: _Call[T], outcome: T | Refusal, was_uncertain: bool) -> bool:
    """Give the caller its outcome; false when the call must be sent again."""
    if not isinstance(outcome, Refusal):
        if not call.future.done():
            call.future.set_result(outcome)
        return True
    call.last_error = outcome.error
    if not outcome.is_final:
        call.is_uncertain = was_uncertain or not outcome.error.definite
        return call.future.done()
    if was_uncertain and not outcome.is_decided:
        # This attempt was refused before the log saw it (a full disk, say); an earlier one may have got there.
        _fail(call, _unknown_after(outcome.error))
    else:
        _fail(call, outcome.error)
    return True


def _unknown_after(refusal: TrivetError) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "An earlier attempt may have happened, and the last one was refused; a retry with the same id is safe.",
        last_error=refusal.code,
    )


def _fail(call: _Call[T], error: TrivetError) -> None:
    if not call.future.done():
        call.future.set_exception(error)
        # A caller that was cancelled in this very turn never fetches it.
        call.future.exception()


def is_retryable(error: TrivetError) -> bool:
    """Whether another attempt or member may do better. 401 is: a member that restarts has a new boot id."""
    return isinstance(error, NotLeaderError | UnavailableError | InternalError | SignatureRejectedError)
