"""`make demo` plays to its end within its minute, and leaves nothing, also when it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from local_cluster.settings import PROJECT_ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(200)]

COMMAND = [sys.executable, "-m", "local_cluster", "demo"]
SECONDS_MAX = 90
"""It says a minute, of a machine that does nothing else."""


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    outer = {name: value for name, value in os.environ.items() if not name.startswith("TRIVET_")}  # noqa: TID251
    return outer | {"TRIVET_NTP_SERVERS": "127.0.0.1:9", "TMPDIR": str(tmp_path), "COLUMNS": "100"}


@pytest.fixture(autouse=True)
def leaves_nothing(tmp_path) -> Iterator[None]:
    """No file in the temporary folder, no process that was started in it."""
    yield
    assert list(tmp_path.iterdir()) == []
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert [command for command in commands if str(tmp_path) in command] == []


def test_the_demo_plays_to_its_end(environment) -> None:
    """A node dies, nobody notices but the cluster, and every byte comes back."""
    done = subprocess.run(
        COMMAND,
        cwd=PROJECT_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0
    steps = (
        "$ trivet sync files",
        "$ trivet cluster status",
        "kill -9 storage-2",
        "suspect",
        "Every chunk has three replicas again",
        "no error and no wrong byte",
        "storage-2 is removed",
        "clean",
        "48 of 48 files, every byte the same.",
    )
    places = [done.stdout.find(step) for step in steps]
    assert places == sorted(places), dict(zip(steps, places, strict=True))
    assert places[0] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(environment, number) -> None:
    """In the midst of its traffic."""
    with subprocess.Popen(
        COMMAND, cwd=PROJECT_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        seen = ""
        while "Then the node is killed" not in seen.replace("\n", " "):
            line = process.stdout.readline()
            assert line, seen
            seen += line
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(60) == 1, seen + rest
        assert "cleared away" in rest
