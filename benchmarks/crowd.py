"""The command behind `make bench-crowd`: what a crowd of bad clients costs the others.

1. Sixty-four uploads at 1.1 KB/s and a hundred readers at 1 KB/s, of another address; whoever is ended comes back at once.
   Beside them one client PUTs and GETs 4 KiB. Wanted: none of its requests is refused, and its p99 is at most three times that
   of an idle gateway.
2. Two hundred and forty clients that GET one file of 8 GiB of zeros, as fast as they can. Wanted: /healthz answers within
   0.5 s, and the gateway stays within 200 MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import uvloop
from rich.console import Console

from benchmarks.cluster.connection import Address, Connection
from benchmarks.cluster.process_groups import read_memory
from benchmarks.cluster.running_cluster import RunningCluster, running_cluster
from benchmarks.cluster.trees import this_tree
from benchmarks.measuring import Run, show
from shared.units import GIB, KIB, MIB

UPLOADS: Final = 64
READERS: Final = 100
GETS: Final = 240
STEP_BYTES: Final = 1126
"""A second, of each slow upload."""
READ_BYTES: Final = KIB

_CROWD_HOST: Final = "127.0.0.2"
"""Another client address than that of everybody else here."""
_ANNOUNCED_BYTES: Final = 64 * MIB
_WARM_UP_S: Final = 5.0
_RETRY_S: Final = 0.2
_MAX_FACTOR: Final = 3.0
_HEALTH_LIMIT_S: Final = 0.5
_RSS_LIMIT_BYTES: Final = 200 * MIB


def main() -> int:
    """Run both parts; 1 when a number was not reached."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.crowd", description="What a crowd of bad clients costs the others."
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--gib", type=int, default=8, help="length of the file of zeros")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    with running_cluster(this_tree()) as cluster:
        is_reached = uvloop.run(_measure(cluster, arguments.seconds, arguments.gib, console))
    return 0 if is_reached else 1


async def _measure(cluster: RunningCluster, duration_s: float, gib: int, console: Console) -> bool:
    address = cluster.address
    console.print("a large file for the readers, and the innocent client alone …")
    await _put_zeros(address, "readers", _ANNOUNCED_BYTES)
    idle, _ = await _innocent(address, duration_s)
    console.print(f"{UPLOADS} slow uploads and {READERS} slow readers …")
    crowd_fates: Counter[str] = Counter()
    async with _crowd(address, crowd_fates):
        await asyncio.sleep(_WARM_UP_S)
        crowded, refused = await _innocent(address, duration_s)
    factors = {call: crowded[call].percentile_ms(99) / idle[call].percentile_ms(99) for call in idle}
    show(
        "Beside a slow crowd (ms)",
        ["call", "idle p50", "idle p99", "crowd p50", "crowd p99", "p99 ratio", "requests", "refused"],
        [
            [
                call,
                *(f"{run.percentile_ms(percent):.2f}" for run in (idle[call], crowded[call]) for percent in (50, 99)),
                f"{factors[call]:.2f}",
                str(crowded[call].operations),
                str(refused[call]),
            ]
            for call in idle
        ],
    )
    console.print(f"what became of the crowd's requests: {dict(crowd_fates)}")
    console.print(f"a file of {gib} GiB of zeros …")
    await _put_zeros(address, "zeros", gib * GIB)
    console.print(f"{GETS} GETs of it …")
    slowest_s, asked, fates = await _gets_of_zeros(address, duration_s)
    peak_bytes = read_memory({"gateway": cluster.pids["gateway-1"]})["gateway"].peak_bytes
    show(
        f"{GETS} GETs of {gib} GiB of zeros",
        ["slowest /healthz, s", "asked", "gateway's peak, MiB", "answers"],
        [[f"{slowest_s:.3f}", str(asked), f"{peak_bytes / MIB:.0f}", str(dict(fates))]],
    )
    return (
        max(factors.values()) <= _MAX_FACTOR
        and not sum(refused.values())
        and slowest_s <= _HEALTH_LIMIT_S
        and peak_bytes <= _RSS_LIMIT_BYTES
    )


# --- the innocent client ---------------------------------------------------------------------------------------------


