"""The commands behind `make run`, `make up`, `make status` and `make down`, as a person meets them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local_cluster.plan import Kind, process_names
from local_cluster.settings import PROJECT_ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

ALL_NAMES = [name for kind in Kind for name in process_names(kind)]


class Commands:
    """Runs the launcher against one folder and one range of ports."""

    def __init__(self, local_dir: Path, offset: int) -> None:
        self.local_dir = local_dir
        self.offset = offset
        self.environment = {
            **os.environ,  # noqa: TID251 - a test of what a shell would start
            "TRIVET_LOCAL_DIR": str(local_dir),
            "TRIVET_PORT_OFFSET": str(offset),
            "TRIVET_NTP_SERVERS": "127.0.0.1:9",
        }

    def start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "local_cluster", command],
            cwd=PROJECT_ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        with self.start(command) as process:
            output, _ = process.communicate(timeout=120)
        print(output)
        return process.returncode, output

    def pids(self) -> dict[str, int]:
        files = {path.stem: path for path in (self.local_dir / "run").glob("*.pid")}
        return {name: int(path.read_text()) for name, path in files.items()}


@pytest.fixture
def commands(tmp_path: Path, free_port_offset) -> Iterator[Commands]:
    commands = Commands(tmp_path / "local", free_port_offset())
    yield commands
    commands.run("down")


def runs(pid: int) -> bool:
    """Whether the process still does something: an orphan that nobody has reaped yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    seen = ""
    while text not in seen:
        line = process.stdout.readline()
        assert line, f"it ended without saying {text!r}:\n{seen}"
        seen += line
    print(seen)
    return seen


def test_run_shows_a_first_file_and_ctrl_c_stops_all_that_it_started_and_nothing_else(commands) -> None:
    """From an empty folder to a receipt in plain words; another terminal can look and repair meanwhile."""
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as foreign,
        commands.start("run") as run,
    ):
        seen = read_until(run, "Ctrl-C stops")
        assert "Stored a first file, default/hello-from-trivet.txt" in seen
        assert "Read it back" in seen
        assert f"http://127.0.0.1:{8080 + commands.offset}/docs" in seen
        started = commands.pids()
        assert sorted(started) == sorted(ALL_NAMES)

        assert commands.run("status")[0] == 0
        os.kill(started["storage-2"], signal.SIGKILL)
        read_until(run, "storage-2 has ended")
        code, table = commands.run("status")
        assert code == 1
        assert "not running" in table

        code, output = commands.run("up")  # a later launcher starts what is missing and proves that all is ready
        assert code == 0
        assert "still there" in output
        after = commands.pids()
        assert {name for name in ALL_NAMES if after[name] != started[name]} == {"storage-2"}

        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=60)
        print(output)
        assert run.returncode == 0
        # A place in the cluster that `run` filled is emptied by it, whoever filled it again since: no orphan stays behind.
        assert [name for name, pid in after.items() if runs(pid)] == []
        assert foreign.poll() is None
        foreign.communicate(b"\n")


def test_a_second_cluster_on_the_same_ports_is_refused_in_one_sentence(cluster, tmp_path) -> None:
    """And what it had started by then is stopped again; the first cluster notices nothing."""
    before = {name: cluster.pid(name) for name in ALL_NAMES}
    code, output = Commands(tmp_path / "second", cluster.port_offset).run("up")
    assert code == 1
    complaint = output.strip().splitlines()[-1]
    assert complaint.startswith("trivet: Port ")
    assert "TRIVET_PORT_OFFSET" in complaint
    assert "Traceback" not in output
    assert {name: cluster.pid(name) for name in ALL_NAMES} == before


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("TRIVET_PORT_OFFSET", "many", "TRIVET_PORT_OFFSET"),
        ("TRIVET_PORT_OFFSET", "-1", "TRIVET_PORT_OFFSET"),
        ("TRIVET_LOCAL_DIR", "/proc/nowhere", "Cannot write to /proc/nowhere"),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path, name, value, complaint) -> None:
    """Not a traceback."""
    commands = Commands(tmp_path, 0)
    commands.environment[name] = value
    code, output = commands.run("up")
    assert code == 1
    assert complaint in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("TRIVET_WRITE_QUORUM", "4", "no write could succeed"),
        ("TRIVET_CLUSTER_ID", "another-cluster", "another"),
    ],
)
def test_a_service_that_refuses_to_start_is_quoted(cluster, tmp_path, name, value, complaint) -> None:
    """The launcher shows the service's own sentence, and leaves the rest as it is."""
    victim = "gateway-1" if name == "TRIVET_WRITE_QUORUM" else "consensus-2"
    cluster.kill(victim)
    log = tmp_path / "log"
    environment = {**os.environ, **cluster.plan.get(victim).environment, name: value}  # noqa: TID251 - as a shell would
    del environment["TRIVET_LOG_FILE"]  # into which it would say so
    with log.open("w") as output:
        process = subprocess.run(
            cluster.plan.get(victim).command, cwd=PROJECT_ROOT, env=environment, stderr=output, timeout=60, check=False
        )
    refusal = [line for line in log.read_text().splitlines() if line.startswith("trivet: refusing to start: ")]
    assert process.returncode == 78
    assert len(refusal) == 1
    assert complaint in refusal[0]
