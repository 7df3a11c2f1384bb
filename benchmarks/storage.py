"""What one storage node does: durable puts, reads, and the three modes side by side on a mixed load.

The floor is a plain loop of write and fdatasync on the same disk, measured between the runs of the node: other work on
the machine then hits both, and the ratio stays true where the absolute figures do not.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvloop
from blake3 import blake3

from benchmarks.chunk_wire import ChunkConnection, make_signer
from benchmarks.measuring import Run, closed_loop, describe_machine, median_and_spread, show
from benchmarks.storage_node import RunningNode, running_node
from shared.peer_calls.request_signing import RequestSigner
from shared.units import KIB, MIB

MODES: Final = ("disk", "redis", "tiered")
SMALL_BYTES: Final = 4 * KIB
LARGE_BYTES: Final = MIB
SMALL_CLIENTS: Final = 16
LARGE_PUT_CLIENTS: Final = 4
LARGE_GET_CLIENTS: Final = 2
_WARM_SMALL: Final = 2000
_WARM_LARGE: Final = 64
_LARGE_IN_REDIS: Final = 200
_SMALL_SHARE: Final = 0.8
_READ_SHARE: Final = 0.5
_ZIPF_EXPONENT: Final = 1.1
_MAX_ATTEMPTS: Final = 100


@dataclass(frozen=True, slots=True)
class Body:
    """A chunk that exists nowhere else: 16 bytes of its own, then a tail that all of its size share."""

    digest: str
    pieces: tuple[bytes, memoryview]


class BodyMaker:
    """Makes bodies that differ; `make` costs one digest, so puts of large ones are prepared before the clock runs."""

    def __init__(self, size_bytes: int) -> None:
        self._tail = memoryview(os.urandom(size_bytes - 16))
        self._numbers = itertools.count(int.from_bytes(os.urandom(8)))

    def make(self) -> Body:
        """One more."""
        head = next(self._numbers).to_bytes(16)
        return Body(blake3(head).update(self._tail).hexdigest(), (head, self._tail))


@dataclass(slots=True)
class Figures:
    """The runs of one mode, by what was measured; `floor_per_second` are the plain loops in between."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    floor_per_second: list[float] = field(default_factory=list)
    node_cpu_ms: dict[str, list[float]] = field(default_factory=dict)
    client_cpu_ms: dict[str, list[float]] = field(default_factory=dict)
    peak_rss_bytes: int = 0

    def add(self, name: str, run: Run, node_cpu_s: float) -> None:
        """Keep one run and the CPU that the node, and all clients together, spent on it."""
        self.runs.setdefault(name, []).append(run)
        for kept, cpu_s in ((self.node_cpu_ms, node_cpu_s), (self.client_cpu_ms, run.client_cpu_s)):
            kept.setdefault(name, []).append(cpu_s * 1000 / max(1, run.operations))

    def median_per_second(self, name: str) -> float:
        """Operations per second, median of the runs."""
        return statistics.median(run.per_second for run in self.runs[name])


