"""An event loop in a thread of its own, in which the calls of `trivet.Client` run."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

from trivet.calls import PageT, Rows, RowT
from trivet.errors import TrivetError

ResultT = TypeVar("ResultT")


class BackgroundLoop:
    """The loop and its thread, which is a daemon: a program that ends does not wait for it."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="trivet", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """It was not closed, and is of this process."""
        return not self._loop.is_closed() and os.getpid() == self._process

    def run(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Have the loop run `coroutine`, and wait for its end. An interrupt cancels it.

        Raises:
            TrivetError: the loop was closed, or is that of another process.
        """
        if not self.is_open:
            coroutine.close()
            raise TrivetError("This client was closed, or made before a fork: make another one.")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, rows: AsyncIterator[RowT]) -> Iterator[RowT]:
        """What `rows` gives, one at a time. It is ended when the caller ends."""
        try:
            while (row := self.run(_next(rows))) is not None:
                yield row
        finally:
            if isinstance(rows, AsyncGenerator):
                self.run(rows.aclose())

    def rows(self, rows: Rows[PageT, RowT]) -> Iterator[RowT]:
        """All rows of a list: the threads meet once for each page."""
        for page in self.iterate(rows.pages):
            yield from rows.of_page(page)

    def close(self) -> None:
        """End the loop and its thread."""
        if not self.is_open:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        # All of it here: the thread that closes may have a loop of its own that runs, as in a notebook.
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()


async def _next(rows: AsyncIterator[RowT]) -> RowT | None:
    return await anext(rows, None)
