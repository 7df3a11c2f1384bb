"""Clients that ask at a fixed rate, whatever the answers take: half of them read small files, half of them store some.

An open loop, because a closed one asks less while the cluster is slow, and so hides what it wants to see (Tene, "How NOT to
Measure Latency"). A latency counts from the moment at which its request was due.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from benchmarks.cluster.bodies import BodyMaker, numbered
from benchmarks.cluster.connection import Address, Connection
from benchmarks.cluster.errors import BenchmarkError
from benchmarks.measuring import Run, closed_loop
from shared.units import KIB

FILES: Final = "/v1/files/default"
SMALL_BYTES: Final = 4 * KIB
_CLIENTS: Final = 8
_FILLING_CLIENTS: Final = 16
_CLOSED_S: Final = 5.0
_SHARE: Final = 3
"""The open loop asks at one part in so many of what the closed loop reached."""

_MOST_UNDER_WAY: Final = 256
_RETRIES: Final = 8


@dataclass(slots=True)
class Latencies:
    """(due, seconds) of every request that succeeded, and when those that did not were due; monotonic seconds."""

    done: list[tuple[float, float]] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)

    def between(self, *spans: tuple[float, float]) -> Run:
        """Those that were due in one of some spans, which do not overlap."""
        found = sorted(took for due, took in self.done if any(begin_s <= due < end_s for begin_s, end_s in spans))
        return Run(len(found), sum(end_s - begin_s for begin_s, end_s in spans), found)

    def failed_between(self, begin_s: float, end_s: float) -> int:
        """Requests of a span that failed."""
        return sum(begin_s <= due < end_s for due in self.failed)


class Foreground:
    """Small requests to one gateway. `prepare` stores the files that are read, and finds the rate."""

    def __init__(self, address: Address, folder: str, seed: int) -> None:
        self._address = address
        self._chance = random.Random(seed)
        self._maker = BodyMaker(SMALL_BYTES)
        self._keys = numbered(folder)
        self._stored: list[str] = []
        self._idle: list[Connection] = []
        self.per_second = 0.0
        """What the open loop asks."""

    async def prepare(self, count: int = 200) -> None:
        """Store `count` files, then measure how much a closed loop reaches.

        Raises:
            BenchmarkError: a request failed although nothing is broken.
        """
        await put_files(self._address, [next(self._keys) for _ in range(count)], SMALL_BYTES, self._stored)
        connections = [await Connection.open(self._address) for _ in range(_CLIENTS)]

        async def operate(client: int, _number: int) -> None:
            if not await self._ask(connections[client]):
                raise BenchmarkError("A small request failed although nothing is broken.")

        run = await closed_loop(_CLIENTS, _CLOSED_S, operate)
        self._idle += connections
        self.per_second = run.per_second / _SHARE

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Latencies]:
        """Ask in the background while the block runs."""
        latencies = Latencies()
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_for_ever(latencies, stopping, group))
            try:
                yield latencies
            finally:
                stopping.set()

    async def _ask_for_ever(self, latencies: Latencies, stopping: asyncio.Event, group: asyncio.TaskGroup) -> None:
        began = time.perf_counter()
        under_way = asyncio.Semaphore(_MOST_UNDER_WAY)
        for number in itertools.count():
            due = began + number / self.per_second
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            if stopping.is_set():
                return
            await under_way.acquire()
            group.create_task(self._ask_once(latencies, due, under_way))

    async def _ask_once(self, latencies: Latencies, due: float, under_way: asyncio.Semaphore) -> None:
        connection: Connection | None = None
        try:
            connection = self._open_connection() or await Connection.open(self._address)
            if await self._ask(connection):
                latencies.done.append((due, time.perf_counter() - due))
            else:
                latencies.failed.append(due)
        except OSError:
            latencies.failed.append(due)
        finally:
            under_way.release()
            if connection is not None and not connection.is_closed:
                self._idle.append(connection)

    def _open_connection(self) -> Connection | None:
        """One that waits for a request; those that the gateway has closed meanwhile are forgotten."""
        while self._idle:
            if not (connection := self._idle.pop()).is_closed:
                return connection
        return None

    async def _ask(self, connection: Connection) -> bool:
        if self._chance.random() < 0.5:
            key = self._chance.choice(self._stored)
            answer = await connection.request("GET", f"{FILES}/{key}")
            return answer.status == 200 and answer.size_bytes == SMALL_BYTES
        key = next(self._keys)
        answer = await connection.request("PUT", f"{FILES}/{key}", self._maker.make())
        if answer.status != 201:
            return False
        self._stored.append(key)
        return True


async def put_files(address: Address, keys: Sequence[str], size_bytes: int, stored: list[str]) -> None:
    """Store files of one size, as fast as a few clients can; `stored` grows as they are.

    Raises:
        BenchmarkError: one is refused again and again.
    """
    maker = BodyMaker(size_bytes)

    async def put(connection: Connection, key: str) -> int:
        return (await connection.request("PUT", f"{FILES}/{key}", maker.make())).status

    await _for_each(address, keys, put, {200, 201}, stored)


async def delete_files(address: Address, keys: Sequence[str], deleted: list[str]) -> None:
    """Delete files, as fast as a few clients can. Raises BenchmarkError."""

    async def delete(connection: Connection, key: str) -> int:
        return (await connection.request("DELETE", f"{FILES}/{key}")).status

    await _for_each(address, keys, delete, {204, 404}, deleted)


async def _for_each(
    address: Address,
    keys: Sequence[str],
    act: Callable[[Connection, str], Awaitable[int]],
    expected: set[int],
    done: list[str],
) -> None:
    rest = iter(keys)

    async def client() -> None:
        connection = await Connection.open(address)
        for key in rest:
            for attempt in range(_RETRIES):
                status = await act(connection, key)
                if status in expected:
                    break
                await asyncio.sleep(0.1 * 2**attempt)
            else:
                raise BenchmarkError(f"{key} was answered {status} {_RETRIES} times.")
            done.append(key)
        connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(_FILLING_CLIENTS):
            group.create_task(client())
