"""The command behind `make bench-client`: what `trivet` costs against curl and the bare load generator of `make bench`.

Every round runs each pair one right after the other, in turn which is first, so that what else the machine does hits both; a
ratio is of one round, and the table shows the median of the ratios.

1. A file of 256 MiB, digests compared: `put` and `upload_file` against `curl -T`, `open` against `curl -o /dev/null`,
   `download_file` against `curl -o FILE`. Goals: PUT 0.85, GET 0.7.
2. Files of 4 KiB, 16 at a time, by `AsyncClient` against httptools on uvloop. Goal: 0.6.
3. `trivet cp` of 256 MiB and of 4 KiB, each way, as whole processes: against curl, which is one, too. Goals: PUT 0.85, GET 0.7.
4. A list of 100,000 keys by `Client`. Goal: 3 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

import trivet
from benchmarks.cluster.bodies import BodyMaker, numbered, restamp, write_body
from benchmarks.cluster.connection import Address, Connection
from benchmarks.cluster.running_cluster import running_cluster
from benchmarks.cluster.trees import this_tree
from benchmarks.measuring import Run, closed_loop, describe_machine, median_and_spread, show
from shared.units import KIB, MIB

LARGE_BYTES: Final = 256 * MIB
SMALL_BYTES: Final = 4 * KIB
CLIENTS: Final = 16
LISTED: Final = 100_000
SETTLE_S: Final = 0.5
_DURATION_S: Final = 3.0
_PUT_GOAL: Final = 0.85
_GET_GOAL: Final = 0.7
_SMALL_GOAL: Final = 0.6
_LIST_GOAL_S: Final = 3.0
_CP_SMALL_TIMES: Final = 10
"""Copies of a small file in one step: a single one takes no longer than what else a machine does for a moment."""


@dataclass(slots=True)
class Pair:
    """Rates of ours and of what it is compared with, by round. `goal` is of the ratio; None for none."""

    name: str
    unit: str
    goal: float | None
    ours: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Of the same round each."""
        return [mine / other for mine, other in zip(self.ours, self.others, strict=True)]

    @property
    def is_met(self) -> bool:
        """Whether the goal is."""
        return self.goal is None or statistics.median(self.ratios) >= self.goal

    def row(self) -> list[str]:
        """For the table."""
        cpu = median_and_spread(self.cpu_ms) if self.cpu_ms else ""
        goal = "" if self.goal is None else f"{self.goal:g} {'reached' if self.is_met else 'NOT REACHED'}"
        return [
            self.name,
            f"{median_and_spread(self.ours)} {self.unit}",
            f"{median_and_spread(self.others)} {self.unit}",
            median_and_spread(self.ratios),
            cpu,
            goal,
        ]


