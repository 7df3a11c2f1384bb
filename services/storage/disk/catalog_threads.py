"""Threads that may block, each with a connection of its own on which it reads the catalog."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from services.storage.disk import catalog
from services.storage.disk.answers import Answer
from services.storage.disk.disk_threads import DiskThreads, HandedOn
from services.storage.write_gate import WriteGate
from shared.errors import UnavailableError

ResultT = TypeVar("ResultT")
Parameters = ParamSpec("Parameters")


class CatalogThreads:
    """Their connections never wait for each other or for the commit thread's (WAL)."""

    def __init__(self, database: Path, gate: WriteGate, count: int, name: str, max_batch: int) -> None:
        self._database = database
        self._gate = gate
        self._threads = DiskThreads(count, name, max_batch)
        self._own = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def open(self) -> None:
        """Start the threads."""
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

    async def hand_on(self, work: Callable[[sqlite3.Connection, Answer[ResultT]], ResultT | HandedOn]) -> ResultT:
        """As `ask`; work that returns `HANDED_ON` has seen to it that another thread gives the answer."""
        return await self._hear(self._threads.hand_on(lambda answer: work(self._connection(), answer)))

    async def _hear(self, answer: Awaitable[ResultT]) -> ResultT:
        try:
            return await answer
        except sqlite3.Error as error:
            # What the records say is not known any more, so nothing may be promised on top of them.
            self._gate.close(f"the catalog cannot be read: {error}")
            raise UnavailableError(f"The catalog cannot be read: {error}.", retry_after_s=60) from error

    def _connection(self) -> sqlite3.Connection:
        sql: sqlite3.Connection | None = getattr(self._own, "sql", None)
        if sql is None:
            sql = self._own.sql = catalog.open_reader(self._database)
            self._connections.append(sql)
        return sql