class NodeLoad:
    """The loads on one running node. Open connections are shared by all of them."""

    def __init__(self, node: RunningNode, duration_s: float, seed: int, *, is_memory_bound: bool) -> None:
        self._node = node
        self._is_memory_bound = is_memory_bound
        self._duration_s = duration_s
        self._signer: RequestSigner = make_signer(node.secret)
        self._connections: list[ChunkConnection] = []
        self._small, self._large = BodyMaker(SMALL_BYTES), BodyMaker(LARGE_BYTES)
        self._held_small: list[str] = []
        self._held_large: list[str] = []
        self._random = random.Random(seed)
        self._surplus: list[str] = []

    async def open(self) -> None:
        """Connect, and store what the reads will ask for."""
        for _ in range(SMALL_CLIENTS):
            self._connections.append(await ChunkConnection.open(self._node.peer, self._signer))
        await asyncio.gather(*(self._fill(client) for client in range(SMALL_CLIENTS)))

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()

    async def put_small(self) -> Run:
        """4 KiB, durable."""
        stored: list[str] = []

        async def put(client: int) -> None:
            stored.append(await self._put_new_small(client))

        run = await closed_loop(SMALL_CLIENTS, self._duration_s, lambda client, _: put(client))
        if self._is_memory_bound:
            self._surplus += stored
        return run

    async def get_small(self) -> Run:
        """4 KiB that were stored before, uniformly."""
        choose = self._random.choice
        return await closed_loop(
            SMALL_CLIENTS, self._duration_s, lambda client, _: self._get(client, choose(self._held_small), SMALL_BYTES)
        )

    async def put_large(self) -> Run:
        """1 MiB, durable; as many bodies as fit into a run on a fast disk, or into Redis, are prepared before."""
        count = _LARGE_IN_REDIS if self._is_memory_bound else int(1000 * self._duration_s)
        prepared = [self._large.make() for _ in range(count)]
        stored: list[str] = []
        latencies: list[float] = []
        began, cpu_began_s = time.perf_counter(), time.process_time()

        async def client(number: int) -> None:
            while prepared and time.perf_counter() - began < self._duration_s:
                start = time.perf_counter()
                body = prepared.pop()
                await self._put(number, body)
                latencies.append(time.perf_counter() - start)
                stored.append(body.digest)

        await asyncio.gather(*map(client, range(LARGE_PUT_CLIENTS)))
        cpu_s = time.process_time() - cpu_began_s
        self._surplus += stored
        return Run(len(latencies), time.perf_counter() - began, sorted(latencies), cpu_s)

    async def get_large(self) -> Run:
        """1 MiB that were stored before and lie in the page cache."""
        held = self._held_large
        return await closed_loop(
            LARGE_GET_CLIENTS,
            self._duration_s,
            lambda client, number: self._get(client, held[(number * 2 + client) % len(held)], LARGE_BYTES),
        )

    async def mixed(self) -> Run:
        """Puts and zipf reads, half and half; four of five chunks are small."""
        run = await closed_loop(SMALL_CLIENTS, self._duration_s, lambda client, _: self._one_of_the_mix(client))
        self._surplus += self._held_large[:-_WARM_LARGE]
        del self._held_large[:-_WARM_LARGE]
        return run

    async def forget_surplus(self) -> None:
        """Delete what a load stored beyond what the reads ask for: mode `redis` holds no more than its memory."""

        async def delete(connection: ChunkConnection) -> None:
            while self._surplus:
                await connection.call("DELETE", self._surplus.pop())

        await asyncio.gather(*map(delete, self._connections))

    async def _one_of_the_mix(self, client: int) -> None:
        is_small = self._random.random() < _SMALL_SHARE
        if self._random.random() < _READ_SHARE:
            held = self._held_small if is_small else self._held_large
            # The newest are the most popular, as with files that people just stored.
            rank = min(len(held), int(self._random.paretovariate(_ZIPF_EXPONENT - 1)))
            await self._get(client, held[-rank], SMALL_BYTES if is_small else LARGE_BYTES)
        elif is_small:
            self._held_small.append(await self._put_new_small(client))
        else:
            body = self._large.make()
            await self._put(client, body)
            self._held_large.append(body.digest)

    async def _fill(self, client: int) -> None:
        for _ in range(_WARM_SMALL // SMALL_CLIENTS):
            self._held_small.append(await self._put_new_small(client))
        for _ in range(_WARM_LARGE // SMALL_CLIENTS):
            body = self._large.make()
            await self._put(client, body)
            self._held_large.append(body.digest)

    async def _put_new_small(self, client: int) -> str:
        body = self._small.make()
        await self._put(client, body)
        return body.digest

    async def _put(self, client: int, body: Body) -> None:
        for _ in range(_MAX_ATTEMPTS):
            answer = await self._connections[client].call("PUT", body.digest, body.pieces, is_kept=True)
            # 200 when the write-behind stored it on disk before a slow Redis had answered.
            if answer.status in {200, 201}:
                return
            # Mode `redis` refuses while its Redis waits for a busy disk. The wait counts: the call takes that long.
            if answer.status != 503:
                break
        raise RuntimeError(f"a put was answered {answer.status}: {answer.body!r}")

    async def _get(self, client: int, digest: str, size_bytes: int) -> None:
        for _ in range(_MAX_ATTEMPTS):
            answer = await self._connections[client].call("GET", digest)
            if answer.status == 200 and answer.size_bytes == size_bytes:
                return
            if answer.status != 503:  # as above
                break
        raise RuntimeError(f"a get was answered {answer.status} with {answer.size_bytes} bytes")


def measure_floor(folder: Path, duration_s: float) -> float:
    """Files of 1 MiB per second, each written and fdatasynced, one after the other."""
    body = os.urandom(LARGE_BYTES)
    place = Path(tempfile.mkdtemp(dir=folder))
    began = time.perf_counter()
    count = 0
    while time.perf_counter() - began < duration_s:
        fd = os.open(place / str(count), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(fd, body)
        os.fdatasync(fd)
        os.close(fd)
        count += 1
    elapsed_s = time.perf_counter() - began
    shutil.rmtree(place)
    return count / elapsed_s


async def measure_ceiling(folder: Path, runs: int, duration_s: float) -> list[Run]:
    """1 MiB out of the HTTP server's memory, to as many clients as `NodeLoad.get_large` has."""
    with running_node(folder / "ceiling", "disk", "benchmarks.null_source") as node:
        signer = make_signer(node.secret)
        connections = [await ChunkConnection.open(node.peer, signer) for _ in range(LARGE_GET_CLIENTS)]
        found = [
            await closed_loop(
                LARGE_GET_CLIENTS, duration_s, lambda client, _: connections[client].call("GET", "0" * 64)
            )
            for _ in range(runs)
        ]
        for connection in connections:
            connection.close()
    return found


async def measure_mode(folder: Path, mode: str, runs: int, duration_s: float, seed: int) -> Figures:
    """All loads on one node, `runs` times in turn."""
    figures = Figures()
    with running_node(folder / mode, mode) as node:
        load = NodeLoad(node, duration_s, seed, is_memory_bound=mode == "redis")
        await load.open()
        steps: tuple[tuple[str, Callable[[], Coroutine[None, None, Run]]], ...] = (
            ("put 4 KiB", load.put_small),
            ("get 4 KiB", load.get_small),
            ("put 1 MiB", load.put_large),
            ("get 1 MiB", load.get_large),
            ("mixed", load.mixed),
        )
        for _ in range(runs):
            figures.floor_per_second.append(await asyncio.to_thread(measure_floor, folder, duration_s / 2))
            for name, measure in steps:
                before_s = node.cpu_s()
                run = await measure()
                figures.add(name, run, node.cpu_s() - before_s)
                await load.forget_surplus()
        load.close()
        figures.peak_rss_bytes = node.peak_rss_bytes()
    shutil.rmtree(folder / mode)
    return figures


def show_figures(found: dict[str, Figures], ceiling: list[Run]) -> None:
    """One table for the calls, one for the mixed load."""
    rows = []
    for mode, figures in found.items():
        for name, runs in figures.runs.items():
            rows.append(
                [
                    f"{mode}: {name}",
                    median_and_spread([run.per_second for run in runs]),
                    *(median_and_spread([run.percentile_ms(p) for run in runs]).split(" ")[0] for p in (50, 99)),
                    median_and_spread(figures.node_cpu_ms[name]),
                    median_and_spread(figures.client_cpu_ms[name]),
                ]
            )
        floor = statistics.median(figures.floor_per_second)
        ratio = figures.median_per_second("put 1 MiB") / floor
        rows.append([f"{mode}: floor, write + fdatasync of 1 MiB", median_and_spread(figures.floor_per_second)])
        rows.append([f"{mode}: put 1 MiB / floor", f"{ratio:.0%}"])
        rows.append([f"{mode}: peak RSS of the service, MiB", f"{figures.peak_rss_bytes / MIB:.0f}"])
    rows.append(
        ["ceiling: 1 MiB out of the HTTP server's memory", median_and_spread([run.per_second for run in ceiling])]
    )
    columns = ("one node, median (min-max)", "per second", "p50 ms", "p99 ms", "node CPU ms per call", "client CPU ms")
    show("Storage", columns, [row + [""] * (len(columns) - len(row)) for row in rows])


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; default: the temporary one")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(f"{describe_machine()}; seed {arguments.seed}")
    found = {}
    ceiling: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="trivet-bench-", dir=arguments.folder) as folder:
        for mode in arguments.modes:
            work = measure_mode(Path(folder), mode, arguments.runs, arguments.seconds, arguments.seed)
            found[mode] = uvloop.run(work)
            ceiling += uvloop.run(measure_ceiling(Path(folder), arguments.runs, arguments.seconds))
    show_figures(found, ceiling)


if __name__ == "__main__":
    main()
