"""One client for each event loop that uses a file system: connections belong to the loop that opened them.

fsspec runs blocking calls on a loop of its own; zarr brings another, and so does a program that awaits. All of them may use one
instance at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable

from trivet import AsyncClient

CLOSE_TIMEOUT_S = 2.0


class ClientsByLoop:
    """Makes a client when a loop first asks, and forgets it with the loop."""

    def __init__(self, make: Callable[[], AsyncClient]) -> None:
        self._make = make
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def current(self) -> AsyncClient:
        """Of the running loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._clients:
                self._clients[loop] = self._make()
            return self._clients[loop]

    async def close_current(self) -> None:
        """Close the one of the running loop; the next call opens another."""
        with self._lock:
            client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    def close(self) -> None:
        """Close all whose loop still runs in another thread; for the end of the file system, or of the program."""
        with self._lock:
            clients = list(self._clients.items())
            self._clients.clear()
        for loop, client in clients:
            if loop.is_running() and loop is not _running_loop():
                with contextlib.suppress(Exception):  # the program ends: nobody is left to be told
                    asyncio.run_coroutine_threadsafe(client.close(), loop).result(CLOSE_TIMEOUT_S)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
