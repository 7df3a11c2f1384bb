"""An event loop in a thread of its own, in which the calls of `trivet.Client` run."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from trivet.calls import PageT, Rows, RowT
from trivet.errors import TrivetError

ResultT = TypeVar("ResultT")


class BackgroundLoop:
    """The loop and its thread, which is a daemon: a program that ends does not wait for it.

    It ends with this object, too: a client may be dropped without being closed.

    Args:
        at_end: run in the loop when all else in it has ended.
    """

    def __init__(self, at_end: Callable[[], Awaitable[None]] | None = None) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        # Held while something is given to the loop. A garbage collection in between may end an iteration, so it is re-entered.
        self._lock = threading.RLock()
        self._is_closed = False
        self._thread = threading.Thread(target=_serve, args=(self._loop, at_end), name="trivet", daemon=True)
        self._thread.start()
        # At the program's end there is nothing to wait for.
        weakref.finalize(self, _stop, self._loop, self._process).atexit = False

    @property
    def is_open(self) -> bool:
        """It was not closed, and is of this process."""
        return not self._is_closed and os.getpid() == self._process

    def run(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Have the loop run `coroutine`, and wait for its end. An interrupt cancels it.

        Raises:
            TrivetError: the loop was closed, before or meanwhile, or is that of another process, or this is its own thread,
                in which waiting would never end.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise TrivetError(
                "A call was made in the client's own thread, as from on_progress: make it in another one."
            )
        future = self.begin(coroutine)
        if future is None:
            raise TrivetError("This client was closed, or made before a fork: make another one.")
        try:
            return future.result()
        except CancelledError:
            raise TrivetError("The client was closed while this call was under way.") from None
        except BaseException:
            future.cancel()
            raise

    def begin(self, coroutine: Coroutine[Any, Any, ResultT]) -> Future[ResultT] | None:
        """Have the loop run `coroutine`, and do not wait. None, and nothing happens, where the loop is not open."""
        # Asked before, too: after a fork nobody may be there to give the lock back.
        if self.is_open:
            with self._lock:
                if not self._is_closed:
                    return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        return None

    def iterate(self, rows: AsyncIterator[RowT]) -> Iterator[RowT]:
        """What `rows` gives, one at a time. It is ended when the caller ends."""
        try:
            while (row := self.run(_next(rows))) is not None:
                yield row
        finally:
            if isinstance(rows, AsyncGenerator):
                # A garbage collection may come here in any thread, the loop's own among them: no wait.
                self.begin(_ended(rows))

    def rows(self, rows: Rows[PageT, RowT]) -> Iterator[RowT]:
        """All rows of a list: the threads meet once for each page."""
        for page in self.iterate(rows.pages):
            yield from rows.of_page(page)

    def close(self) -> None:
        """Cancel what is under way, and end the loop and its thread.

        Raises:
            TrivetError: this is its own thread.
        """
        if threading.current_thread() is self._thread:
            raise TrivetError("A client cannot be closed in its own thread, as from on_progress.")
        if not self.is_open:
            return
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _stop(loop: asyncio.AbstractEventLoop, process: int) -> None:
    """Have the loop end itself, wherever this runs: a garbage collection may be in its own thread, too, or after a fork."""
    if os.getpid() == process and not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)


def _serve(loop: asyncio.AbstractEventLoop, at_end: Callable[[], Awaitable[None]] | None) -> None:
    """Run the loop until it is stopped, and then everything in it to its end."""
    try:
        loop.run_forever()
        loop.run_until_complete(_end_all(at_end))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


async def _end_all(at_end: Callable[[], Awaitable[None]] | None) -> None:
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    if at_end is not None:
        await at_end()


async def _next(rows: AsyncIterator[RowT]) -> RowT | None:
    return await anext(rows, None)


async def _ended(rows: AsyncGenerator[Any, Any]) -> None:
    await rows.aclose()
