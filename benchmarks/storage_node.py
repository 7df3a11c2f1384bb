"""One storage node with its own Redis, as real processes with the settings of a cluster, for benchmarks."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from local_cluster.lone_consensus import consensus_url
from local_cluster.plan import STORAGE_ALLOCATOR_ENVIRONMENT
from local_cluster.redis_server import find_redis_server
from services.storage.redis_node.server_config import USERNAME, config_lines
from shared.cluster_keys import key_file
from shared.peer_address import PeerAddress
from shared.roles import Role

_START_DEADLINE_S: Final = 60.0
_POLL_S: Final = 0.01
NODE_ID: Final = "storage-1"
CLUSTER_ID: Final = "benchmark"


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A node that answers; `ready_after_s` is the time from its start to its first answer."""

    peer: PeerAddress
    secret: str
    pid: int
    ready_after_s: float

    def peak_rss_bytes(self) -> int:
        """The most memory that the service process ever held (VmHWM)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def cpu_s(self) -> float:
        """CPU that the service process has used."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def running_node(
    folder: Path, mode: str, module: str = "services.storage.main", extra: Mapping[str, str] | None = None
) -> Iterator[RunningNode]:
    """A node in `mode` on `folder`, which may hold what an earlier one left; both processes end with the context.

    Args:
        module: what is started, with the environment of a node.
        extra: environment on top.
    """
    folder.mkdir(parents=True, exist_ok=True)
    secret = secrets.token_hex(32)
    with contextlib.ExitStack() as stack:
        environment = _node_environment(folder, mode, secret) | dict(extra or {})
        if mode != "disk":
            environment |= stack.enter_context(_redis(folder))
        port = int(environment["TRIVET_PORT"])
        began = time.perf_counter()
        command = [sys.executable, "-m", module]
        process = stack.enter_context(_process(command, folder / "node.log", environment))
        _wait(process, port, folder / "node.log")
        peer = PeerAddress(NODE_ID, environment["TRIVET_ADVERTISED_URL"], Role.STORAGE)
        yield RunningNode(peer, secret, process.pid, time.perf_counter() - began)


def _node_environment(folder: Path, mode: str, secret: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIVET_")}  # noqa: TID251 - handed on
    port = _free_port()
    return {
        **inherited,
        **STORAGE_ALLOCATOR_ENVIRONMENT,
        "TRIVET_NODE_ID": NODE_ID,
        "TRIVET_CLUSTER_ID": CLUSTER_ID,
        "TRIVET_PEER_KEYS": key_file(secret, Role.STORAGE),
        "TRIVET_PORT": str(port),
        "TRIVET_DATA_DIR": str(folder / "data"),
        "TRIVET_STORAGE_MODE": mode,
        "TRIVET_ADVERTISED_URL": f"http://127.0.0.1:{port}",
        "TRIVET_CONSENSUS_URLS": consensus_url(secret),
    }


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[dict[str, str]]:
    """This node's Redis, with the settings of `local_cluster.plan`; gives what the node must be told."""
    port, password, data = _free_port(), secrets.token_hex(16), folder / "redis"
    data.mkdir(exist_ok=True)
    options = "\n".join(("bind 127.0.0.1", f"port {port}", f'dir "{data}"', *config_lines(password))) + "\n"
    config = folder / "redis.conf"
    config.write_text(options)
    config.chmod(0o600)
    with _process([str(find_redis_server()), str(config)], folder / "redis.log", None) as process:
        _wait_for_port(process, port, folder / "redis.log")
        yield {
            "TRIVET_REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "TRIVET_REDIS_USERNAME": USERNAME,
            "TRIVET_REDIS_PASSWORD": password,
        }


@contextlib.contextmanager
def _process(command: list[str], log: Path, environment: dict[str, str] | None) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    _wait_for_port(process, port, log)
    # The port opens only after the folder was settled; chunks are taken after the first heartbeat.
    deadline = time.monotonic() + _START_DEADLINE_S
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(urllib.error.HTTPError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=_START_DEADLINE_S) as answer,
        ):
            answer.read()
            return
        time.sleep(_POLL_S)
    raise RuntimeError(f"the node is not ready: see {log}")


def _wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.01)
    raise RuntimeError(f"{process.args!r} does not answer, see {log}: {log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
