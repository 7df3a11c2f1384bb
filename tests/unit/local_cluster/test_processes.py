"""`local_cluster.processes`: starts, finds and ends its own processes and never touches another one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local_cluster.errors import LocalClusterError
from local_cluster.layout import Layout
from local_cluster.plan import Kind, ProcessSpec
from local_cluster.processes import START_TIME_TOLERANCE_S, Processes
from shared.telemetry import MAX_LOG_BYTES

SLEEPER = (sys.executable, "-c", "import signal; print('started', flush=True); signal.pause()")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('started', flush=True)\nwhile True: signal.pause()",
)


def spec(command: tuple[str, ...] = SLEEPER, *, ports: tuple[int, ...] = (), **more: object) -> ProcessSpec:
    return ProcessSpec("test-1", Kind.CLOCK, command, "http://127.0.0.1:1", ports, **more)  # type: ignore[arg-type]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.make()
    return layout


@pytest.fixture
def processes(layout: Layout) -> Iterator[Processes]:
    processes = Processes(layout)
    yield processes
    processes.send_signal("test-1", signal.SIGKILL)
    assert processes.wait_until_ended(["test-1"], 10) == []


def wait_for_output(layout: Layout) -> None:
    deadline = time.monotonic() + 20
    while "started" not in layout.log_file("test-1").read_text():
        assert time.monotonic() < deadline


def test_a_started_process_is_found_by_this_launcher_and_by_a_later_one(layout, processes) -> None:
    """What is running is read from the folder; the pid file holds a pid and nothing else."""
    processes.start(spec())
    found = processes.find("test-1")
    assert found is not None
    assert layout.pid_file("test-1").read_text() == f"{found.pid}\n"
    again = Processes(layout).find("test-1")
    assert again is not None
    assert again.pid == found.pid


def test_a_foreign_process_with_the_recorded_id_is_never_found_or_signalled(layout) -> None:
    """After a crash the id may belong to anybody; the start time tells."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as foreign:
        started_at_s = psutil.Process(foreign.pid).create_time()
        for age_s in (START_TIME_TOLERANCE_S, -START_TIME_TOLERANCE_S, 1e6):
            identity = {"pid": foreign.pid, "started_at_s": started_at_s - age_s}
            layout.identity_file("test-1").write_text(json.dumps(identity))
            layout.pid_file("test-1").write_text(f"{foreign.pid}\n")
            processes = Processes(layout)
            assert processes.find("test-1") is None
            assert processes.send_signal("test-1", signal.SIGKILL) is False
        assert foreign.poll() is None
        foreign.communicate(b"\n")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": 1}', '{"pid": 1, "started_at_s": 0, "x": 0}'])
def test_a_damaged_record_means_that_nothing_of_ours_runs(layout, text) -> None:
    """Half-written files are nobody's process."""
    layout.identity_file("test-1").write_text(text)
    layout.pid_file("test-1").write_text("1\n")
    assert Processes(layout).find("test-1") is None


def test_a_process_that_was_killed_is_not_found(layout, processes) -> None:
    """Neither as a zombie of this launcher nor by its stale record."""
    processes.start(spec())
    found = processes.find("test-1")
    assert found is not None
    found.kill()
    deadline = time.monotonic() + 10
    while processes.find("test-1") is not None:
        assert time.monotonic() < deadline
    assert Processes(layout).find("test-1") is None


def test_a_process_that_ignores_sigterm_is_reported_as_still_running(layout, processes) -> None:
    """The caller decides about force."""
    processes.start(spec(STUBBORN))
    wait_for_output(layout)
    processes.send_signal("test-1", signal.SIGTERM)
    assert processes.wait_until_ended(["test-1"], 0.2) == ["test-1"]
    processes.send_signal("test-1", signal.SIGKILL)
    assert processes.wait_until_ended(["test-1"], 10) == []
    assert not layout.pid_file("test-1").exists()


def test_a_signal_to_the_launchers_group_does_not_reach_its_processes(processes) -> None:
    """Ctrl-C at a terminal goes to the whole group; the processes have sessions of their own."""
    processes.start(spec())
    found = processes.find("test-1")
    assert found is not None
    assert os.getsid(found.pid) == found.pid
    assert os.getsid(0) != found.pid


def test_a_taken_port_is_one_clear_sentence_and_nothing_is_started(layout, processes) -> None:
    """It names the port, who needs it, who has it and the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalClusterError) as caught:
            processes.start(spec(ports=(port,)))
    message = str(caught.value)
    assert f"Port {port}, which test-1 needs, is taken" in message
    assert f"(process {psutil.Process().pid})" in message
    assert "TRIVET_PORT_OFFSET" in message
    assert "\n" not in message
    assert processes.find("test-1") is None


def test_a_program_that_cannot_be_started_is_one_clear_sentence(processes) -> None:
    """Not a traceback."""
    with pytest.raises(LocalClusterError, match=r"Cannot start test-1 \(/nowhere: No such file"):
        processes.start(spec(("/nowhere",)))


def test_a_private_configuration_is_readable_by_its_owner_only(layout, processes) -> None:
    """It holds a password; the command line does not."""
    config_file = layout.secrets / "test-1.conf"
    processes.start(spec(config_file=config_file, private_config="requirepass secret\n"))
    assert config_file.read_text() == "requirepass secret\n"
    assert config_file.stat().st_mode & 0o777 == 0o600


def test_a_log_that_has_grown_too_long_is_set_aside_at_a_start(layout, processes) -> None:
    """Otherwise it would grow for ever."""
    layout.log_file("test-1").write_bytes(b"x" * (MAX_LOG_BYTES + 1))
    processes.start(spec())
    wait_for_output(layout)
    assert layout.log_file("test-1").stat().st_size < 100
    assert layout.log_file("test-1").with_name("test-1.log.1").stat().st_size == MAX_LOG_BYTES + 1


def test_the_log_tail_shows_a_refusal_alone(layout, processes) -> None:
    """The one sentence with which a service ends its start, not the lines around it."""
    assert processes.log_tail("test-1") == ""
    layout.log_file("test-1").write_text("noise\ntrivet: refusing to start: no secret\nmore noise\n")
    assert processes.log_tail("test-1") == "trivet: refusing to start: no secret"


def test_a_process_that_was_started_meanwhile_is_neither_waited_for_nor_forgotten(layout, processes) -> None:
    """Another thread has started it and not written down yet who it is; nobody told it to end."""
    processes.start(spec())
    identity, pid_file = layout.identity_file("test-1"), layout.pid_file("test-1")
    written = identity.read_text(), pid_file.read_text()
    identity.unlink()
    pid_file.unlink()
    assert processes.find("test-1") is None
    assert processes.wait_until_ended(["test-1"], 0.1) == []
    identity.write_text(written[0])
    pid_file.write_text(written[1])
    assert processes.find("test-1") is not None
    assert processes.exit_code("test-1") is None
