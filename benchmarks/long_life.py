"""`make bench-long-life`: three members that hold a million files: restart, memory, a new member under load, pauses.

Publishing a million files through Raft would take a quarter of an hour and measure something else, so the state machine is
filled on disk, copied to the three members, and their logs are made to begin behind it, as after an installation of a snapshot.
Everything after that is the real thing: processes, HTTP, Raft, fsync.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from rich.progress import track

from benchmarks.consensus import MEMBERS, Publisher
from benchmarks.measuring import Run, describe_machine, show
from benchmarks.metadata import BATCH, publish_files
from local_cluster.cluster import Cluster
from local_cluster.free_ports import free_port_offset
from services.consensus.metadata.store import MetadataStore
from services.consensus.persistence.hard_state import FileHardState
from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.persistence.state_files import FIRST_NAME
from services.consensus.raft.decide import LogPosition
from shared.consensus_calls.client import ConsensusClient
from shared.contracts.cluster import AddMemberRequest, MembersResponse, MemberStatus
from shared.contracts.metadata import FileAnswer, GetFile
from shared.errors import TrivetError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role
from shared.units import MIB

PACE_PER_S: Final = 200
"""Publishes per second while pauses and latencies are measured: a steady load, so that a pause is not hidden by a queue."""
NEW_MEMBER: Final = "consensus-4"
CATCH_UP_LIMIT_S: Final = 300.0


@dataclass
class Measured:
    """Everything that one run found out."""

    restart_s: float
    before: Run
    during: Run
    catch_up_s: float
    rss_mib: dict[str, float]
    disk_mib: float


def fill(folder: Path, file_count: int) -> None:
    """Give three stopped, initialised members the same state of so many files."""
    homes = [folder / "data" / name for name in MEMBERS]
    tables = homes[0] / FIRST_NAME
    store = MetadataStore.open(tables)
    term = max(FileHardState(home).term for home in homes)
    step, chance = max(BATCH, file_count // 100), random.Random(1)
    for goal in track(range(step, file_count + 1, step), description="filling the state machine"):
        publish_files(store, goal, chance, durations_s=[])
    store.checkpoint()
    state = store.summary()
    position = LogPosition(index=state.last_applied, term=state.last_term)
    store.close()
    for home in homes:
        log = SqliteLogStore(home)
        configuration = log.load().configurations[-1]
        log.reset(position, configuration)
        log.close()
        FileHardState(home).update({"term": term})
        if home is not homes[0]:
            for leftover in home.glob(f"{FIRST_NAME}*"):
                leftover.unlink()
            shutil.copyfile(tables, home / FIRST_NAME)


async def steady_load(publisher: Publisher, duration_s: float, stopped: asyncio.Event) -> Run:
    """Publishes at `PACE_PER_S`, each begun at its time whatever became of the others; their latencies."""
    latencies: list[float] = []
    began = time.perf_counter()

    async def one(due_s: float) -> None:
        await publisher.publish()
        latencies.append(time.perf_counter() - due_s)

    async with asyncio.TaskGroup() as group:
        number = 0
        while (now := time.perf_counter()) - began < duration_s and not stopped.is_set():
            due_s = began + number / PACE_PER_S
            if due_s > now:
                await asyncio.sleep(due_s - now)
            group.create_task(one(due_s))
            number += 1
    return Run(len(latencies), time.perf_counter() - began, sorted(latencies))


@asynccontextmanager
async def new_member(cluster: Cluster, folder: Path, port_offset: int) -> AsyncIterator[AddMemberRequest]:
    """A fourth process with an empty folder."""
    port, peer_port = 8204 + port_offset, 8254 + port_offset
    environment = dict(cluster.plan.get(MEMBERS[2]).environment) | {
        "TRIVET_NODE_ID": NEW_MEMBER,
        "TRIVET_PORT": str(port),
        "TRIVET_PEER_PORT": str(peer_port),
        "TRIVET_DATA_DIR": str(folder / NEW_MEMBER),
        "PATH": "/usr/bin:/bin",
    }
    with (folder / f"{NEW_MEMBER}.log").open("wb") as log:
        process = subprocess.Popen(cluster.plan.get(MEMBERS[2]).command, env=environment, stderr=log)  # noqa: ASYNC220 short
    try:
        yield AddMemberRequest(id=NEW_MEMBER, url=f"http://127.0.0.1:{port}", peer_address=f"127.0.0.1:{peer_port}")
    finally:
        process.terminate()
        process.wait()


async def add(client: PeerClient, cluster: Cluster, request: AddMemberRequest) -> None:
    """At whoever leads."""
    while True:
        for name in MEMBERS:
            try:
                await client.call(
                    cluster.peer(name), "POST", "/v1/members", MembersResponse, body=request, timeout_s=10
                )
            except TrivetError:
                continue
            return
        await asyncio.sleep(0.1)


async def wait_until_level(client: PeerClient, request: AddMemberRequest, goal_index: int) -> None:
    """Until the new member has applied `goal_index`."""
    address = PeerAddress(request.id, request.url, Role.CONSENSUS)
    async with asyncio.timeout(CATCH_UP_LIMIT_S):
        while True:
            try:
                status = await client.call(address, "GET", "/v1/status", MemberStatus, timeout_s=2)
                if status.last_applied >= goal_index:
                    return
            except TrivetError:
                pass
            await asyncio.sleep(0.05)


async def first_answer(consensus: ConsensusClient) -> tuple[int, int]:
    """(incarnation of the default bucket, epoch), read linearizably; waits for a leader."""
    answer, context = await consensus.read(GetFile(bucket="default", key="absent"), deadline_s=60)
    if not isinstance(answer, FileAnswer):
        raise SystemExit(f"unexpected answer {answer}")
    return answer.incarnation, context.epoch


async def measure(folder: Path, file_count: int, seconds: float) -> Measured:
    """The whole story of the module's docstring."""
    offset = free_port_offset()
    cluster = Cluster(folder, port_offset=offset)
    await cluster.start(MEMBERS)
    await cluster.stop()
    fill(folder, file_count)
    began = time.perf_counter()
    await cluster.start(MEMBERS)
    try:
        async with PeerClient(cluster.keys) as client, PeerClient(cluster.keys_of(Role.GATEWAY)) as gateway:
            consensus = ConsensusClient([PeerAddress(n, cluster.url(n), Role.CONSENSUS) for n in MEMBERS], gateway)
            publisher = Publisher(consensus, *await first_answer(consensus))
            restart_s = time.perf_counter() - began
            never, done = asyncio.Event(), asyncio.Event()
            await steady_load(publisher, 3, never)
            before = await steady_load(publisher, seconds, never)
            async with new_member(cluster, folder, offset) as request:
                load = asyncio.ensure_future(steady_load(publisher, CATCH_UP_LIMIT_S, done))
                began = time.perf_counter()
                await add(client, cluster, request)
                _, context = await consensus.read(GetFile(bucket="default", key="absent"), deadline_s=60)
                await wait_until_level(client, request, context.log_index)
                catch_up_s = time.perf_counter() - began
                done.set()
                during = await load
                rss_mib = {name: psutil.Process(cluster.pid(name)).memory_info().rss / MIB for name in MEMBERS}
    finally:
        await cluster.stop()
    home = folder / "data" / MEMBERS[0]
    disk_mib = sum(path.stat().st_size for path in home.iterdir()) / MIB
    return Measured(restart_s, before, during, catch_up_s, rss_mib, disk_mib)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of steady load before the new member comes")
    arguments = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory(prefix="trivet-bench-") as folder:
        found = asyncio.run(measure(Path(folder), arguments.files, arguments.seconds))
    show(
        f"Three members with {arguments.files:,} files",
        ("", "figure"),
        [
            ["start of all three to the first linearizable answer, election included", f"{found.restart_s:.1f} s"],
            ["memory of the members", ", ".join(f"{value:.0f}" for value in found.rss_mib.values()) + " MiB"],
            ["disk of a member", f"{found.disk_mib:.0f} MiB"],
            ["a new member: added, snapshot, level with the leader", f"{found.catch_up_s:.1f} s"],
        ],
    )
    show(
        f"Publishes at a steady {PACE_PER_S}/s",
        ("", "publishes", "p50 ms", "p99 ms", "max ms"),
        [
            [name, str(run.operations), *(f"{run.percentile_ms(percent):.1f}" for percent in (50, 99, 100))]
            for name, run in (("alone", found.before), ("while the new member catches up", found.during))
        ],
    )


if __name__ == "__main__":
    main()