def main() -> int:
    """Run everything; 1 when a goal is not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="only show that everything works")
    arguments = parser.parse_args()
    rounds, share = (1, 100) if arguments.tiny else (arguments.rounds, 1)
    with running_cluster(this_tree()) as cluster:
        large = _large_files(cluster.address, cluster.local_dir, rounds, LARGE_BYTES // share)
        large += _whole_processes(cluster.address, cluster.local_dir, rounds, LARGE_BYTES // share)
        small = uvloop.run(_small_files(cluster.address, rounds, _DURATION_S / share))
        uvloop.run(_fill(cluster.address, LISTED // share))
        took_s, grown_bytes = _list(cluster.address, LISTED // share)
    pairs = [*large, *small]
    show(
        f"trivet against others, {describe_machine()}",
        ("what", "trivet", "other", "ratio", "client CPU ms per operation", "goal"),
        [pair.row() for pair in pairs],
    )
    Console().print(
        f"A list of {LISTED // share:,} keys: {took_s:.2f} s (goal {_LIST_GOAL_S:g}), memory +{grown_bytes >> 20} MiB"
    )
    return int(not arguments.tiny and not (all(pair.is_met for pair in pairs) and took_s <= _LIST_GOAL_S))


def _client(address: Address) -> trivet.Client:
    return trivet.Client(address.url, address.authorization.removeprefix("Bearer "))


def _async_client(address: Address) -> trivet.AsyncClient:
    return trivet.AsyncClient(address.url, address.authorization.removeprefix("Bearer "))


def _large_files(address: Address, folder: Path, rounds: int, size_bytes: int) -> list[Pair]:
    source, target = folder / "source", folder / "target"
    write_body(source, BodyMaker(size_bytes).make())
    target.write_bytes(b"")

    def read(store: trivet.Client) -> None:
        with store.open("default", "large") as download:
            for _ in download:
                pass

    def stamp() -> None:
        restamp(source)

    def curl_put() -> None:
        _curl(address, ["-T", str(source)])

    def curl_get(path: Path) -> Callable[[], None]:
        return lambda: _curl(address, [], path)

    put, upload = Pair("put 256 MiB", "MiB/s", _PUT_GOAL), Pair("upload_file 256 MiB", "MiB/s", _PUT_GOAL)
    stream, download = Pair("open 256 MiB", "MiB/s", _GET_GOAL), Pair("download_file 256 MiB", "MiB/s", _GET_GOAL)
    with _client(address) as store:
        store.identity()
        for number in range(rounds):
            measure = partial(_measure, operations=size_bytes / MIB, number=number)
            # Each PUT is of bytes that the store has not seen.
            measure(put, lambda: store.put("default", "large", source), curl_put, before=stamp)
            measure(upload, lambda: store.upload_file("default", "large", source), curl_put, before=stamp)
            store.put("default", "large", source)
            measure(stream, lambda: read(store), curl_get(Path("/dev/null")))
            measure(download, lambda: store.download_file("default", "large", target), curl_get(target))
    return [put, upload, stream, download]


def _whole_processes(address: Address, folder: Path, rounds: int, size_bytes: int) -> list[Pair]:
    source, target, small = folder / "source", folder / "target", folder / "small"
    small.write_bytes(bytes(SMALL_BYTES))
    write_body(source, BodyMaker(size_bytes).make())
    program = str(Path(sys.executable).with_name("trivet"))
    environment = {
        "TRIVET_URL": address.url,
        "TRIVET_KEY": address.authorization.removeprefix("Bearer "),
        "XDG_STATE_HOME": str(folder / "state"),
    }

    def cp(*places: object) -> Callable[[], None]:
        command = [program, "cp", "--quiet", *map(str, places)]
        return lambda: _run(command, environment)

    def repeated(step: Callable[[], None]) -> Callable[[], None]:
        def all_of_them() -> None:
            for _ in range(_CP_SMALL_TIMES):
                step()

        return all_of_them

    up, down = Pair("trivet cp FILE 256 MiB", "MiB/s", _PUT_GOAL), Pair("trivet cp KEY 256 MiB", "MiB/s", _GET_GOAL)
    small_up, small_down = Pair("trivet cp FILE 4 KiB", "/s", None), Pair("trivet cp KEY 4 KiB", "/s", None)
    for number in range(rounds):
        measure = partial(_measure, operations=size_bytes / MIB, number=number)
        measure(
            up,
            cp(source, "trivet://default/large"),
            lambda: _curl(address, ["-T", str(source)]),
            before=lambda: restamp(source),
        )
        cp(source, "trivet://default/large")()
        measure(down, cp("trivet://default/large", target), lambda: _curl(address, [], target))
        measure = partial(_measure, operations=_CP_SMALL_TIMES, number=number)
        measure(
            small_up,
            repeated(cp(small, "trivet://default/small")),
            repeated(lambda: _curl(address, ["-T", str(small)], key="small")),
        )
        measure(
            small_down,
            repeated(cp("trivet://default/small", target)),
            repeated(lambda: _curl(address, [], target, key="small")),
        )
    return [up, down, small_up, small_down]


def _run(command: list[str], environment: Mapping[str, str]) -> None:
    subprocess.run(command, env=environment, check=True, timeout=600, stdin=subprocess.DEVNULL)


def _measure(
    pair: Pair,
    ours: Callable[[], object],
    other: Callable[[], object],
    before: Callable[[], None] | None = None,
    *,
    operations: float,
    number: int,
) -> None:
    for step in (ours, other) if number % 2 == 0 else (other, ours):
        if before is not None:
            before()
        time.sleep(SETTLE_S)
        began_s, cpu_s = time.perf_counter(), _cpu_s()
        step()
        rate = operations / (time.perf_counter() - began_s)
        if step is ours:
            pair.ours.append(rate)
            pair.cpu_ms.append((_cpu_s() - cpu_s) * 1000 / operations)
        else:
            pair.others.append(rate)


def _cpu_s() -> float:
    """Of this process, and of those that it started and that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _curl(address: Address, arguments: list[str], target: Path = Path("/dev/null"), key: str = "large") -> None:
    command = ["curl", "--silent", "--show-error", "--fail", "--header", "Expect:", "--config", "-"]
    command += ["--output", str(target), *arguments, f"{address.url}/v1/files/default/{key}"]
    header = f'header = "Authorization: {address.authorization}"\n'
    subprocess.run(command, input=header, text=True, check=True, timeout=600, stdout=subprocess.DEVNULL)