async def _innocent(address: Address, duration_s: float) -> tuple[dict[str, Run], Counter[str]]:
    """PUT and GET of 4 KiB in turn, by one client on one connection."""
    connection = await Connection.open(address)
    latencies: dict[str, list[float]] = {"PUT": [], "GET": []}
    refused: Counter[str] = Counter()
    began_s = time.perf_counter()
    for number in itertools.count():
        if time.perf_counter() - began_s >= duration_s:
            break
        target = f"/v1/files/default/innocent/{number % 100}"
        for method, found in latencies.items():
            at_s = time.perf_counter()
            answer = await connection.request(method, target, [os.urandom(4 * KIB)] if method == "PUT" else ())
            found.append(time.perf_counter() - at_s)
            refused[method] += answer.status >= 400
    connection.close()
    return {
        method: Run(len(found), time.perf_counter() - began_s, sorted(found)) for method, found in latencies.items()
    }, refused


# --- the crowd -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _crowd(address: Address, fates: Counter[str]) -> AsyncIterator[None]:
    clients: list[Callable[[], Awaitable[str]]] = [
        *[lambda: _upload_slowly(address)] * UPLOADS,
        *[lambda: _read_slowly(address)] * READERS,
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_come_back(client, fates)) for client in clients]
        yield
        for task in tasks:
            task.cancel()


async def _come_back(request: Callable[[], Awaitable[str]], fates: Counter[str]) -> None:
    while True:
        try:
            fates[await request()] += 1
        except OSError:
            fates["cut off"] += 1
        await asyncio.sleep(_RETRY_S)


async def _upload_slowly(address: Address) -> str:
    reader, writer = await _connect(address)
    try:
        name = os.urandom(8).hex()
        writer.write(_head(address, "PUT", f"/v1/files/default/slow/{name}", _ANNOUNCED_BYTES))
        while True:
            writer.write(os.urandom(STEP_BYTES))
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    return _status_of(await reader.readline())
    finally:
        writer.transport.abort()


async def _read_slowly(address: Address) -> str:
    reader, writer = await _connect(address, receive_bytes=4 * KIB)
    try:
        writer.write(_head(address, "GET", "/v1/files/default/readers"))
        status = await reader.readline()
        while not status.startswith(b"HTTP/1.1 503") and await reader.read(READ_BYTES):  # noqa: ASYNC110 - slow on purpose
            await asyncio.sleep(1.0)
        return _status_of(status)
    finally:
        writer.transport.abort()


async def _connect(
    address: Address, receive_bytes: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    found = socket.socket()
    found.setblocking(False)
    if receive_bytes is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    found.bind((_CROWD_HOST, 0))
    await asyncio.get_running_loop().sock_connect(found, (address.host, address.port))
    return await asyncio.open_connection(sock=found, limit=4 * KIB)


def _head(address: Address, method: str, target: str, body_bytes: int | None = None) -> bytes:
    length = "" if body_bytes is None else f"Content-Length: {body_bytes}\r\n"
    key = f"Authorization: {address.authorization}\r\n" if address.authorization else ""
    return f"{method} {target} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n{key}{length}\r\n".encode()


def _status_of(line: bytes) -> str:
    return line.split(b" ")[1].decode() if line.startswith(b"HTTP/") else "cut off"


# --- the file of zeros -----------------------------------------------------------------------------------------------


async def _put_zeros(address: Address, name: str, size_bytes: int) -> None:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(_head(address, "PUT", f"/v1/files/default/{name}", size_bytes))
    zeros = bytes(MIB)
    for _ in range(size_bytes // MIB):
        writer.write(zeros)
        await writer.drain()
    status = _status_of(await reader.readline())
    writer.close()
    if not status.startswith("2"):
        raise ConnectionError(f"PUT of {size_bytes >> 20} MiB of zeros was answered {status}")


async def _gets_of_zeros(address: Address, duration_s: float) -> tuple[float, int, Counter[str]]:
    """The slowest answer of /healthz in seconds, how often it was asked, and what the GETs were answered."""
    fates: Counter[str] = Counter()
    waits_s: list[float] = []
    async with asyncio.TaskGroup() as group:
        crowd = [group.create_task(_get_zeros(address, fates)) for _ in range(GETS)]
        until_s = time.perf_counter() + duration_s
        while (at_s := time.perf_counter()) < until_s:
            connection = await Connection.open(address)
            await connection.request("GET", "/healthz")
            waits_s.append(time.perf_counter() - at_s)
            connection.close()
            await asyncio.sleep(0.1)
        for task in crowd:
            task.cancel()
    return max(waits_s), len(waits_s), fates


async def _get_zeros(address: Address, fates: Counter[str]) -> None:
    while True:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            writer.write(_head(address, "GET", "/v1/files/default/zeros"))
            fates[_status_of(await reader.readline())] += 1
            while await reader.read(MIB):
                pass
        except OSError:
            fates["cut off"] += 1
        finally:
            writer.transport.abort()
        await asyncio.sleep(_RETRY_S)


if __name__ == "__main__":
    sys.exit(main())
