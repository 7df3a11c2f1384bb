"""Threads for what blocks: what waits together may be done together, and its answers reach the loop in one hop.

A hop to a thread and back costs more than looking up a row. An executor of the standard library makes one per call; under
load, here, a thread takes its share of all that waits.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from services.storage.disk.answers import Answer, Failure, Given, give

ResultT = TypeVar("ResultT")

_HANDED_ON: Final = object()


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[], Any]
    answer: Answer[Any]


class DiskThreads:
    """A fixed number of threads. They may be called from one loop or several."""

    def __init__(self, count: int, name: str, max_batch: int) -> None:
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(count)]
        self._max_batch = max_batch
        self._is_open = False

    def open(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        self._is_open = True

    async def run(self, work: Callable[[], ResultT]) -> ResultT:
        """`work()` in one of the threads. Raises what it raises; RuntimeError after `close`."""
        answer = Answer[ResultT].awaited()
        self._put(_Job(work, answer))
        return await answer.future

    async def hand_on(self, work: Callable[[Answer[ResultT]], None]) -> ResultT:
        """`work(answer)` in one of the threads, which sees to it that another thread gives the answer. Raises as `run`."""
        answer = Answer[ResultT].awaited()

        def hand_on() -> object:
            work(answer)
            return _HANDED_ON

        self._put(_Job(hand_on, answer))
        return await answer.future

    def close(self) -> None:
        """Finish what was asked, then end the threads. Blocks."""
        if self._is_open:
            self._is_open = False
            for _ in self._threads:
                self._queue.put(None)
            for thread in self._threads:
                thread.join()

    def _put(self, job: _Job) -> None:
        if not self._is_open:
            raise RuntimeError("the threads are not running")
        self._queue.put(job)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
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
            if is_last:
                return


def _do(batch: Sequence[_Job]) -> None:
    found: list[Given[Any]] = [(job.answer, _attempt(job)) for job in batch]
    give([given for given in found if given[1] is not _HANDED_ON])


def _attempt(job: _Job) -> object:
    if job.answer.future.cancelled():
        return _HANDED_ON  # nobody waits
    try:
        return job.work()
    except Exception as error:  # noqa: BLE001 - whatever it was, the caller must hear of it
        return Failure(error)
