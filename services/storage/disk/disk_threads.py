"""Threads for blocking work that answer many calls in one hop to the loop (S-65, S-80).

A hop to a thread and back costs more than looking up a row. An executor of the standard library makes one per call; here a
thread takes a fair share of all calls that wait.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Final, TypeVar

from services.storage.disk.replies import Delivery, Failure, Reply, deliver
from shared.errors import TrivetError

ResultT = TypeVar("ResultT")


class HandedOn(Enum):
    """What work returns when another thread delivers its reply."""

    TOKEN = 0


HANDED_ON: Final = HandedOn.TOKEN


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[], Any]
    reply: Reply[Any]


class DiskThreads:
    """A fixed number of threads. They may be called from one loop or several."""

    def __init__(self, count: int, name: str, max_batch: int) -> None:
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(count)]
        self._max_batch = max_batch
        self._closing = threading.Lock()
        """Held while something is queued: nothing may come behind the end."""
        self._is_open = False

    def open(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        self._is_open = True

    async def run(self, work: Callable[[], ResultT]) -> ResultT:
        """`work()` in one of the threads. Raises what it raises; RuntimeError after `close`."""
        return await self.hand_on(lambda _: work())

    async def hand_on(self, work: Callable[[Reply[ResultT]], ResultT | HandedOn]) -> ResultT:
        """As `run`; work that returns `HANDED_ON` has passed `reply` to another thread."""
        reply = Reply[ResultT].awaited()
        self._put(_Job(partial(work, reply), reply))
        try:
            return await reply.future
        finally:
            del reply  # an error holds this frame, which must not hold the error

    def close(self) -> None:
        """Finish what was asked, then end the threads. Blocks."""
        with self._closing:
            if not self._is_open:
                return
            self._is_open = False
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _put(self, job: _Job) -> None:
        with self._closing:
            if not self._is_open:
                raise RuntimeError("the threads are not running")
            self._queue.put(job)

    def _run(self) -> None:
        while self._run_one_batch():
            pass

    def _run_one_batch(self) -> bool:
        """In a call of its own, so that nothing holds the bodies of a batch while the next one is waited for."""
        first = self._queue.get()
        if first is None:
            return False
        batch = [first]
        # A fair share: the other threads may be free for the rest.
        share = min(self._max_batch, 1 + self._queue.qsize() // len(self._threads))
        is_last = False
        while len(batch) < share and not is_last:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            is_last = job is None
            if job is not None:
                batch.append(job)
        _do(batch)
        return not is_last


def _do(batch: Sequence[_Job]) -> None:
    found: list[Delivery[Any]] = [(job.reply, _attempt(job.work)) for job in batch if not job.reply.future.cancelled()]
    deliver([delivery for delivery in found if delivery[1] is not HANDED_ON])


def _attempt(work: Callable[[], Any]) -> object:
    try:
        return work()
    except TrivetError as error:
        return Failure(without_frames(error))
    except Exception as error:  # noqa: BLE001 - whatever it was, the caller gets it
        return Failure(error)


def without_frames(error: TrivetError) -> TrivetError:
    """The frames hold the reply, which holds the error: bodies would stay in memory until the next garbage collection."""
    part: BaseException | None = error
    while part is not None:
        part.__traceback__ = None
        part = part.__context__
    return error
