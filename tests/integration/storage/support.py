"""Real processes for the storage tests: a Redis server and a storage node, each on a port of the system's choosing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from blake3 import blake3

from local_cluster.lone_consensus import consensus_url
from local_cluster.redis_server import find_redis_server
from services.storage.callers import ROUTE_CALLERS
from services.storage.ports import Chunk
from services.storage.redis_node.server_config import ACL_RULES, LIMITS, USERNAME
from shared.cluster_keys import key_file
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import proved_by_name
from shared.roles import Role
from tests.callers import ClientOfEveryRole
from tests.chance import random_bytes
from tests.free_ports import free_port

ROOT = Path(__file__).parents[3]
SECRET = "storage-test-secret-" + "x" * 20
CLUSTER_ID = "storage-test-cluster"
REDIS_PASSWORD = "redis-test-password"


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Poll `condition` until it holds, or fail naming `what`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        time.sleep(0.02)


async def poll(condition, timeout_s: float = 20) -> None:
    """Until `condition`, a function or a coroutine function, holds."""
    async with asyncio.timeout(timeout_s):
        while True:
            answer = condition()
            if await answer if asyncio.iscoroutine(answer) else answer:
                return
            await asyncio.sleep(0.01)


def digest_of(body: bytes) -> str:
    return blake3(body).hexdigest()


def make_chunk(size_bytes: int = 3000) -> Chunk:
    """One that exists nowhere else; small unless it is said otherwise."""
    body = random_bytes(size_bytes)
    return Chunk(digest_of(body), len(body), (body,))


@dataclass
class RedisServer:
    """A real redis-server with the settings of a node's own Redis."""

    folder: Path
    maxmemory: str = "64mb"
    appendfsync: str = "always"
    port: int = field(default_factory=free_port)
    operations_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "redis.conf"
        # The default user is for the tests; nodes have what they have in a cluster.
        config.write_text(f"user {USERNAME} on {ACL_RULES} >{REDIS_PASSWORD}\n" + "\n".join(LIMITS) + "\n")
        command = [
            str(find_redis_server()),
            str(config),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.folder),
        ]
        command += ["--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", self.appendfsync, "--save", ""]
        command += ["--maxmemory", self.maxmemory, "--maxmemory-policy", "noeviction", "--requirepass", REDIS_PASSWORD]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._answers, "redis starts")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def wipe(self) -> None:
        """As if its volume had been lost."""
        for path in self.folder.glob("appendonly*"):
            shutil.rmtree(path)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n*1\r\n$4\r\nPING\r\n" % _password())
                return b"PONG" in connection.recv(100)
        except OSError:
            return False


def _password() -> tuple[int, bytes]:
    return len(REDIS_PASSWORD), REDIS_PASSWORD.encode()


