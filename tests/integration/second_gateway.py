"""One more gateway over a cluster, and a way to ask two of them in turn."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from local_cluster.cluster import Cluster
from tests.free_ports import free_port

READY_TIMEOUT_S = 60
REPOSITORY = Path(__file__).parents[2]
EITHER_GATEWAY = "http://either-gateway"
"""Where a client sends what any gateway may answer."""


class EitherGateway(httpx.HTTPTransport):
    """Sends what is meant for `EITHER_GATEWAY` to the gateways in turn, and everything else where it is meant for."""

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__(verify=False)  # no TLS here, and reading the certificates takes longer than most requests
        self._urls = itertools.cycle([httpx.URL(url) for url in urls])

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == httpx.URL(EITHER_GATEWAY).host:
            gateway = next(self._urls)
            request.url = request.url.copy_with(host=gateway.host, port=gateway.port)
            request.headers["host"] = request.url.netloc.decode()
        return super().handle_request(request)


class SecondGateway:
    """A process like gateway-1 but for its name and port, and for what `environment` and `program` say."""

    def __init__(
        self,
        cluster: Cluster,
        log_file: Path,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] | None = None,
    ) -> None:
        spec = cluster.plan.get("gateway-1")
        self.bearer = cluster.bearer
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.address = ("127.0.0.1", port)
        self.operations_port = free_port()
        s3_port = free_port()
        self.s3_url = f"http://127.0.0.1:{s3_port}"
        self._command = [sys.executable, *program] if program else spec.command
        own = {
            "TRIVET_NODE_ID": "gateway-2",
            "TRIVET_PORT": str(port),
            "TRIVET_OPERATIONS_PORT": str(self.operations_port),
            "TRIVET_S3_PORT": str(s3_port),
            "TRIVET_LOG_FILE": str(log_file),
        }
        self._environment = {**spec.environment, **own, **(environment or {})}
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=REPOSITORY, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL; it has ended when this returns."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def wait_until_ready(self) -> None:
        """Returns when it serves."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        with httpx.Client(base_url=self.url, trust_env=False, verify=False) as client:
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
