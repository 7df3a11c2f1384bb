"""Threads that may block, each with a connection of its own on which it reads the catalog."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from services.storage.disk import catalog
from services.storage.disk.disk_errors import error_from_read
from services.storage.disk.disk_threads import DiskThreads, HandedOn
from services.storage.disk.replies import Reply
from services.storage.disk.write_gate import WriteGate

ResultT = TypeVar("ResultT")
Parameters = ParamSpec("Parameters")


class CatalogThreads:
    """Their connections never wait for each other or for the commit thread's (WAL)."""

    def __init__(self, database: Path, gate: WriteGate, count: int, name: str, max_batch: int) -> None:
        self._database = database
        self._gate = gate
        self._count = count
        self._threads = DiskThreads(count, name, max_batch)
        self._own = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._free: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()

    async def open(self) -> None:
        """Connect and start the threads. Later no file has to be opened, which may fail when descriptors are short."""
        await asyncio.to_thread(self._connect)
        self._threads.open()

    def close(self) -> None:
        """Finish what was asked, and close every connection. Blocks."""
        self._threads.close()
        for sql in self._connections:
            sql.close()
        self._connections.clear()

    async def ask(
        self,
        question: Callable[Concatenate[sqlite3.Connection, Parameters], ResultT],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> ResultT:
        """`question(connection, *args)`, which may block.

        Raises:
            UnavailableError: the catalog cannot be read; the node stops acknowledging.
            Exception: what the question raises otherwise.
        """
        return await self._hear(self._threads.run(lambda: question(self._connection(), *args, **kwargs)))

    async def hand_on(self, work: Callable[[sqlite3.Connection, Reply[ResultT]], ResultT | HandedOn]) -> ResultT:
        """As `ask`; work that returns `HANDED_ON` has passed the reply to another thread."""
        return await self._hear(self._threads.hand_on(lambda reply: work(self._connection(), reply)))

    async def _hear(self, reply: Awaitable[ResultT]) -> ResultT:
        try:
            return await reply
        except sqlite3.Error as error:
            raise error_from_read(error, self._gate) from error

    def _connect(self) -> None:
        for _ in range(self._count):
            sql = catalog.open_reader(self._database)
            self._connections.append(sql)
            self._free.put(sql)

    def _connection(self) -> sqlite3.Connection:
        sql: sqlite3.Connection | None = getattr(self._own, "sql", None)
        if sql is None:
            sql = self._own.sql = self._free.get_nowait()
        return sql
