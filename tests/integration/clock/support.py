"""Real clock service processes, real chronyd processes, and clients for them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from shared.cluster_keys import derive_peer_keys, key_file
from shared.contracts.time import TimeReport
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role
from shared.timekeeping.time_client import TIME_PATH
from tests.free_ports import free_port

SECRET = "clock tests: thirty-two bytes or more"
KEYS = derive_peer_keys(SECRET, Role.GATEWAY)
DEADLINE_S = 20.0
PROJECT_ROOT = Path(__file__).parents[3]


class ClockProcess:
    """One `python -m services.clock.main`."""

    def __init__(self, folder: Path, name: str = "clock-1", prefix: tuple[str, ...] = (), **settings: object) -> None:
        self.name = name
        self.port = free_port()
        self.operations_port = free_port()
        self.peer = PeerAddress(name, f"http://127.0.0.1:{self.port}", Role.CLOCK)
        self._folder = folder
        self._prefix = prefix
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self._folder / f"{self.name}.log").read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers /readyz."""
        self.spawn()
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            assert self._process is not None
            assert self._process.poll() is None, f"the service ended: {self.log}"
            assert time.monotonic() < deadline_s, f"not ready: {self.log}"
            try:
                if self.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start it and do not wait."""
        environment = {
            "TRIVET_NODE_ID": self.name,
            "TRIVET_CLUSTER_ID": "clock-test-cluster",
            "TRIVET_PEER_KEYS": key_file(SECRET, Role.CLOCK),
            "TRIVET_PORT": str(self.port),
            "TRIVET_OPERATIONS_PORT": str(self.operations_port),
            "TRIVET_DATA_DIR": str(self._folder / self.name),
            "TRIVET_HOST_CHRONY": "false",
        }
        changes = {f"TRIVET_{name.upper()}": str(value) for name, value in self._settings.items()}
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "services.clock.main"],
                env={"PATH": os.environ["PATH"], **environment, **changes},  # noqa: TID251 - the test's own environment
                cwd=PROJECT_ROOT,
                stdout=log,
                stderr=log,
            )
        return self._process

    def stop(self, number: signal.Signals = signal.SIGKILL) -> int | None:
        """Send a signal and wait for the end; the exit code."""
        if self._process is None:
            return None
        self._process.send_signal(number)
        return self._process.wait(DEADLINE_S)

    def get(self, path: str) -> httpx.Response:
        """An unsigned request."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5, trust_env=False)

    def operations(self, path: str) -> httpx.Response:
        """A request to the operations listener."""
        return httpx.get(f"http://127.0.0.1:{self.operations_port}{path}", timeout=5, trust_env=False)

    async def report(self, client: PeerClient) -> TimeReport:
        """GET /v1/time, signed."""
        return await client.call(self.peer, "GET", TIME_PATH, TimeReport, timeout_s=5)

    async def wait_for(
        self, client: PeerClient, condition: Callable[[TimeReport], bool], deadline_s: float = DEADLINE_S
    ) -> TimeReport:
        """Ask until the report is as wanted."""
        end_s = time.monotonic() + deadline_s
        while True:
            report = await self.report(client)
            if condition(report):
                return report
            assert time.monotonic() < end_s, f"not in time: {report} {self.log}"
            await asyncio.sleep(0.02)


class Chronyd:
    """Debian's chronyd as an NTP server on a loopback port; it does not touch the host's clock (`-x`).

    With `faketime` (as for faketime(1), e.g. `+2.5s`) it is a true server of a wrong time: a real liar. With `source` it
    is synchronised to that server and answers chronyc on `command_port`.
    """

    def __init__(self, folder: Path, faketime: str | None = None, source: Chronyd | None = None) -> None:
        self.command_port = free_port()
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        name = f"chrony-{self.port}"
        configuration = folder / f"{name}.conf"
        configuration.write_text(
            f"allow 127.0.0.1\nport {self.port}\nbindaddress 127.0.0.1\npidfile {folder / name}.pid\n"
            + (
                "local stratum 1\ncmdport 0\n"
                if source is None
                else f"server 127.0.0.1 port {source.port} iburst minpoll -2 maxpoll 0\n"
                f"cmdport {self.command_port}\nbindcmdaddress 127.0.0.1\ncmdallow 127.0.0.1\nbindcmdaddress /\n"
            )
        )
        command = ["chronyd", "-x", "-d", "-U", "-f", str(configuration)]
        self._log = folder / f"{name}.log"
        environment = dict(os.environ)  # noqa: TID251 - the test's own environment
        if faketime is not None:
            command = ["faketime", "-f", faketime, *command]
            environment["FAKETIME_DONT_FAKE_MONOTONIC"] = "1"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def stop(self) -> None:
        """End chronyd, and faketime around it."""
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(DEADLINE_S)


def need_commands(*names: str) -> None:
    """Skip the test, and say what is not tested, where a command is missing."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        pytest.skip(f"NOT TESTED: {', '.join(missing)} is not installed (Debian: apt-get install chrony faketime)")
