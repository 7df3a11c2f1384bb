"""Collects the small chunk calls of concurrent requests to one storage node, so that they share HTTP requests (G-110).

A call that finds no request under way goes at once: an idle gateway adds no latency. Others wait until it ends, and all that
have come by then go together. So load makes requests larger and not more numerous (as `shared.consensus_calls.batching` does).
One that takes unusually long does not hold up those behind it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from shared.background_tasks import BackgroundTasks
from shared.contracts.chunk_batches import MAX_BATCH_BYTES, MAX_BATCH_ITEMS
from shared.errors import InternalError, OverloadedError, PeerUnreachableError, TrivetError
from shared.request_trace import current_trace, joined
from shared.units import MIB

STALLED_AFTER_S: Final = 0.05
"""A request under way for so long lets the next one go beside it."""

MAX_UNDER_WAY: Final = 4

MAX_WAITING: Final = 1024
MAX_WAITING_BYTES: Final = 32 * MIB


class BatchedCall(Protocol):
    """A call that may share a request: `item_count` items, and `frame_bytes` bytes of chunks in the request or its answer."""

    @property
    def item_count(self) -> int:
        """At most MAX_BATCH_ITEMS."""

    @property
    def trace(self) -> str:
        """By which request it is made; see `shared.request_trace`."""

    @property
    def frame_bytes(self) -> int:
        """At most MAX_BATCH_BYTES."""

    @property
    def answered(self) -> asyncio.Future[Any]:
        """The outcome. Its caller cancels it to withdraw the call."""


CallT = TypeVar("CallT", bound=BatchedCall)


@dataclass(slots=True, eq=False)
class _BatchUnderWay(Generic[CallT]):
    """Calls under way together. Invariant: `wanted` counts those whose caller still waits."""

    calls: list[CallT] = field(default_factory=list)
    wanted: int = 0
    task: asyncio.Task[object] | None = None


class ChunkBatcher(Generic[CallT]):
    """The calls to one node that may share requests with each other.

    Invariant: a call is in `_waiting`, in one of `_under_way`, or answered.
    Invariant: `_waiting_bytes` is the sum over `_waiting`.
    """

    def __init__(
        self, node_id: str, send: Callable[[Sequence[CallT]], Coroutine[Any, Any, None]], tasks: BackgroundTasks
    ) -> None:
        """`send` gives each of the calls its outcome; a TrivetError that it raises is the outcome of all that have none."""
        self._node_id = node_id
        self._send = send
        self._tasks = tasks
        self._waiting: dict[CallT, None] = {}
        self._waiting_bytes = 0
        self._under_way: dict[CallT, _BatchUnderWay[CallT]] = {}
        self._batches: set[_BatchUnderWay[CallT]] = set()
        self._began_s = 0.0
        self._stall_timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def is_unused(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not self._waiting and not self._batches

    def submit(self, call: CallT) -> None:
        """Have `call` answered; OverloadedError is its answer when too many wait."""
        if self._is_closed:
            call.answered.set_exception(self._broken_off())
            return
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + call.frame_bytes > MAX_WAITING_BYTES:
            call.answered.set_exception(OverloadedError(f"Too many calls wait for {self._node_id}.", limit=MAX_WAITING))
            return
        self._waiting[call] = None
        self._waiting_bytes += call.frame_bytes
        call.answered.add_done_callback(partial(self._on_answered, call))
        self._start_wanted()

    def close(self) -> None:
        """Send nothing more. What is under way ends with its task."""
        self._is_closed = True
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        waiting = _BatchUnderWay(list(self._waiting))
        for call in waiting.calls:
            self._withdraw(call)
        _fail_all(waiting, self._broken_off())

    def _start_wanted(self) -> None:
        while self._waiting and self._may_send():
            batch = self._next_batch()
            try:
                batch.task = self._tasks.start("chunk calls", self._run(batch))
            except OverloadedError as error:
                _fail_all(batch, error)
                continue
            self._batches.add(batch)
            self._began_s = time.monotonic()
            self._under_way.update(dict.fromkeys(batch.calls, batch))
            # A callback and not a `finally` in the task: a task cancelled before its first step runs none of its code.
            batch.task.add_done_callback(partial(self._on_end, batch))
        # Whoever waits behind a request that stalls is not sent by another call or by the end of that request alone.
        if self._waiting and len(self._batches) < MAX_UNDER_WAY and self._stall_timer is None:
            wait_s = STALLED_AFTER_S - (time.monotonic() - self._began_s)
            self._stall_timer = asyncio.get_running_loop().call_later(max(0.001, wait_s), self._on_stall_timer)

    def _on_stall_timer(self) -> None:
        self._stall_timer = None
        self._start_wanted()

    def _may_send(self) -> bool:
        if not self._batches:
            return True
        return len(self._batches) < MAX_UNDER_WAY and time.monotonic() - self._began_s >= STALLED_AFTER_S

    def _next_batch(self) -> _BatchUnderWay[CallT]:
        """Those that have waited longest, as many as one frame takes."""
        batch = _BatchUnderWay[CallT]()
        items = size_bytes = 0
        for call in self._waiting:
            items += call.item_count
            size_bytes += call.frame_bytes
            if batch.calls and (items > MAX_BATCH_ITEMS or size_bytes > MAX_BATCH_BYTES):
                break
            batch.calls.append(call)
        for call in batch.calls:
            self._withdraw(call)
        batch.wanted = len(batch.calls)
        return batch

    async def _run(self, batch: _BatchUnderWay[CallT]) -> None:
        current_trace.set(joined([call.trace for call in batch.calls]))
        try:
            await self._send(batch.calls)
        except TrivetError as error:
            _fail_all(batch, error)

    def _on_answered(self, call: CallT, answered: asyncio.Future[Any]) -> None:
        batch = self._under_way.pop(call, None)
        if not answered.cancelled():
            return
        if batch is None:
            self._withdraw(call)
            return
        batch.wanted -= 1
        if batch.wanted == 0 and batch.task is not None:
            # Nobody waits for this request, and others wait for its place.
            batch.task.cancel()

    def _withdraw(self, call: CallT) -> None:
        if call in self._waiting:
            del self._waiting[call]
            self._waiting_bytes -= call.frame_bytes

    def _on_end(self, batch: _BatchUnderWay[CallT], task: asyncio.Task[object]) -> None:
        self._batches.discard(batch)
        if task.cancelled():
            _fail_all(batch, self._broken_off())
        else:
            _fail_all(batch, InternalError("A defect of ours stopped a call to a storage node; it has been logged."))
        self._start_wanted()

    def _broken_off(self) -> PeerUnreachableError:
        return PeerUnreachableError(f"The call to {self._node_id} was broken off.", peer=self._node_id)


def _fail_all(batch: _BatchUnderWay[CallT], error: TrivetError) -> None:
    """The same error for all that have no outcome: `NodeHealth` counts it once."""
    for call in batch.calls:
        if not call.answered.done():
            call.answered.set_exception(error)
