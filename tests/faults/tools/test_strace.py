"""strace's injections hit the call that was meant, and no other."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.faults.tools.needs import require
from tests.faults.tools.strace import (
    Attached,
    Injection,
    crash_at,
    most_per_thread,
    read_trace,
    recorder,
    wrapper,
)

FIVE_FILES = """
import os, sys
sys.stdin.read(1)
for number in range(5):
    descriptor = os.open(f"{sys.argv[1]}/{number}", os.O_CREAT | os.O_WRONLY)
    try:
        os.fsync(descriptor)
        print(number, flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


@pytest.fixture(autouse=True)
def _strace_is_there():
    require("strace")


def run(wrapped, folder):
    command = [*wrapped, sys.executable, "-c", FIVE_FILES, str(folder)]
    return subprocess.run(command, input="x", capture_output=True, text=True, check=False, timeout=60)


def test_a_process_is_killed_before_its_nth_fsync(tmp_path):
    """Two files are done, the third is not; the exit status is that of the process and not of strace."""
    ended = run(wrapper(crash_at("fsync", 3), tmp_path / "trace"), tmp_path)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.split() == ["0", "1"]
    assert [call.was_injected for call in read_trace(tmp_path / "trace")] == [False, False, True]


def test_a_process_is_killed_at_a_call_on_a_chosen_path(tmp_path):
    """The first fsync of file 3, whatever came before."""
    ended = run(wrapper(crash_at("fsync", 1, tmp_path / "3"), tmp_path / "trace"), tmp_path)
    assert (ended.returncode, ended.stdout.split()) == (-signal.SIGKILL, ["0", "1", "2"])


def test_an_error_is_returned_once(tmp_path):
    """EIO for the second fsync only."""
    ended = run(wrapper(Injection("fsync", "error=EIO", "2"), tmp_path / "trace"), tmp_path)
    assert ended.stdout.splitlines() == ["0", "Input/output error", "2", "3", "4"]


def test_calls_are_delayed(tmp_path):
    """Five times 100 ms."""
    began = time.monotonic()
    run(wrapper(Injection("fsync", "delay_enter=100000"), tmp_path / "trace"), tmp_path)
    assert time.monotonic() - began > 0.5


def test_a_running_process_gets_errors_while_strace_is_attached(tmp_path):
    """Attached to every thread before the `with` begins."""
    command = [sys.executable, "-c", FIVE_FILES, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with Attached(process.pid, Injection("fsync", "error=ENOSPC", "4+"), tmp_path / "trace"):
        out, _ = process.communicate("x")
    assert out.splitlines() == ["0", "1", "2", "No space left on device", "No space left on device"]


def test_a_trace_tells_calls_and_paths(tmp_path):
    """What the crash tests count and name."""
    run(recorder(tmp_path / "trace"), tmp_path)
    calls = read_trace(tmp_path / "trace")
    assert [(call.name, call.paths) for call in calls] == [("fsync", (str(tmp_path / str(n)),)) for n in range(5)]
    assert most_per_thread(calls, "fsync") == 5
