"""Sends one chunk to its nodes and says when enough of them have it durably.

Each chunk is one background task with its attempts as children. The caller waits only until the chunk counts; the other
replicas go on inside the same task, with a deadline, and the chunk's bytes stay reserved until the last attempt ends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from services.gateway.ports import ChunkNodes, FileChunk
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
    OverloadedError,
    PeerUnreachableError,
    TrivetError,
)

SLOW_FLOOR_S: Final = 1.0
_SLOW_FACTOR: Final = 4.0
_RETRY_PAUSES_S: Final = (0.1, 0.4)
"""Between rounds over nodes that failed, while the quorum is missed: rides out a restart, and still fails soon."""


@dataclass(frozen=True, slots=True)
class ReplicaWriterLimits:
    """`timeout_s` bounds a chunk's way to its quorum; `max_parallel_chunks` bounds what lies in socket buffers."""

    timeout_s: float
    max_parallel_chunks: int


class ChunkWrite:
    """One chunk on its way. `tally` goes on growing after the quorum is met."""

    __slots__ = ("counted", "tally", "task")

    def __init__(self, tally: WriteTally) -> None:
        self.tally = tally
        self.counted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[object] | None = None

    async def wait_until_counted(self) -> None:
        """Returns when W nodes have the chunk.

        Raises:
            QuorumNotReachedError, DiskFullError: they will not; definite.
        """
        # Shielded: several waiters may share one write, and one that goes must not take it down.
        await asyncio.shield(self.counted)

    def abandon(self) -> None:
        """Nobody wants this chunk any more: stop sending it."""
        if self.task is not None:
            self.task.cancel()


