"""One more gateway over the shared cluster, which a test may kill."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from local_cluster.cluster import Cluster

READY_TIMEOUT_S = 60
REPOSITORY = Path(__file__).parents[3]


class SecondGateway:
    """A process like gateway-1 but for its name and port."""

    def __init__(self, cluster: Cluster, log_file: Path) -> None:
        spec = cluster.plan.get("gateway-1")
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.address = ("127.0.0.1", port)
        self._command = spec.command
        self._environment = {**spec.environment, "TRIVET_NODE_ID": "gateway-2", "TRIVET_PORT": str(port)}
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=REPOSITORY, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL; it has ended when this returns."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        with httpx.Client(base_url=self.url, trust_env=False) as client:
            while time.monotonic() < deadline:
                try:
                    if client.get("/readyz").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                assert self._process is not None
                try:
                    code = self._process.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
                raise AssertionError(f"the gateway ended with {code}: {self._log_file.read_text()[-2000:]}")
        raise AssertionError(f"not ready: {self._log_file.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
