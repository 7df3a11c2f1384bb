"""Writes one chunk to its nodes and reports when W of them have it durably.

Each chunk is one background task, the fan-out. Its attempts are futures that record their own end; where all goes well the
task runs twice, to start them and to end after the last. The caller waits only until the write quorum is met; the other
replicas go on inside the same task, with a deadline, and the chunk's bytes stay reserved until the last attempt ends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from services.gateway.ports import ChunkNodes, FileChunk, LeasedChunk
from services.gateway.replicas.attempts import abandon
from services.gateway.replicas.confirmations import Confirmations
from services.gateway.replicas.health import NodeHealth
from services.gateway.replicas.latency import RecentLatency
from services.gateway.replicas.quorum import Quorums, WriteTally
from shared.background_tasks import BackgroundTasks
from shared.byte_budget import ByteLease
from shared.contracts.cluster import StorageNode
from shared.errors import (
    DiskFullError,
    InternalError,
    InvalidRequestError,
    NodeReplacedError,
    OverloadedError,
    PeerUnreachableError,
    TrivetError,
)
from shared.stalls import put_off_s

SLOW_FLOOR_S: Final = 1.0
_SLOW_FACTOR: Final = 4.0
_RETRY_PAUSES_S: Final = (0.1, 0.4)
"""Between rounds over nodes that failed, while the quorum is missed: rides out a restart, and still fails soon."""


@dataclass(frozen=True, slots=True)
class ReplicaWriterLimits:
    """`timeout_s` bounds the time to the quorum; `max_parallel_chunks` bounds what lies in socket buffers.

    `slot_wait_s`: how long a chunk may wait to become one of these.
    """

    timeout_s: float
    max_parallel_chunks: int
    slot_wait_s: float


class ChunkWrite:
    """One chunk being written. `tally` goes on growing after the quorum is met."""

    __slots__ = ("quorum_met", "tally", "task")

    def __init__(self, tally: WriteTally) -> None:
        self.tally = tally
        self.quorum_met: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[object] | None = None

    async def wait_until_quorum(self) -> None:
        """Returns when W nodes have the chunk.

        Raises:
            QuorumNotReachedError, DiskFullError: they will not; definite.
        """
        # Shielded: several waiters may share one write, and one that goes must not take it down.
        await asyncio.shield(self.quorum_met)

    def abandon(self) -> None:
        """Stop sending this chunk: its upload has ended."""
        if self.task is not None:
            self.task.cancel()


@dataclass(slots=True)
class WriteOutcomes:
    """Chunks by how their writes ended.

    Attributes:
        complete: every replica was stored.
        short: the write quorum, but not every replica; a storage node fetches what it lacks later.
        failed: the write quorum was missed.
        abandoned: the upload ended first.
    """

    complete: int = 0
    short: int = 0
    failed: int = 0
    abandoned: int = 0

    def record(self, write: ChunkWrite) -> None:
        """It has ended."""
        if write.tally.is_complete:
            self.complete += 1
        elif write.tally.is_quorum_met:
            self.short += 1
        elif write.task is None or write.task.cancelled():
            self.abandoned += 1
        else:
            self.failed += 1


class ReplicaWriter:
    """Shared by all uploads of a gateway."""

    def __init__(
        self,
        nodes: ChunkNodes,
        health: NodeHealth,
        confirmations: Confirmations,
        tasks: BackgroundTasks,
        limits: ReplicaWriterLimits,
    ) -> None:
        """`confirmations` are left for reads; no write counts one."""
        self._nodes = nodes
        self._health = health
        self._confirmations = confirmations
        self._tasks = tasks
        self._limits = limits
        self._latency = RecentLatency(initial_s=0.1)
        self._parallel = asyncio.Semaphore(limits.max_parallel_chunks)
        self.outcomes = WriteOutcomes()

    async def start(
        self, held: LeasedChunk, order: Sequence[StorageNode], quorums: Quorums, start_index: int
    ) -> ChunkWrite:
        """Begin to send a chunk along `order`, and take over its lease. Waits while `max_parallel_chunks` are being written.

        Raises:
            OverloadedError: they were still being written after `slot_wait_s`.
        """
        await self._acquire_slot()
        write = ChunkWrite(WriteTally(target=quorums.replica_count, needed=quorums.write_quorum))
        preferred, avoided = self._health.split_for_write(order)
        fan_out = _FanOut(
            write, held.chunk, start_index, deque(preferred), deque(avoided), time.monotonic() + self._limits.timeout_s
        )
        try:
            write.task = self._tasks.start("write chunk", self._fan_out(fan_out))
        except OverloadedError:
            self._parallel.release()
            raise
        lease = held.take_over()
        # A callback and not a `finally` in the task: a task cancelled before its first step runs none of its code.
        write.task.add_done_callback(lambda _: self._on_end(write, lease))
        return write

    async def _acquire_slot(self) -> None:
        if not self._parallel.locked():
            await self._parallel.acquire()
            return
        try:
            async with asyncio.timeout(self._limits.slot_wait_s):
                await self._parallel.acquire()
        except TimeoutError as error:
            raise OverloadedError(
                "The storage nodes are too slow for what is being written.", limit=self._limits.max_parallel_chunks
            ) from error

    def _on_end(self, write: ChunkWrite, lease: ByteLease) -> None:
        self._parallel.release()
        lease.release()
        self.outcomes.record(write)
        if write.quorum_met.done():
            return
        if write.task is None or write.task.cancelled():
            write.quorum_met.cancel()
        else:
            write.quorum_met.set_exception(InternalError("A defect of ours stopped a chunk; it has been logged."))
            write.quorum_met.exception()

    def _slow_after_s(self) -> float:
        """How long an attempt may take before another node is asked as well."""
        return min(max(SLOW_FLOOR_S, _SLOW_FACTOR * self._latency.p95_s), self._limits.timeout_s / 2)

    async def _fan_out(self, fan_out: _FanOut) -> None:
        try:
            for pause_s in (*_RETRY_PAUSES_S, None):
                await self._one_round(fan_out)
                if fan_out.is_finished or pause_s is None:
                    break
                # Jitter only: many chunks fail together and should not come back together.
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
                fan_out.retry_failed_nodes()
            if not fan_out.write.quorum_met.done():
                fan_out.write.quorum_met.set_exception(fan_out.tally.failure())
                fan_out.write.quorum_met.exception()  # the upload may have gone, and then nobody fetches it
        finally:
            if fan_out.attempts or fan_out.cancelled:
                await abandon([*fan_out.attempts, *fan_out.cancelled])

    async def _one_round(self, fan_out: _FanOut) -> None:
        """Start attempts until all replicas are stored, or no node is left to ask or to wait for."""
        while True:
            self._start_wanted(fan_out)
            if not fan_out.attempts:
                return
            await fan_out.wait_for_event()
            self._check_times(fan_out)

    def _start_wanted(self, fan_out: _FanOut) -> None:
        began_s = time.monotonic()
        while (node := fan_out.next_node()) is not None:
            attempt = asyncio.ensure_future(
                self._nodes.put_chunk(node, fan_out.chunk.digest, fan_out.chunk.data, start_index=fan_out.start_index)
            )
            fan_out.attempts[attempt] = _Attempt(node, began_s, began_s + self._slow_after_s())
            attempt.add_done_callback(partial(self._on_attempt_end, fan_out))

    def _on_attempt_end(self, fan_out: _FanOut, attempt: asyncio.Future[int | None]) -> None:
        started = fan_out.attempts.pop(attempt, None)
        if started is None or attempt.cancelled():
            return
        error = attempt.exception()
        if error is not None and not isinstance(error, TrivetError):
            fan_out.wake(error)
            return
        self._record_end(fan_out, started, attempt)
        if fan_out.tally.is_quorum_met and not fan_out.write.quorum_met.done():
            fan_out.write.quorum_met.set_result(None)
            # The remaining replicas may take as long as a healthy node would.
            fan_out.deadline_s = time.monotonic() + self._slow_after_s()
        if fan_out.has_to_decide:
            fan_out.wake()

    def _record_end(self, fan_out: _FanOut, started: _Attempt, attempt: asyncio.Future[int | None]) -> None:
        node = started.node
        try:
            fence = attempt.result()
        except TrivetError as error:
            self._health.failed(node, error)
            fan_out.tally.record_refusal(node.id, error)
            return
        self._latency.observe(time.monotonic() - started.began_s)
        self._health.answered(node)
        if fence is not None and fence < node.incarnation:
            # It has not heard yet that another disk counts under its name: a publish that counts it is refused.
            fan_out.tally.record_refusal(
                node.id, NodeReplacedError(f"{node.id} acknowledges for a disk that is gone.", node_id=node.id)
            )
            return
        self._confirmations.confirm(node.id, (fan_out.chunk.digest,), fence, started.began_s)
        fan_out.tally.record_stored(node.id, fence)

    def _check_times(self, fan_out: _FanOut) -> None:
        now_s = time.monotonic()
        for attempt in fan_out.attempts.values():
            if not attempt.is_slow and attempt.slow_at_s <= now_s:
                attempt.is_slow = True
                self._health.suspect(attempt.node)
        if fan_out.deadline_s <= now_s:
            self._cancel_attempts(fan_out)

    def _cancel_attempts(self, fan_out: _FanOut) -> None:
        fan_out.is_over = True
        for task, attempt in fan_out.attempts.items():
            task.cancel()
            fan_out.cancelled.append(task)
            fan_out.tally.record_refusal(
                attempt.node.id, PeerUnreachableError("The node was too slow.", peer=attempt.node.id)
            )
            if attempt.is_slow:
                self._health.hung(attempt.node)
        fan_out.attempts.clear()


@dataclass(slots=True)
class _Attempt:
    node: StorageNode
    began_s: float
    slow_at_s: float
    is_slow: bool = False


@dataclass(slots=True)
class _FanOut:
    """One chunk's state while it is written. Times are monotonic seconds.

    `preferred` are the nodes still to ask, in order; `avoided` are those with an open circuit, the last resort.
    """

    write: ChunkWrite
    chunk: FileChunk
    start_index: int
    preferred: deque[StorageNode]
    avoided: deque[StorageNode]
    deadline_s: float
    attempts: dict[asyncio.Future[int | None], _Attempt] = field(default_factory=dict)
    cancelled: list[asyncio.Future[int | None]] = field(default_factory=list)
    asked: dict[str, StorageNode] = field(default_factory=dict)
    is_over: bool = False
    stalls: int = 0
    event: asyncio.Future[None] | None = None

    @property
    def tally(self) -> WriteTally:
        return self.write.tally

    @property
    def is_finished(self) -> bool:
        """Nothing that a further round could improve."""
        return self.is_over or self.tally.is_quorum_met or not self.retryable()

    @property
    def prompt_count(self) -> int:
        """Attempts under way that are not slow."""
        return sum(not attempt.is_slow for attempt in self.attempts.values())

    @property
    def has_to_decide(self) -> bool:
        """All have ended, another is wanted, or the deadline of a slow one has moved."""
        prompt = self.prompt_count
        return prompt < len(self.attempts) or not self.attempts or self.tally.wanted(prompt) > 0

    def next_node(self) -> StorageNode | None:
        """The next node to ask now, if another attempt is wanted."""
        prompt = self.prompt_count
        if self.is_over or self.tally.wanted(prompt) == 0:
            return None
        node: StorageNode | None = None
        if self.preferred:
            node = self.preferred.popleft()
        elif self.avoided and self.tally.is_short(prompt):
            node = self.avoided.popleft()
        if node is not None:
            self.asked[node.id] = node
        return node

    async def wait_for_event(self) -> None:
        """Until an attempt's end asks for a decision, an attempt becomes slow, or the deadline passes."""
        loop = asyncio.get_running_loop()
        self.event = loop.create_future()
        marks = [attempt.slow_at_s for attempt in self.attempts.values() if not attempt.is_slow]
        began_s = time.monotonic()
        due_s = max(began_s, min([*marks, self.deadline_s]))
        timer = loop.call_later(due_s - began_s, self.wake)
        try:
            await self.event
        finally:
            timer.cancel()
        self._leave_out(put_off_s(due_s, time.monotonic(), self.stalls))

    def _leave_out(self, pause_s: float) -> None:
        """The nodes had no chance to be heard for so long."""
        if pause_s > 0:
            self.stalls += 1
            self.deadline_s += pause_s
            for attempt in self.attempts.values():
                attempt.began_s += pause_s
                attempt.slow_at_s += pause_s

    def wake(self, defect: BaseException | None = None) -> None:
        """There is something to decide, or a defect of ours to end with."""
        if self.event is None or self.event.done():
            return
        if defect is None:
            self.event.set_result(None)
        else:
            self.event.set_exception(defect)

    def retryable(self) -> list[StorageNode]:
        """Nodes whose refusal may have been momentary."""
        return [
            self.asked[node_id]
            for node_id, error in self.tally.refusals.items()
            if not isinstance(error, InvalidRequestError | DiskFullError)
        ]

    def retry_failed_nodes(self) -> None:
        """Make the next round over `retryable`."""
        self.preferred.extend(self.retryable())
