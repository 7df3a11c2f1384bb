"""Threads for short blocking reads: what waits together is done together, and its answers reach the loop in one hop.

A hop to a thread and back costs more than looking up a row. An executor of the standard library makes one per call; under
load, here, a thread takes its share of all that waits.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

ResultT = TypeVar("ResultT")

_MAX_BATCH: Final = 16


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[..., Any]
    args: tuple[object, ...]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class ReaderThreads:
    """A fixed number of threads. `run` may be called from one loop or several."""

    def __init__(self, count: int, name: str) -> None:
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(count)]
        self._is_open = False

    def open(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        self._is_open = True

    async def run(self, work: Callable[..., ResultT], *args: object) -> ResultT:
        """`work(*args)` in one of the threads. Raises what it raises; RuntimeError after `close`."""
        if not self._is_open:
            raise RuntimeError("the reader threads are not running")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ResultT] = loop.create_future()
        self._queue.put(_Job(work, args, loop, future))
        return await future

    def close(self) -> None:
        """Finish what was asked, then end the threads. Blocks."""
        if self._is_open:
            self._is_open = False
            for _ in self._threads:
                self._queue.put(None)
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            # A fair share: the other threads may be free for the rest.
            share = min(_MAX_BATCH, self._queue.qsize() // len(self._threads))
            is_last = False
            while len(batch) <= share and not is_last:
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
                is_last = job is None
                if job is not None:
                    batch.append(job)
            self._answer(batch)
            if is_last:
                return

    def _answer(self, batch: Sequence[_Job]) -> None:
        outcomes = [_attempt(job) for job in batch]
        for loop in {job.loop for job in batch}:
            try:
                loop.call_soon_threadsafe(_resolve, loop, batch, outcomes)
            except RuntimeError:  # the loop is closed: nobody is left to hear it
                continue


def _attempt(job: _Job) -> tuple[Any, BaseException | None]:
    if job.future.cancelled():
        return None, None
    try:
        return job.work(*job.args), None
    except Exception as error:  # noqa: BLE001 - whatever it was, the caller must hear of it
        return None, error


def _resolve(
    loop: asyncio.AbstractEventLoop, batch: Sequence[_Job], outcomes: Sequence[tuple[Any, BaseException | None]]
) -> None:
    for job, (result, error) in zip(batch, outcomes, strict=True):
        if job.loop is not loop or job.future.done():
            continue
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)