async def _small_files(address: Address, rounds: int, duration_s: float) -> list[Pair]:
    gets = Pair("get 4 KiB x 16", "/s", _SMALL_GOAL)
    puts = Pair("put 4 KiB x 16", "/s", _SMALL_GOAL)
    body = bytes(SMALL_BYTES)
    connections = [await Connection.open(address) for _ in range(CLIENTS)]
    async with _async_client(address) as store:
        for name in range(CLIENTS):
            await store.put("default", f"small/{name}", body)
        for round_number in range(rounds):
            keys = numbered(f"puts/{round_number}")

            async def get(client: int, _number: int) -> None:
                assert len(await store.get("default", f"small/{client}")) == SMALL_BYTES

            async def raw_get(client: int, _number: int) -> None:
                answer = await connections[client].request("GET", f"/v1/files/default/small/{client}")
                assert (answer.status, answer.size_bytes) == (200, SMALL_BYTES)

            async def put(_client: int, _number: int, keys: Iterator[str] = keys) -> None:
                await store.put("default", next(keys), body)

            async def raw_put(client: int, _number: int, keys: Iterator[str] = keys) -> None:
                answer = await connections[client].request("PUT", f"/v1/files/default/{next(keys)}", [body])
                assert answer.status == 201

            for pair, ours, other in ((gets, get, raw_get), (puts, put, raw_put)):
                await _measure_loops(pair, ours, other, duration_s, is_first=round_number % 2 == 0)
    for connection in connections:
        connection.close()
    return [gets, puts]


async def _measure_loops(
    pair: Pair,
    ours: Callable[[int, int], Awaitable[None]],
    other: Callable[[int, int], Awaitable[None]],
    duration_s: float,
    *,
    is_first: bool,
) -> None:
    runs: dict[bool, Run] = {}
    for is_ours in (is_first, not is_first):
        await asyncio.sleep(SETTLE_S)
        runs[is_ours] = await closed_loop(CLIENTS, duration_s, ours if is_ours else other)
    pair.ours.append(runs[True].per_second)
    pair.others.append(runs[False].per_second)
    pair.cpu_ms.append(runs[True].client_cpu_s * 1000 / runs[True].operations)


async def _fill(address: Address, count: int) -> None:
    """A file, and copies of it, which move no bytes."""
    keys = numbered("listed")
    copies = [await Connection.open(address) for _ in range(CLIENTS)]
    async with _async_client(address) as store:
        await store.create_bucket("listed")
        await store.put("listed", "first", b"x")

    async def copy(client: int, _number: int) -> None:
        names = {"source": {"bucket": "listed", "key": "first"}, "target": {"bucket": "listed", "key": next(keys)}}
        answer = await copies[client].request("POST", "/v1/copy", [json.dumps(names).encode()])
        assert answer.status == 201

    await closed_loop(CLIENTS, 3600, copy, at_most=count - 1)
    for connection in copies:
        connection.close()


def _list(address: Address, count: int) -> tuple[float, int]:
    """Seconds, and bytes by which the most memory of this process grew."""
    with _client(address) as store:
        next(iter(store.list("listed")))
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began_s = time.perf_counter()
        assert sum(1 for _ in store.list("listed")) == count
        took_s = time.perf_counter() - began_s
        return took_s, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) * KIB


if __name__ == "__main__":
    sys.exit(main())
