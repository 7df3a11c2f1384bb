"""Sends the requests of a row: a closed loop over connections that stay open, or one file through curl.

Rows that read, list or delete find files of the right size in the `Stock`; what is missing there is put before the
row and not measured.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.cluster.bodies import BodyMaker, numbered, restamp, write_body
from benchmarks.cluster.connection import Answer, Connection
from benchmarks.cluster.doors import Door, TargetOf
from benchmarks.cluster.errors import BenchmarkError
from benchmarks.cluster.rows import LISTED_KEYS, Operation, Row
from benchmarks.measuring import Run, closed_loop
from shared.units import KIB

SETTLE_S: Final = 0.3
"""The rest before each row: a tiered node writes behind, and what it still writes must not count to the next row."""

_GRACE_S: Final = 60.0
"""A row that takes so much longer than it should has hung."""

_LARGE_STOCK: Final = 64
_SMALL_STOCK: Final = 400
_STOCK_CLIENTS: Final = 16


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that was put. `start` are the first bytes of its body."""

    key: str
    start: bytes


@dataclass(slots=True)
class Stock:
    """Files that are in the store, by size; `folder` is a prefix of its own for each round.

    `read_counts`: so many of each size, from the start of the list, were taken by rows that read each file once.
    """

    folder: str
    files: dict[int, list[StoredFile]] = field(default_factory=dict)
    read_counts: dict[int, int] = field(default_factory=dict)

    def of_size(self, size_bytes: int) -> list[StoredFile]:
        """The files of one size; the list is the stock's own."""
        return self.files.setdefault(size_bytes, [])

    def take_unread(self, size_bytes: int) -> StoredFile:
        """The next file of a size that no row that reads once has had; there are enough."""
        count = self.read_counts.get(size_bytes, 0)
        self.read_counts[size_bytes] = count + 1
        return self.files[size_bytes][count]


@dataclass(slots=True)
class Outcome:
    """What a row did. Requests that failed are counted in `run` too; the first one's reason is kept."""

    run: Run
    failed: int = 0
    first_failure: str = ""


class UnexpectedAnswerError(Exception):
    """The answer was not what the row asked for."""


Request = Callable[[Connection, int], Awaitable[None]]


