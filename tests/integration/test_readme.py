"""The first lines of README.md, copied as they stand: from nothing to a file that outlives a node."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from local_cluster.settings import PROJECT_ROOT
from tests.chance import random_bytes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PAGE = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS, LINES, VERSIONS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[:3]
KILL = re.compile(r"# out, also after: (kill .*)$", re.MULTILINE)
"""What a comment invites to: the line that it stands behind is tried after it, too."""
(PROGRAM,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
REPOSITORY = "<this repository>"


def shell(text: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run lines as a person types them; the only change are the ports. Gives what they print."""
    offset = int(environment["TRIVET_PORT_OFFSET"])
    moved = re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda port: str(int(port[0]) + offset), text)
    command = ["bash", "-euxo", "pipefail", "-c", moved]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def try_the_lines(folder: Path, environment: Mapping[str, str]) -> None:
    """Those of the command line, the last again after a node was killed, then the program, in one shell."""
    (kill,), last = KILL.findall(LINES), LINES.splitlines()[-1]
    again = f"rm copy.jpg\n{kill}\n{last}\n{VERSIONS}trivet cp photos/photo.jpg restored.jpg"
    printed = shell(f"{LINES}\n{again}\npython - <<'END'\n{PROGRAM}END\n", folder, environment)
    link = re.search(r"^http://\S+/v1/files/default/photo\.jpg\?\S+$", printed, re.MULTILINE)
    assert link is not None, printed
    photo = (folder / "photo.jpg").read_bytes()
    assert (folder / "copy.jpg").read_bytes() == (folder / "restored.jpg").read_bytes() == photo
    assert httpx.get(link[0], trust_env=False).content == photo  # it needs no key
    assert re.search(r"^b'Hello' [0-9a-f]{64} http://\S+/v1/files/photos/hello\.txt\?\S+$", printed, re.MULTILINE), (
        printed
    )


@contextmanager
def running(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """`make run` in a terminal, from the moment that it is ready; ended by Ctrl-C."""
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        seen = ""
        try:
            while "Ctrl-C stops" not in seen:
                line = process.stdout.readline()
                assert line, seen
                seen += line
            print(seen)
            yield
        finally:
            # To make's own children as a terminal would: they are of one process group.
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() or [process.pid]:
                os.kill(int(child), signal.SIGINT)
            print(process.stdout.read())


@pytest.fixture
def environment(free_port_offset) -> dict[str, str]:
    outer = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "TRIVET_"))}  # noqa: TID251
    offset = free_port_offset()
    return outer | {
        "TRIVET_PORT_OFFSET": str(offset),
        # As the lines would find the usual ports.
        "TRIVET_URL": f"http://127.0.0.1:{8080 + offset}",
        "TRIVET_OPERATIONS_URL": f"http://127.0.0.1:{8090 + offset}",
        "TRIVET_NTP_SERVERS": "127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }


def test_the_lines_of_the_readme_work_as_they_stand(tmp_path: Path, environment) -> None:
    """Beside this checkout: in goes a photo, a node is killed, out it comes, and back after it was deleted."""
    (tmp_path / "photo.jpg").write_bytes(random_bytes(3_000_000))
    environment["TRIVET_LOCAL_DIR"] = str(tmp_path / ".local")
    environment["PATH"] = f"{PROJECT_ROOT}/.venv/bin:{environment['PATH']}"
    with running(["make", "run"], PROJECT_ROOT, environment):
        try_the_lines(tmp_path, environment)


@pytest.mark.slow
def test_the_commands_of_the_readme_work_on_a_fresh_machine(tmp_path: Path, environment) -> None:
    """A clone without .venv and .local; it installs what is locked, which needs the package index or a filled cache."""
    clone, run = COMMANDS.strip().splitlines()
    shell(clone.replace(REPOSITORY, str(PROJECT_ROOT)), tmp_path, environment)
    assert run == "make run"
    folder = tmp_path / "trivet"
    (folder / "photo.jpg").write_bytes(random_bytes(3_000_000))
    with running(["make", "run"], folder, environment):
        try_the_lines(folder, environment)