@dataclass
class StorageProcess:
    """`python -m services.storage.main`, with a data folder of its own."""

    folder: Path
    redis: RedisServer | None = None
    mode: str = "tiered"
    node_id: str = "storage-1"
    extra: dict[str, str] = field(default_factory=dict)
    wrapper: list[str] = field(default_factory=list)
    port: int = field(default_factory=free_port)
    operations_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def peer(self) -> PeerAddress:
        return PeerAddress(self.node_id, f"http://127.0.0.1:{self.port}", Role.STORAGE)

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def environment(self) -> dict[str, str]:
        found = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TRIVET_")},  # noqa: TID251 - handed on
            "TRIVET_NODE_ID": self.node_id,
            "TRIVET_CLUSTER_ID": CLUSTER_ID,
            "TRIVET_PEER_KEYS": key_file(SECRET, Role.STORAGE),
            "TRIVET_PORT": str(self.port),
            "TRIVET_OPERATIONS_PORT": str(self.operations_port),
            "TRIVET_DATA_DIR": str(self.data_dir),
            "TRIVET_STORAGE_MODE": self.mode,
            "TRIVET_ADVERTISED_URL": self.peer.url,
            "TRIVET_CONSENSUS_URLS": consensus_url(SECRET),
            "MALLOC_MMAP_THRESHOLD_": "33554432",
            "MALLOC_TRIM_THRESHOLD_": "134217728",
            "MALLOC_ARENA_MAX": "2",
            "MALLOC_TOP_PAD_": "16777216",
        }
        if self.redis is not None:
            found |= {
                "TRIVET_REDIS_URL": self.redis.url,
                "TRIVET_REDIS_USERNAME": USERNAME,
                "TRIVET_REDIS_PASSWORD": REDIS_PASSWORD,
            }
        return found | self.extra

    def run_to_end(self, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        """For starts that must be refused."""
        environment = {name: value for name, value in self.environment().items() if value}
        command = [sys.executable, "-m", "services.storage.main"]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [*self.wrapper, sys.executable, "-m", "services.storage.main"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment(), stdout=log, stderr=log)
        wait_until(self._answers, f"the node starts, see {self.log}", 30)
        # Before its first heartbeat it acknowledges nothing. A node that cannot describe itself never sends one.
        # A test that ends it at a call of its own choosing may do so here; its next question shows that.
        with contextlib.suppress(AssertionError, httpx.TransportError):
            wait_until(lambda: not any("heartbeat" in reason for reason in self.reasons()), "the node is known", 3)

    @property
    def log(self) -> Path:
        return self.folder / "node.log"

    def kill(self) -> None:
        """SIGKILL: no chance to flush anything."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def reasons(self) -> list[str]:
        """What /readyz complains of."""
        return httpx.get(f"http://127.0.0.1:{self.operations_port}/readyz", timeout=20).json().get("reasons", [])

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the node ended: {self.log.read_text()[-2000:]}"
        try:
            return httpx.get(f"{self.peer.url}/healthz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


class ChunkClient:
    """Signed calls to one storage node, as a gateway makes them."""

    def __init__(self, node: StorageProcess) -> None:
        self.node = node
        self.peers = ClientOfEveryRole(SECRET, ROUTE_CALLERS)

    async def put(self, body: bytes, start_index: int = 0, digest: str | None = None) -> dict[str, object]:
        digest = digest or digest_of(body)
        headers = {"x-trivet-body-digest": digest}
        path = f"/v1/chunks/{digest}?start_index={start_index}"
        answer = await self.peers.request(self.node.peer, "PUT", path, timeout_s=10, content=body, headers=headers)
        return answer.json()

    async def get(self, digest: str, byte_range: str | None = None) -> bytes:
        headers = {} if byte_range is None else {"range": byte_range}
        answer = await self.peers.request(
            self.node.peer,
            "GET",
            f"/v1/chunks/{digest}",
            timeout_s=10,
            headers=headers,
            covered=proved_by_name if byte_range is None else None,
        )
        return bytes(answer.content)

    async def head(self, digest: str) -> httpx.Response:
        return await self.peers.request(self.node.peer, "HEAD", f"/v1/chunks/{digest}", timeout_s=10)

    async def delete(self, digest: str) -> None:
        await self.peers.request(self.node.peer, "DELETE", f"/v1/chunks/{digest}", timeout_s=10)

    async def has(self, digests: list[str], start_index: int | None = None) -> list[str]:
        question = httpx.Request("POST", "http://x/", json={"digests": digests, "start_index": start_index}).content
        headers = {"content-type": "application/json"}
        answer = await self.peers.request(
            self.node.peer, "POST", "/v1/chunks/has", timeout_s=10, content=question, headers=headers
        )
        return answer.json()["present"]

    async def status(self) -> dict[str, object]:
        return await self.ask("/v1/status")

    async def ask(self, path: str) -> dict[str, object]:
        """A GET that is answered in JSON."""
        return (await self.peers.request(self.node.peer, "GET", path, timeout_s=10)).json()

    async def metric(self, name: str) -> float:
        """Sum over all labels."""
        url = f"http://127.0.0.1:{self.node.operations_port}/metrics"
        text = (await asyncio.to_thread(httpx.get, url, timeout=10)).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))