class Workload:
    """Sends rows to one door. `listed_folder` holds `LISTED_KEYS` files once `fill_listed` has been called."""

    def __init__(
        self, door: Door, large_file: Path, listed_keys: int = LISTED_KEYS, settle_s: float = SETTLE_S
    ) -> None:
        self._door = door
        self._large_file = large_file
        self._listed_keys = listed_keys
        self._settle_s = settle_s
        self._listed_folder = "listed"
        self._folders = 0

    async def fill_listed(self, name: str) -> None:
        """Put the files that a list shows."""
        self._listed_folder = f"{name}-{self._door.name}"
        stock = Stock(self._listed_folder)
        await self._fill(stock, 4 * KIB, self._listed_keys)

    async def prepare(self, row: Row, stock: Stock) -> None:
        """Put what the row needs and the stock lacks, and let the cluster settle.

        Raises:
            BenchmarkError: a put failed.
        """
        if row.is_curl:
            await self._prepare_large(row, stock)
        elif row.operation in {Operation.GET, Operation.HEAD, Operation.DELETE}:
            wanted = _LARGE_STOCK if row.size_bytes > 4 * KIB else _SMALL_STOCK
            if row.operation is Operation.DELETE or row.is_read_once:
                wanted = row.at_most
            before = stock.read_counts.get(row.size_bytes, 0) if row.is_read_once else 0
            await self._fill(stock, row.size_bytes, before + min(wanted, row.at_most))
            if row.file_count is not None:
                # Once before the row, so that it finds in a cache whatever a tree caches.
                await self.run(replace(row, at_most=row.file_count), stock)
        await asyncio.sleep(self._settle_s)

    async def run(self, row: Row, stock: Stock) -> Outcome:
        """Send the row's requests.

        Raises:
            BenchmarkError: it hangs.
        """
        if row.is_curl:
            return await asyncio.to_thread(self._curl, row, stock)
        async with self._connections(row.clients) as connections:
            return await self._loop(row, self._requests(row, stock), connections)

    def _requests(self, row: Row, stock: Stock) -> Request:
        match row.operation:
            case Operation.PUT:
                return self._put(stock, row)
            case Operation.GET if row.is_read_once:
                return self._read(row, stock, partial(stock.take_unread, row.size_bytes))
            case Operation.GET | Operation.HEAD:
                return self._read(row, stock, _again(stock.of_size(row.size_bytes)[: row.file_count]))
            case Operation.DELETE:
                return self._delete(row, stock)
            case Operation.LIST:
                return self._list()

    async def _fill(self, stock: Stock, size_bytes: int, count: int) -> None:
        missing = count - len(stock.of_size(size_bytes))
        if missing <= 0:
            return
        row = Row("fill", Operation.PUT, size_bytes, min(_STOCK_CLIENTS, missing), 600, missing)
        outcome = await self.run(row, stock)
        if outcome.failed:
            raise BenchmarkError(f"Files for the rows cannot be put: {outcome.first_failure}")

    def _put(self, stock: Stock, row: Row) -> Request:
        maker, stored = BodyMaker(row.size_bytes), stock.of_size(row.size_bytes)
        self._folders += 1
        folder = f"{stock.folder}/{self._door.name}-{row.size_bytes}-{self._folders}"
        keys = numbered(folder)
        target_of = self._door.targets("PUT", itertools.islice(numbered(folder), row.at_most))

        async def request(connection: Connection, _number: int) -> None:
            key, body = next(keys), maker.make()
            answer = await connection.request("PUT", target_of(key), body)
            _check(answer, {200, 201, 204})
            stored.append(StoredFile(key, bytes(body[0])))

        return request

    def _targets(self, method: str, stored: list[StoredFile]) -> TargetOf:
        return self._door.targets(method, (file.key for file in stored))

    def _read(self, row: Row, stock: Stock, take: Callable[[], StoredFile]) -> Request:
        method = row.operation.value
        target_of = self._targets(method, stock.of_size(row.size_bytes))

        async def request(connection: Connection, _number: int) -> None:
            file = take()
            answer = await connection.request(method, target_of(file.key))
            _check(answer, {200})
            if row.operation is Operation.GET and (answer.size_bytes, answer.start) != (row.size_bytes, file.start):
                raise UnexpectedAnswerError(f"{file.key}: other bytes came back than were put")

        return request

    def _delete(self, row: Row, stock: Stock) -> Request:
        stored = stock.of_size(row.size_bytes)
        target_of = self._targets("DELETE", stored)

        async def request(connection: Connection, _number: int) -> None:
            _check(await connection.request("DELETE", target_of(stored.pop().key)), {200, 204})

        return request

    def _list(self) -> Request:
        target, wanted = self._door.list_target(self._listed_folder + "/", self._listed_keys), self._listed_keys

        async def request(connection: Connection, _number: int) -> None:
            answer = await connection.request("GET", target, is_kept=True)
            _check(answer, {200})
            if (found := answer.body.count(self._door.listed_mark)) != wanted:
                raise UnexpectedAnswerError(f"a list of {wanted} keys has {found}")

        return request

    async def _loop(self, row: Row, request: Request, connections: list[Connection]) -> Outcome:
        outcome = Outcome(Run(0, 0.0, []))

        async def operate(client: int, number: int) -> None:
            try:
                if connections[client].is_closed:
                    connections[client] = await Connection.open(self._door.address)
                await request(connections[client], number)
            except (OSError, UnexpectedAnswerError) as error:
                outcome.failed += 1
                outcome.first_failure = outcome.first_failure or str(error)

        try:
            async with asyncio.timeout(row.duration_s + _GRACE_S):
                outcome.run = await closed_loop(row.clients, row.duration_s, operate, at_most=row.at_most)
        except TimeoutError as error:
            raise BenchmarkError(f"{row.name} hangs: {row.duration_s + _GRACE_S:.0f} s have passed.") from error
        return outcome

    @asynccontextmanager
    async def _connections(self, count: int) -> AsyncIterator[list[Connection]]:
        """Opened before the row, so that it measures requests."""
        connections = [await Connection.open(self._door.address) for _ in range(count)]
        try:
            yield connections
        finally:
            for connection in connections:
                connection.close()

    async def _prepare_large(self, row: Row, stock: Stock) -> None:
        if row.operation is Operation.PUT or not stock.of_size(row.size_bytes):
            if not self._large_file.exists():
                write_body(self._large_file, BodyMaker(row.size_bytes).make())
            restamp(self._large_file)
        if row.operation is Operation.GET and not stock.of_size(row.size_bytes):
            put = Row("fill", Operation.PUT, row.size_bytes, 1, 0, 1, is_curl=True)
            outcome = await self.run(put, stock)
            if outcome.failed:
                raise BenchmarkError(f"A large file cannot be put: {outcome.first_failure}")

    def _curl(self, row: Row, stock: Stock) -> Outcome:
        stored = stock.of_size(row.size_bytes)
        if row.operation is Operation.PUT:
            key, arguments = f"{stock.folder}/{self._door.name}-large", ["-T", str(self._large_file)]
        else:
            key, arguments = stored[-1].key, []
        address, target = self._door.address, self._door.targets(row.operation.value, [key])(key)
        facts = _call_curl([*arguments, address.url + target], address.authorization)
        moved = facts["size_upload"] if row.operation is Operation.PUT else facts["size_download"]
        is_good = facts["http_code"] in {200, 201} and moved == row.size_bytes
        if is_good and row.operation is Operation.PUT:
            stored.append(StoredFile(key, b""))
        run = Run(1, facts["time_total"], [facts["time_total"]])
        return Outcome(run, int(not is_good), "" if is_good else f"curl: {facts}")


def _call_curl(arguments: list[str], authorization: str) -> dict[str, float]:
    """Run curl and give its figures. The key goes over standard input, where no list of processes shows it."""
    command = ["curl", "--silent", "--show-error", "--output", "/dev/null", "--header", "Expect:", "--config", "-"]
    command += ["--write-out", "%{json}", *arguments]
    config = f'header = "Authorization: {authorization}"\n' if authorization else ""
    try:
        done = subprocess.run(command, input=config, capture_output=True, text=True, check=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchmarkError(f"curl failed: {error}") from error
    facts = json.loads(done.stdout)
    return {name: float(facts[name]) for name in ("http_code", "time_total", "size_upload", "size_download")}


def _again(stored: list[StoredFile]) -> Callable[[], StoredFile]:
    """Gives the files again and again, in an order of chance."""
    shuffled = itertools.cycle(random.sample(stored, len(stored)))
    return lambda: next(shuffled)


def _check(answer: Answer, expected: set[int]) -> None:
    if answer.status not in expected:
        raise UnexpectedAnswerError(f"status {answer.status}")
