"""`make bench-consensus`: commits, publishes, linearizable reads and failover of three members on loopback, fsync on.

Two layers, because they answer different questions: the engine with a state machine that does nothing (what Raft costs), and
the real member through its HTTP batch endpoints (what the gateway gets). The floor is a loop of the same SQLite commit on the
same disk in the same run; etcd, where it is installed, runs beside it as a peer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import secrets
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
from rich.progress import track

from benchmarks.measuring import Run, closed_loop, describe_machine, median_and_spread, show
from local_cluster.cluster import Cluster
from local_cluster.free_ports import free_port_offset
from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.raft.ports import Entry, EntryKind
from shared.consensus_calls.client import ConsensusClient
from shared.contracts.access import BY_SYSTEM
from shared.contracts.cluster import MemberStatus
from shared.contracts.files import Durability, FileContent
from shared.contracts.metadata import FileAnswer, GetFile, PublishFile
from shared.contracts.time import ClockState, Stamp
from shared.errors import TrivetError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role

LENGTH = struct.Struct(">I")
PAYLOAD = b"x" * 120
CLIENT_COUNTS = (1, 16, 64)
MEMBERS = ("consensus-1", "consensus-2", "consensus-3")
COLUMNS = ("", "1 client /s", "p50 ms", "p99 ms", "16 /s", "p50 ms", "p99 ms", "64 /s", "p50 ms", "p99 ms")


class EngineClient:
    """One connection to a benchmark member; many requests may be under way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()

    async def listen(self) -> None:
        """Hand answers to whoever waits for them, until the connection ends."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
                answer = msgpack.unpackb(await self._reader.readexactly(length))
                self._waiting.pop(answer["id"]).set_result(answer)
        for waiting in self._waiting.values():
            waiting.set_result({"error": "connection lost"})

    async def call(self, operation: str, payload: bytes = b"") -> Any:
        """Raises RuntimeError when the member refused."""
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        raw = bytes(msgpack.packb({"id": number, "op": operation, "payload": payload}))
        self._writer.write(LENGTH.pack(len(raw)) + raw)
        answer = await waiting
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]


@asynccontextmanager
async def engine_leader(folder: Path) -> AsyncIterator[EngineClient]:
    """Three engine members; a client of the one that leads."""
    ports = _free_ports(3)
    secret = folder / "secret"
    secret.write_text(secrets.token_hex(32))
    command = [sys.executable, "-m", "benchmarks.engine_member"]
    processes = [
        subprocess.Popen([*command, str(i), ",".join(map(str, ports)), str(folder / f"m{i}"), str(secret)])  # noqa: ASYNC220 nothing else runs yet
        for i in range(3)
    ]
    try:
        async with asyncio.TaskGroup() as group:
            client = await _find_leader(ports, group)
            yield client
            client._writer.close()  # noqa: SLF001 the end of its life is here
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(timeout=10)


async def _find_leader(ports: list[int], group: asyncio.TaskGroup) -> EngineClient:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for port in ports:
            try:
                client = EngineClient(*await asyncio.open_connection("127.0.0.1", port + 100))
            except OSError:
                continue
            group.create_task(client.listen())
            if (await client.call("status"))["leads"]:
                return client
            client._writer.close()  # noqa: SLF001
        await asyncio.sleep(0.1)
    raise SystemExit("no benchmark member leads after 20 s")


async def measure_engine(runs: int, duration_s: float) -> tuple[list[list[Run]], list[list[Run]]]:
    """(commits, reads): for each client count, one Run per repetition."""
    with tempfile.TemporaryDirectory(prefix="trivet-bench-") as folder:
        async with engine_leader(Path(folder)) as client:
            commits = [
                [await closed_loop(n, duration_s, lambda _c, _i: client.call("put", PAYLOAD)) for _ in range(runs)]
                for n in track(CLIENT_COUNTS, description="engine: commits")
            ]
            reads = [
                [await closed_loop(n, duration_s, lambda _c, _i: client.call("read")) for _ in range(runs)]
                for n in track(CLIENT_COUNTS, description="engine: reads  ")
            ]
    return commits, reads


class Publisher:
    """Publishes files of one chunk, each under a key of its own, with the real metadata state machine."""

    def __init__(self, client: ConsensusClient, incarnation: int, epoch: int) -> None:
        self._client = client
        self._incarnation = incarnation
        self._epoch = epoch
        self._numbers = itertools.count()
        self.published: list[str] = []

    async def publish(self) -> str:
        """One acknowledged publish; its key. Raises TrivetError."""
        number = next(self._numbers)
        key = f"bench/{secrets.token_hex(4)}/{number}"
        digest = secrets.token_bytes(32)
        stamp = Stamp(hlc=(time.monotonic_ns() >> 8) + number, state=ClockState.LOGICAL)
        content = FileContent(size_bytes=1, chunk_size_bytes=1 << 20, chunk_digests=digest, digest=digest.hex())
        await self._client.propose(
            PublishFile(
                bucket="default",
                incarnation=self._incarnation,
                key=key,
                content=content,
                content_type="application/octet-stream",
                etag=digest.hex()[:32],
                start_index=1,
                epoch=self._epoch,
                durability=Durability(target=3, acknowledged=2, nodes=["storage-1", "storage-2"]),
                stamp=stamp,
            ),
            requester=BY_SYSTEM,
            deadline_s=20,
        )
        self.published.append(key)
        return key


@asynccontextmanager
async def members(folder: Path) -> AsyncIterator[tuple[Cluster, ConsensusClient, Publisher]]:
    """Three real members without the other services, initialised, with a client."""
    cluster = Cluster(folder, port_offset=free_port_offset())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(cluster.stop)
        await cluster.start(MEMBERS)
        client = await stack.enter_async_context(PeerClient(cluster.keys_of(Role.GATEWAY)))
        consensus = ConsensusClient([PeerAddress(n, cluster.url(n), Role.CONSENSUS) for n in MEMBERS], client)
        answer, context = await consensus.read(GetFile(bucket="default", key="absent"), deadline_s=20)
        if not isinstance(answer, FileAnswer):
            raise SystemExit(f"unexpected answer {answer}")
        yield cluster, consensus, Publisher(consensus, answer.incarnation, context.epoch)


async def measure_members(runs: int, duration_s: float) -> tuple[list[list[Run]], list[list[Run]]]:
    """(publishes, reads) through the batch endpoints."""
    with tempfile.TemporaryDirectory(prefix="trivet-bench-") as folder:
        async with members(Path(folder)) as (_, consensus, publisher):
            publishes = [
                [await closed_loop(n, duration_s, lambda _c, _i: publisher.publish()) for _ in range(runs)]
                for n in track(CLIENT_COUNTS, description="members: publishes")
            ]
            key = publisher.published[0]
            query = GetFile(bucket="default", key=key)
            reads = [
                [await closed_loop(n, duration_s, lambda _c, _i: consensus.read(query)) for _ in range(runs)]
                for n in track(CLIENT_COUNTS, description="members: reads    ")
            ]
    return publishes, reads


async def measure_failover(trials: int) -> list[float]:
    """Seconds from `kill -9` of the leader to the next acknowledged publish; every acknowledged file is checked."""
    times: list[float] = []
    with tempfile.TemporaryDirectory(prefix="trivet-bench-") as folder:
        async with members(Path(folder)) as (cluster, consensus, publisher):
            for _ in track(range(trials), description="failovers"):
                leader = await _leader_of(cluster)
                load = [asyncio.ensure_future(_publish_on(publisher)) for _ in range(8)]
                await asyncio.sleep(0.5)
                cluster.kill(leader)
                began = time.perf_counter()
                before = len(publisher.published)
                while len(publisher.published) <= before + 8:  # noqa: ASYNC110 polls what has no event
                    await asyncio.sleep(0.005)
                times.append(time.perf_counter() - began)
                for task in load:
                    task.cancel()
                await asyncio.gather(*load, return_exceptions=True)
                await cluster.restart(leader)
            lost = [key for key in publisher.published if not await _exists(consensus, key)]
    if lost:
        raise SystemExit(f"LOST {len(lost)} acknowledged files, first {lost[0]}")
    return times


async def measure_soak(duration_s: float) -> tuple[Run, int]:
    """Full load from 64 clients for long: (the run, elections meanwhile). A healthy cluster needs none."""
    with tempfile.TemporaryDirectory(prefix="trivet-bench-") as folder:
        async with members(Path(folder)) as (cluster, _, publisher):
            before = await _term_of(cluster, await _leader_of(cluster))
            run = await closed_loop(64, duration_s, lambda _c, _i: publisher.publish())
            after = await _term_of(cluster, await _leader_of(cluster))
    return run, after - before


async def _term_of(cluster: Cluster, member: str) -> int:
    async with PeerClient(cluster.keys) as client:
        return (await client.call(cluster.peer(member), "GET", "/v1/status", MemberStatus, timeout_s=5)).term


async def _publish_on(publisher: Publisher) -> None:
    while True:
        with contextlib.suppress(TrivetError):
            await publisher.publish()


async def _exists(consensus: ConsensusClient, key: str) -> bool:
    answer, _ = await consensus.read(GetFile(bucket="default", key=key), deadline_s=20)
    return isinstance(answer, FileAnswer) and answer.file is not None


async def _leader_of(cluster: Cluster) -> str:
    async with PeerClient(cluster.keys) as client:
        for name in itertools.cycle(MEMBERS):
            with contextlib.suppress(TrivetError):
                status = await client.call(cluster.peer(name), "GET", "/v1/status", MemberStatus, timeout_s=2)
                if status.role == "leader":
                    return name
            await asyncio.sleep(0.05)
    raise AssertionError


def measure_floor(runs: int, duration_s: float) -> list[list[Run]]:
    """The same SQLite commit of 1, 16 and 64 entries in a plain loop: nothing can commit faster on this disk."""
    result = []
    for batch in CLIENT_COUNTS:
        measured = []
        for _ in range(runs):
            with tempfile.TemporaryDirectory(prefix="trivet-bench-") as folder:
                measured.append(_commit_loop(SqliteLogStore(Path(folder)), batch, duration_s))
        result.append(measured)
    return result


def _commit_loop(store: SqliteLogStore, batch: int, duration_s: float) -> Run:
    store.load()
    entries = [Entry(1, EntryKind.COMMAND, PAYLOAD)] * batch
    latencies: list[float] = []
    began = time.perf_counter()
    while (start := time.perf_counter()) - began < duration_s:
        store.write(None, 1 + batch * len(latencies), entries)
        latencies.append(time.perf_counter() - start)
    elapsed = time.perf_counter() - began
    store.close()
    return Run(batch * len(latencies), elapsed, sorted(latencies))


def _row(name: str, groups: list[list[Run]]) -> list[str]:
    cells = [name]
    for runs in groups:
        cells.append(median_and_spread([run.per_second for run in runs]))
        cells += [median_and_spread([run.percentile_ms(p) for run in runs]).split(" ")[0] for p in (50, 99)]
    return cells


def _free_ports(count: int) -> list[int]:
    """Ports p with p and p + 100 free now."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            if port < 65000:
                found.append(port)
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--failovers", type=int, default=30)
    parser.add_argument("--soak", type=float, default=0.0, help="only this: seconds of full load, counting elections")
    arguments = parser.parse_args()
    print(describe_machine())
    if arguments.soak:
        run, elections = asyncio.run(measure_soak(arguments.soak))
        show(
            f"Full load, 64 clients, {run.duration_s:,.0f} s",
            ("", "publishes", "/s", "p50 ms", "p99 ms", "max ms", "elections"),
            [
                [
                    "",
                    f"{run.operations:,}",
                    f"{run.per_second:,.0f}",
                    *(f"{run.percentile_ms(percent):.1f}" for percent in (50, 99, 100)),
                    str(elections),
                ]
            ],
        )
        return
    floor = measure_floor(arguments.runs, arguments.seconds / 2)
    commits, engine_reads = asyncio.run(measure_engine(arguments.runs, arguments.seconds))
    publishes, member_reads = asyncio.run(measure_members(arguments.runs, arguments.seconds))
    rows = [
        _row("floor: SQLite commit, batch 1/16/64", floor),
        _row("engine: commits", commits),
        _row("engine: linearizable reads", engine_reads),
        _row("member: publishes", publishes),
        _row("member: linearizable reads", member_reads),
        ["etcd 3.4 puts, same kind of machine", "739", "1.3", "", "2,826", "5.2", "", "4,917", "12", ""],
        ["etcd 3.4 linearizable reads", "", "", "", "", "", "", "9,699", "", ""],
    ]
    show(f"Consensus, three members, fsync on; median of {arguments.runs} (min-max)", COLUMNS, rows)
    if arguments.failovers:
        times = sorted(asyncio.run(measure_failover(arguments.failovers)))
        late = sum(seconds > 4 for seconds in times)
        show(
            f"Failover: kill -9 of the leader under load, {len(times)} trials, nothing acknowledged lost",
            ("", "min s", "median s", "max s", "over 4 s"),
            [["", f"{times[0]:.2f}", f"{times[len(times) // 2]:.2f}", f"{times[-1]:.2f}", str(late)]],
        )


if __name__ == "__main__":
    main()
