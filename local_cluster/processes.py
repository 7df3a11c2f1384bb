"""Starts, finds and ends the processes of a cluster, and never touches one that it did not start (D-31).

A process id alone proves nothing: ids are used again. So the start time is written down beside it, and a process is ours
only while both agree. The command line would prove no more, and programs change theirs (Redis does).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

import psutil

from local_cluster.errors import LocalClusterError
from local_cluster.layout import Layout
from local_cluster.local_secrets import write_private
from local_cluster.plan import HOST, ProcessSpec
from local_cluster.settings import PROJECT_ROOT
from shared.private_process import OWNER_ONLY
from shared.telemetry import MAX_LOG_BYTES

START_TIME_TOLERANCE_S: Final = 2.0
"""psutil derives start times from the wall clock, which may be stepped or slewed while the process runs."""

LOG_TAIL_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class _Identity:
    """What is written down about a started process."""

    pid: int
    started_at_s: float


class Processes:
    """The processes of one cluster's folder."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def find(self, name: str) -> psutil.Process | None:
        """The running process of that name, or None. A foreign process that got the same id is None."""
        child = self._children.get(name)
        if child is not None and child.poll() is not None:
            del self._children[name]
        identity = self._read_identity(name)
        if identity is None:
            return None
        try:
            process = psutil.Process(identity.pid)
            is_ours = (
                abs(process.create_time() - identity.started_at_s) < START_TIME_TOLERANCE_S
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return None
        return process if is_ours else None

    def start(self, spec: ProcessSpec) -> None:
        """Start one process, in a session of its own, and write down who it is.

        Raises:
            LocalClusterError: a port is taken or the program cannot be started.
        """
        for port in spec.ports:
            _check_port_is_free(port, spec.name)
        self._layout.data_dir(spec.name).mkdir(mode=0o700, parents=True, exist_ok=True)
        if spec.config_file is not None:
            write_private(spec.config_file, spec.private_config)
        with _open_log(self._layout.log_file(spec.name)) as log:
            try:
                child = subprocess.Popen(
                    spec.command,
                    cwd=PROJECT_ROOT,
                    # The one place where the launcher's environment is handed on: PATH, locale and the user's TRIVET_ settings.
                    env={**os.environ, **spec.environment},  # noqa: TID251
                    # Redis sets none of its own.
                    umask=OWNER_ONLY,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C at the terminal reaches the launcher only, which then stops things in their order.
                    start_new_session=True,
                )
            except OSError as error:
                raise LocalClusterError(f"Cannot start {spec.name} ({spec.command[0]}: {error.strerror}).") from error
        self._children[spec.name] = child
        self._write_identity(spec.name, child.pid)

    def exit_code(self, name: str) -> int | None:
        """How the process ended, if this launcher started it and it has ended; negative for a signal."""
        child = self._children.get(name)
        return None if child is None else child.poll()

    def log_tail(self, name: str) -> str:
        """The last lines of its log, for an error message."""
        try:
            with self._layout.log_file(name).open("rb") as file:
                file.seek(max(0, self._layout.log_file(name).stat().st_size - LOG_TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        refusals = [line for line in lines if line.startswith("trivet: ")]
        return "\n".join(refusals[-1:] or lines[-5:])

    def send_signal(self, name: str, number: signal.Signals) -> bool:
        """Send a signal; false when no such process of ours runs."""
        process = self.find(name)
        if process is None:
            return False
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            return False
        return True

    def wait_until_ended(self, names: list[str], timeout_s: float) -> list[str]:
        """Wait for processes to end; the names of those that still run after `timeout_s`."""
        running = {name: process for name in names if (process := self.find(name)) is not None}
        _, alive = psutil.wait_procs(list(running.values()), timeout=timeout_s)
        for name in names:
            if name not in running or running[name] not in alive:
                self._forget(name)
        return [name for name, process in running.items() if process in alive]

    def _forget(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None:
            if not _is_ending(child):
                return  # Started meanwhile by another thread, and nobody told it to end: waiting for it would last for ever.
            child.wait()
            del self._children[name]
        self._layout.pid_file(name).unlink(missing_ok=True)
        self._layout.identity_file(name).unlink(missing_ok=True)

    def _write_identity(self, name: str, pid: int) -> None:
        try:
            identity = _Identity(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return  # It has ended already; exit_code tells how.
        write_private(self._layout.identity_file(name), json.dumps(asdict(identity)))
        write_private(self._layout.pid_file(name), f"{pid}\n")

    def _read_identity(self, name: str) -> _Identity | None:
        try:
            identity = _Identity(**json.loads(self._layout.identity_file(name).read_text()))
            pid = int(self._layout.pid_file(name).read_text())
        except (OSError, ValueError, TypeError):
            return None
        return identity if identity.pid == pid else None


def _is_ending(child: subprocess.Popen[bytes]) -> bool:
    """Whether it is dead, or a zombie of which some threads are still on their way out, with its ports."""
    if child.poll() is not None:
        return True
    try:
        return psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _check_port_is_free(port: int, name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections in TIME_WAIT of a cluster that just stopped are no obstacle, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise LocalClusterError(
                f"Port {port}, which {name} needs, is taken{_owner(port)}. Stop that program, or move all ports with "
                f"TRIVET_PORT_OFFSET=1000."
            ) from error


def _owner(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp4"):
            is_listener = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if is_listener and connection.pid is not None:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except (psutil.Error, OSError):
        pass
    return ""


def _open_log(path: Path) -> BinaryIO:
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.rename(path.with_name(f"{path.name}.1"))
    path.touch(0o600)
    path.chmod(0o600)
    return path.open("ab")
