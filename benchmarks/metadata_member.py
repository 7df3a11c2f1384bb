"""A whole consensus member over tables of a given size: how soon it serves after `kill -9`, and its memory under load.

Used by `benchmarks.metadata` and `benchmarks.audit`; the member is alone in its cluster, so what is measured is its own work and
not an election.
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil

from services.consensus.rescue.new_cluster import make_folder
from shared.cluster_keys import derive_peer_keys, key_file
from shared.consensus_calls.client import ConsensusClient
from shared.contracts.access import BY_SYSTEM, Requester
from shared.contracts.cluster import ConsensusMember
from shared.contracts.metadata import FileAnswer, GetFile, ListFiles, PublishFile
from shared.errors import TrivetError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role
from shared.units import MIB

CLUSTER_ID = "benchmark-member"
HTTP_PORT, PEER_PORT = 18991, 18992
LOAD_FILES = 20_000
READERS = 8


def measure_member(tables: Path, publishes: list[PublishFile]) -> None:
    """Print the figures of a member over a copy of `tables`; `publishes` is the load."""
    with member_folder(tables) as data_dir:
        asyncio.run(_measure(data_dir, publishes))


@contextmanager
def member_folder(tables: Path) -> Iterator[Path]:
    """A folder of a member with a copy of `tables`, beside them; removed at the end."""
    with tempfile.TemporaryDirectory(dir=tables.parent) as folder:
        data_dir = Path(folder) / "consensus-1"
        member = ConsensusMember(
            id="consensus-1", url=f"http://127.0.0.1:{HTTP_PORT}", peer_address=f"127.0.0.1:{PEER_PORT}"
        )
        make_folder(tables, data_dir, cluster_id=CLUSTER_ID, members=(member,), record={})
        yield data_dir


@asynccontextmanager
async def to_member(secret: str) -> AsyncIterator[ConsensusClient]:
    """Asks the member whose cluster secret that is."""
    address = PeerAddress("consensus-1", f"http://127.0.0.1:{HTTP_PORT}", Role.CONSENSUS)
    async with PeerClient(derive_peer_keys(secret, Role.GATEWAY)) as client:
        yield ConsensusClient([address], client, max_waiting=4096)


async def _measure(data_dir: Path, publishes: list[PublishFile]) -> None:
    secret = secrets.token_hex(32)
    async with to_member(secret) as consensus:
        process, first_s = await start_member(data_dir, secret, consensus)
        rate = await publish_all(consensus, publishes, BY_SYSTEM)
        await asyncio.gather(*(_read_all(consensus) for _ in range(READERS)))
        rss_bytes = psutil.Process(process.pid).memory_info().rss
        process.kill()
        process.wait()
        process, again_s = await start_member(data_dir, secret, consensus)
        process.kill()
        process.wait()
    print(
        f"a member alone: serving {first_s:.1f} s after its start, {again_s:.1f} s after kill -9; "
        f"{rate:,.0f} publishes/s; {rss_bytes / MIB:.0f} MiB resident after {len(publishes):,} publishes and "
        f"{READERS * 20:,} pages"
    )


async def start_member(
    data_dir: Path, secret: str, consensus: ConsensusClient
) -> tuple[subprocess.Popen[bytes], float]:
    """Its process, to be ended by the caller, and the seconds until it served."""
    began_at_s = time.perf_counter()
    process = _spawn(data_dir, secret)
    while True:
        try:
            answer, _ = await consensus.read(GetFile(bucket="default", key="none"), deadline_s=1)
        except TrivetError:
            if process.poll() is not None:
                raise
            continue
        assert isinstance(answer, FileAnswer)
        return process, time.perf_counter() - began_at_s


def _spawn(data_dir: Path, secret: str) -> subprocess.Popen[bytes]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "TRIVET_NODE_ID": "consensus-1",
        "TRIVET_CLUSTER_ID": CLUSTER_ID,
        "TRIVET_PEER_KEYS": key_file(secret, Role.CONSENSUS),
        "TRIVET_PORT": str(HTTP_PORT),
        "TRIVET_PEER_PORT": str(PEER_PORT),
        "TRIVET_DATA_DIR": str(data_dir),
        "TRIVET_LOG_LEVEL": "error",
        # Alone, it waits for nobody: what is left is the time that it needs itself.
        "TRIVET_ELECTION_TIMEOUT_MIN_MS": "300",
        "TRIVET_ELECTION_TIMEOUT_MAX_MS": "400",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "services.consensus.main"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


async def publish_all(consensus: ConsensusClient, publishes: list[PublishFile], requester: Requester | None) -> float:
    """As many at a time as a busy gateway has; how many per second."""
    answer, context = await consensus.read(GetFile(bucket="default", key="none"), deadline_s=10)
    assert isinstance(answer, FileAnswer)
    began_at_s = time.perf_counter()
    waiting = asyncio.Semaphore(64)

    async def publish(command: PublishFile) -> None:
        async with waiting:
            fresh = {"incarnation": answer.incarnation, "epoch": context.epoch}
            await consensus.propose(command.model_copy(update=fresh), requester=requester, deadline_s=30)

    await asyncio.gather(*(publish(command) for command in publishes))
    return len(publishes) / (time.perf_counter() - began_at_s)


async def _read_all(consensus: ConsensusClient) -> None:
    for number in range(20):
        await consensus.read(ListFiles(bucket="default", after_key=f"{50 * number:03}"), deadline_s=30)