class ReplicaWriter:
    """Shared by all uploads of a gateway."""

    def __init__(
        self, nodes: ChunkNodes, health: NodeHealth, tasks: BackgroundTasks, limits: ReplicaWriterLimits
    ) -> None:
        self._nodes = nodes
        self._health = health
        self._tasks = tasks
        self._limits = limits
        self._latency = RecentLatency(initial_s=0.1)
        self._parallel = asyncio.Semaphore(limits.max_parallel_chunks)

    async def start(
        self, chunk: FileChunk, lease: ByteLease, order: Sequence[StorageNode], quorums: Quorums, start_index: int
    ) -> ChunkWrite:
        """Begin to send `chunk` along `order`; takes over `lease`. Waits while too many chunks are on their way."""
        try:
            await self._parallel.acquire()
        except BaseException:
            lease.release()
            raise
        write = ChunkWrite(WriteTally(target=quorums.replica_count, needed=quorums.write_quorum))
        preferred, avoided = self._health.split_for_write(order)
        run = _Run(
            write, chunk, start_index, deque(preferred), deque(avoided), time.monotonic() + self._limits.timeout_s
        )
        try:
            write.task = self._tasks.start("write chunk", self._carry(run))
        except OverloadedError:
            self._parallel.release()
            lease.release()
            raise
        # A callback and not a `finally` in the task: a task cancelled before its first step runs none of its code.
        write.task.add_done_callback(lambda _: self._ended(write, lease))
        return write

    def _ended(self, write: ChunkWrite, lease: ByteLease) -> None:
        self._parallel.release()
        lease.release()
        if write.counted.done():
            return
        if write.task is None or write.task.cancelled():
            write.counted.cancel()
        else:
            write.counted.set_exception(InternalError("A defect of ours stopped a chunk; it has been logged."))
            write.counted.exception()

    def _slow_after_s(self) -> float:
        """How long an attempt may take before another node is asked as well."""
        return min(max(SLOW_FLOOR_S, _SLOW_FACTOR * self._latency.p95_s), self._limits.timeout_s / 2)

    async def _carry(self, run: _Run) -> None:
        async with asyncio.TaskGroup() as group:
            for pause_s in (*_RETRY_PAUSES_S, None):
                await self._one_round(run, group)
                if run.is_settled or pause_s is None:
                    break
                # Jitter only: many chunks fail together and should not come back together.
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
                run.retry_failed_nodes()
            if not run.write.counted.done():
                run.write.counted.set_exception(run.tally.failure())
                run.write.counted.exception()  # the upload may have gone, and then nobody fetches it

    async def _one_round(self, run: _Run, group: asyncio.TaskGroup) -> None:
        """Ask nodes until all replicas are made, or nothing is left to ask or to wait for."""
        while True:
            self._start_wanted(run, group)
            if not run.attempts:
                return
            await asyncio.wait(
                run.attempts, timeout=run.next_event_in_s(time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            self._take_stock(run)

    def _start_wanted(self, run: _Run, group: asyncio.TaskGroup) -> None:
        slow_after_s = self._slow_after_s()
        while (node := run.next_node()) is not None:
            task = group.create_task(self._attempt(run, node))
            run.attempts[task] = _Attempt(node, time.monotonic() + slow_after_s)

    def _take_stock(self, run: _Run) -> None:
        now_s = time.monotonic()
        for task in [task for task in run.attempts if task.done()]:
            del run.attempts[task]
        for attempt in run.attempts.values():
            if not attempt.is_slow and attempt.slow_at_s <= now_s:
                attempt.is_slow = True
                self._health.suspect(attempt.node)
        if run.tally.is_counted and not run.write.counted.done():
            run.write.counted.set_result(None)
            # From here on the rest is a favour: it may take as long as a healthy node would.
            run.deadline_s = now_s + self._slow_after_s()
        if run.deadline_s <= now_s:
            self._give_up_on_rest(run)

    def _give_up_on_rest(self, run: _Run) -> None:
        run.is_over = True
        for task, attempt in run.attempts.items():
            task.cancel()
            run.tally.refuse(attempt.node.id, PeerUnreachableError("The node was too slow.", peer=attempt.node.id))
            if attempt.is_slow:
                self._health.hung(attempt.node)
        run.attempts.clear()

    async def _attempt(self, run: _Run, node: StorageNode) -> None:
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                await self._nodes.put_chunk(node, run.chunk.digest, run.chunk.data, start_index=run.start_index)
        except TimeoutError:
            self._health.hung(node)
            run.tally.refuse(node.id, PeerUnreachableError(f"{node.id} did not answer in time.", peer=node.id))
        except TrivetError as error:
            self._health.failed(node, error)
            run.tally.refuse(node.id, error)
        else:
            self._latency.observe(time.monotonic() - began_s)
            self._health.answered(node)
            run.tally.accept(node.id)


@dataclass(slots=True)
class _Attempt:
    node: StorageNode
    slow_at_s: float
    is_slow: bool = False


@dataclass(slots=True)
class _Run:
    """One chunk's state while it is carried. Times are monotonic seconds.

    `ready` are the nodes still to ask, in order; `reserve` are those that requests avoid, asked only for need.
    """

    write: ChunkWrite
    chunk: FileChunk
    start_index: int
    ready: deque[StorageNode]
    reserve: deque[StorageNode]
    deadline_s: float
    attempts: dict[asyncio.Task[None], _Attempt] = field(default_factory=dict)
    asked: dict[str, StorageNode] = field(default_factory=dict)
    is_over: bool = False

    @property
    def tally(self) -> WriteTally:
        return self.write.tally

    @property
    def is_settled(self) -> bool:
        """Nothing that a further round could improve."""
        return self.is_over or self.tally.is_counted or not self.retryable()

    def next_node(self) -> StorageNode | None:
        """The next node to ask now, if another attempt is wanted."""
        prompt = sum(not attempt.is_slow for attempt in self.attempts.values())
        if self.is_over or self.tally.wanted(prompt) == 0:
            return None
        node: StorageNode | None = None
        if self.ready:
            node = self.ready.popleft()
        elif self.reserve and self.tally.is_short(prompt):
            node = self.reserve.popleft()
        if node is not None:
            self.asked[node.id] = node
        return node

    def next_event_in_s(self, now_s: float) -> float:
        """Seconds until an attempt becomes slow or the deadline passes."""
        marks = [attempt.slow_at_s for attempt in self.attempts.values() if not attempt.is_slow]
        return max(0.0, min([*marks, self.deadline_s]) - now_s)

    def retryable(self) -> list[StorageNode]:
        """Nodes whose refusal may have been momentary."""
        return [
            self.asked[node_id]
            for node_id, error in self.tally.refusals.items()
            if not isinstance(error, InvalidRequestError | DiskFullError)
        ]

    def retry_failed_nodes(self) -> None:
        """Make the next round over `retryable`."""
        self.ready.extend(self.retryable())
