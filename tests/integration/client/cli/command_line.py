"""The program `trivet`, called against a cluster: within this process, which is quick, or as one of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyte
import pytest

import trivet
from local_cluster.cluster import Cluster
from trivet.cli.main import run
from trivet.cli.session import Session

COMMAND = (sys.executable, "-m", "trivet.cli.main")


@dataclass(frozen=True)
class Answer:
    """What a call ended with and printed."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Of `--json`."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> dict[str, Any]:
        """Of `--json`, where there is one."""
        (row,) = self.rows
        return row

    @property
    def lines(self) -> list[list[str]]:
        """The fields of each line."""
        return [line.split("\t") for line in self.out.splitlines()]


class CommandLine:
    """Calls the program in `folder` against `cluster` with the root key."""

    def __init__(
        self, cluster: Cluster, folder: Path, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self.folder = folder
        self._capture = capture
        self._inherited = {name: value for name in ("PATH", "HOME") if (value := os.getenv(name))}
        self.environment = {
            "TRIVET_URL": cluster.gateway_url,
            "TRIVET_OPERATIONS_URL": cluster.operations_url("gateway-1"),
            "TRIVET_KEY": str(cluster.layout.root_key),
            "TRIVET_CONFIG": str(folder / "config.toml"),
            "XDG_STATE_HOME": str(folder / "state"),
            # The client of this tree, whatever is installed.
            "PYTHONPATH": str(Path(trivet.__file__).parents[1]),
            "NO_PROXY": "127.0.0.1",
            "TZ": "UTC",
            "TERM": "xterm-256color",
        }
        for name, value in self.environment.items():
            patch.setenv(name, value)
        patch.delenv("TRIVET_PROFILE", raising=False)
        patch.delenv("NO_COLOR", raising=False)
        patch.chdir(folder)

    @property
    def program(self) -> Path:
        """The program as a file that a shell can call, in a folder of its own."""
        path = self.folder.parent / "bin" / "trivet"
        if not path.exists():
            path.parent.mkdir()
            path.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
            path.chmod(0o755)
        return path

    def __call__(self, *arguments: str | Path, ends_with: int = 0) -> Answer:
        """Call it within this process."""
        self._capture.readouterr()
        code = run(Session(), [str(argument) for argument in arguments])
        answer = Answer(code, *self._capture.readouterr())
        assert code == ends_with, f"{arguments} ended with {code}\n{answer.out}{answer.err}"
        return answer

    def start(self, *arguments: str | Path, **settings: Any) -> subprocess.Popen[bytes]:
        """Call it as a process of its own, with pipes."""
        command = [*COMMAND, *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.folder, **settings)

    def process(self, *arguments: str | Path, stdin: bytes = b"", ends_with: int = 0) -> tuple[bytes, str]:
        """As `start`, to its end: what it wrote to standard output and to standard error."""
        with self.start(*arguments, stdin=subprocess.PIPE) as process:
            out, err = process.communicate(stdin, timeout=60)
        assert process.returncode == ends_with, err.decode()
        return out, err.decode()

    def terminal(
        self,
        *arguments: str | Path,
        columns: int = 80,
        lines: int = 50,
        environment: dict[str, str] | None = None,
        command: Sequence[str] = COMMAND,
        on_bytes: Callable[[Running, bytes], None] = lambda running, data: None,
    ) -> Screen:
        """Call it, or another `command`, on a terminal of that size.

        Gives what stands there at the end, and all that came, which `on_bytes` sees first.
        """
        pid, terminal = pty.fork()
        if pid == 0:
            # The size is there before the program asks for it.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            os.execvpe(
                command[0], [*command, *map(str, arguments)], self._inherited | self.environment | (environment or {})
            )
        screen = pyte.Screen(columns, lines)
        stream = pyte.ByteStream(screen)
        data = b""
        # The end of the other side is an error of input and output.
        with suppress(OSError):
            while piece := os.read(terminal, 65536):
                data += piece
                stream.feed(piece)
                on_bytes(Running(pid, terminal), piece)
        os.close(terminal)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        text = "\n".join(line.rstrip() for line in screen.display).rstrip() + "\n"
        return Screen(code, text, data)


@dataclass(frozen=True)
class Running:
    """A program on a terminal; `terminal` is what a person types into."""

    pid: int
    terminal: int


@dataclass(frozen=True)
class Screen:
    """What a terminal showed."""

    code: int
    text: str
    data: bytes
